import Glibc
import Linux
import RenderWire
import Rendering
import Testing

@Suite struct LyingRendererTests {
  private static let ready = RenderAnswer.ready(RenderGreeting(isRecent: true, capsets: []))
    .packet(id: 0)

  /// Whether this process comes to have one descriptor of a file alone: what came is closed by
  /// threads of their own, where there are some. Other tests open and close others meanwhile.
  private func isLastOf(_ file: CInt) throws -> Bool {
    let identity = try FileFacts(of: file).identity
    func count() -> Int {
      (0..<CInt(1024)).count { (try? FileFacts(of: $0))?.identity == identity }
    }
    let bound = Clock.now + 10_000_000_000
    while count() > 1, Clock.now < bound { usleep(1000) }
    return count() == 1
  }

  @Test(arguments: [
    [], [1, 2, 3], Array(repeating: 0xff, count: 16), Array(repeating: 0, count: 4096),
    RenderAnswer.done(error: 0).packet(id: 1) + [0],
    RenderAnswer.ready(RenderGreeting(version: 9, isRecent: true, capsets: [])).packet(id: 0),
    RenderAnswer.done(error: 0).packet(id: 1),
  ])
  func nonsenseInsteadOfAGreetingEndsTheLink(_ bytes: [UInt8]) throws {
    let liar = try Liar()
    liar.ask(.fence)
    try liar.say(bytes)
    #expect(liar.end != nil)
    #expect(liar.outcomes == [.lost])
  }

  @Test(arguments: [
    RenderAnswer.done(error: 0).packet(id: 3), RenderAnswer.done(error: 0).packet(id: 0),
    RenderAnswer.done(error: 0).packet(id: 99), ready, RenderAnswer.unable([65]).packet(id: 0),
  ])
  func answersOutOfTurnEndTheLink(_ bytes: [UInt8]) throws {
    let liar = try Liar()
    try liar.greet()
    liar.ask(.dropFile(1))
    liar.ask(.dropFile(2))
    try liar.say(bytes)
    #expect(liar.end != nil)
    #expect(liar.outcomes == [.lost, .lost])
  }

  @Test func answersTwiceEndTheLink() throws {
    let liar = try Liar()
    try liar.greet()
    liar.ask(.fence)
    try liar.say(RenderAnswer.done(error: 0).packet(id: 2))
    #expect(liar.outcomes == [.done])
    #expect(liar.end == nil)
    try liar.say(RenderAnswer.done(error: 0).packet(id: 2))
    #expect(liar.end == .broken("it answers what was not asked"))
  }

  @Test func surplusDescriptorsEndTheLinkAndAreClosed() throws {
    let liar = try Liar()
    try liar.greet()
    liar.ask(.fence)
    let gift = try MemFD.create("gift", size: 4096)
    try liar.say(RenderAnswer.done(error: 0).packet(id: 2), gifts: [gift.raw, gift.raw])
    #expect(liar.end == .broken("it sends what is no answer"))
    #expect(try isLastOf(gift.raw))
  }

  private static let twin = RenderTwin(stride: 256, offset: 0, modifier: 0)
  private static let picture = RenderPicture(
    width: 64, height: 32, stride: 256, fourcc: 0x3432_5258)

  /// Asks for a twin, as request 2, and what became of it; `.some(nil)` for none.
  private func askForATwin(_ liar: Liar) -> () -> RenderExport?? {
    final class Kept { var answer: RenderExport?? }
    let kept = Kept()
    liar.link.export(1, Self.picture) { kept.answer = .some($0) }
    return { kept.answer }
  }

  @Test func aTwinComesWithItsDescriptor() throws {
    let liar = try Liar()
    try liar.greet()
    let answer = askForATwin(liar)
    liar.ask(.dropFile(1))
    let gift = try MemFD.create("gift", size: 4096)
    try liar.say(RenderAnswer.exported(Self.twin).packet(id: 2), gifts: [gift.raw])
    let made = try #require(answer()?.flatMap { $0 })
    #expect(made.twin == Self.twin)
    #expect(try FileFacts(of: made.fd.raw).identity == FileFacts(of: gift.raw).identity)
    // Its close may wait for whoever sent it.
    #expect(made.fd.sender != .ourselves)
    try liar.say(RenderAnswer.done(error: 0).packet(id: 3))
    #expect(liar.end == nil && liar.outcomes == [.done])
  }

  @Test func noTwinIsAnAnswer() throws {
    let liar = try Liar()
    try liar.greet()
    let answer = askForATwin(liar)
    try liar.say(RenderAnswer.done(error: 19).packet(id: 2))
    #expect(answer().map { $0 == nil } == true)
    #expect(liar.end == nil)
  }

  /// No descriptor, two, one with another answer, one for another request, or one too early.
  @Test(arguments: [
    (RenderAnswer.exported(twin).packet(id: 2), 0), (RenderAnswer.exported(twin).packet(id: 2), 2),
    (RenderAnswer.done(error: 0).packet(id: 2), 0), (RenderAnswer.done(error: 0).packet(id: 2), 1),
    (RenderAnswer.done(error: 19).packet(id: 2), 1),
    (RenderAnswer.exported(twin).packet(id: 3), 1), (RenderAnswer.exported(twin).packet(id: 4), 1),
    (RenderAnswer.exported(twin).packet(id: 0), 1),
  ])
  func twinsThatAreNoneEndTheLinkAndAreClosed(_ bytes: [UInt8], _ gifts: Int) throws {
    let liar = try Liar()
    try liar.greet()
    let answer = askForATwin(liar)
    liar.ask(.dropFile(1))
    liar.ask(.fence)
    let gift = try MemFD.create("gift", size: 4096)
    try liar.say(bytes, gifts: .init(repeating: gift.raw, count: gifts))
    guard case .broken = liar.end else {
      Issue.record("it goes on: \(String(describing: liar.end))")
      return
    }
    #expect(answer().map { $0 == nil } == true)
    #expect(liar.outcomes == [.lost, .lost])
    #expect(try isLastOf(gift.raw))
  }

  @Test func aTwinBeforeTheGreetingEndsTheLink() throws {
    let liar = try Liar()
    let gift = try MemFD.create("gift", size: 4096)
    try liar.say(RenderAnswer.exported(Self.twin).packet(id: 1), gifts: [gift.raw])
    #expect(liar.end == .broken("it exports what was not asked for"))
  }

  @Test func aTwinForWhatAskedForNothingEndsTheLink() throws {
    let liar = try Liar()
    try liar.greet()
    liar.ask(.dropFile(1))
    let gift = try MemFD.create("gift", size: 4096)
    try liar.say(RenderAnswer.exported(Self.twin).packet(id: 2), gifts: [gift.raw])
    #expect(liar.end == .broken("it exports what was not asked for"))
    #expect(liar.outcomes == [.lost])
  }

  @Test func fencesMayBeAnsweredOutOfOrder() throws {
    let liar = try Liar()
    try liar.greet()
    var order: [String] = []
    liar.link.send(.fence) { _ in order.append("fence") }
    liar.link.send(.dropFile(1)) { _ in order.append("drop") }
    try liar.say(RenderAnswer.done(error: 0).packet(id: 3))
    try liar.say(RenderAnswer.done(error: 0).packet(id: 2))
    #expect(order == ["drop", "fence"])
    #expect(liar.link.unanswered == 0)
  }

  @Test func theReasonIsPrintable() throws {
    let liar = try Liar()
    try liar.say(RenderAnswer.unable([65, 27, 10, 0xff, 66]).packet(id: 0))
    #expect(liar.end == .unable("A???B"))
  }

  /// It may be gone before anything was sent to it: what it said first counts.
  @Test func theReasonIsReadAlsoFromOneThatIsGone() throws {
    let loop = try EventLoop()
    let near: OwnedFD
    do {
      let pair = try UnixSocket.Pair(.seqpacket)
      near = try pair.first.duplicate()
      let packet = RenderAnswer.unable(Array("no GL".utf8)).packet(id: 0)
      _ = try packet.withUnsafeBytes { try UnixSocket.send(pair.second.raw, $0) }
    }
    let link = try RenderLink(near, on: loop, deadline: 60_000_000_000)
    var end: RenderLink.End?
    link.onEnd = { end = $0 }
    try loop.turn(timeout: 1000)
    #expect(end == .unable("no GL"))
  }

  /// The same where it left what was asked unread.
  @Test func theReasonIsReadBehindAReset() throws {
    let loop = try EventLoop()
    let link: RenderLink
    do {
      let pair = try UnixSocket.Pair(.seqpacket)
      link = try RenderLink(try pair.first.duplicate(), on: loop, deadline: 60_000_000_000)
      let packet = RenderAnswer.unable(Array("no GL".utf8)).packet(id: 0)
      _ = try packet.withUnsafeBytes { try UnixSocket.send(pair.second.raw, $0) }
    }
    var end: RenderLink.End?
    link.onEnd = { end = $0 }
    link.drain()
    #expect(end == .unable("no GL"))
  }

  /// What nobody reads is kept, in order, and asks for patience.
  @Test func aFullSocketLosesNothing() throws {
    let liar = try Liar()
    try liar.greet()
    var answered: [Int] = []
    let bytes = [UInt8](repeating: 7, count: 60 << 10)
    for index in 0..<400 {
      liar.link.submit(
        context: 1, count: bytes.count, filling: { $0.copyBytes(from: bytes) },
        { _ in answered.append(index) })
    }
    #expect(liar.link.bytesWaiting > 16 << 20)
    var last: UInt32 = 0
    while answered.count < 400, liar.end == nil {
      guard let (header, _) = try? liar.next() else {
        try liar.loop.turn(timeout: 100)
        continue
      }
      #expect(header.id == last + 1)
      last = header.id
      if header.id > 1 { try liar.say(RenderAnswer.done(error: 0).packet(id: header.id)) }
    }
    #expect(answered == Array(0..<400))
    #expect(liar.link.bytesWaiting == 0)
  }

  @Test func descriptorsTravelWithTheirRequests() throws {
    let liar = try Liar()
    let first = try #require(try liar.next())
    #expect(first.header.operation == RenderOpcode.setUp.rawValue)
    #expect(first.fds == 1)
    try liar.greet()
    let file = SharedFD(try MemFD.create("file", size: 4096))
    liar.link.send(.addFile(1, size: 4096), gift: file) { _ in }
    #expect(try liar.next()?.fds == 1)
  }

  @Test func silenceEndsAtTheDeadline() throws {
    let liar = try Liar(deadline: 20_000_000)
    try liar.greet()
    liar.ask(.fence)
    while liar.end == nil { try liar.loop.turn(timeout: 1000) }
    #expect(liar.end == .late(20_000_000))
    #expect(liar.outcomes == [.lost])
  }

  @Test func leavingLosesWhatWaitsAndSaysNothing() throws {
    let liar = try Liar()
    try liar.greet()
    liar.ask(.fence)
    liar.link.leave()
    #expect(liar.outcomes == [.lost])
    #expect(liar.end == nil)
  }
}
