import Glibc
import Linux
import RenderWire
import Testing

@testable import Rendering

/// What may take how long, and what is an excuse.
@Suite struct RequestClockTests {
  /// The timer is looked at, so that nobody has to wait for it.
  @Test func aRendererHasAMinuteToStartIn() throws {
    let loop = try EventLoop()
    var link: RenderLink?
    var theirs: OwnedFD?
    let before = Clock.now
    try UnixSocket.Pair(.seqpacket).split { first, second in
      link = try? RenderLink(first, on: loop, deadline: 10_000_000_000)
      theirs = consume second
    }
    let due = before + 60_000_000_000...Clock.now + 60_000_000_000
    #expect(link != nil && due.contains(loop.nextDue))
    _ = theirs.take()
  }

  @Test func nothingThatIsAskedTakesNoTime() {
    var clock = RequestClock()
    #expect(clock.since == nil)
    let fence = clock.asked(isFence: true, at: 5)
    _ = clock.asked(isFence: false, at: 6)
    clock.answered(fence: fence, at: 7)
    clock.answeredOperation(at: 8)
    #expect(clock.since == nil)
  }

  @Test func operationsHaveTheirTimeOneAfterAnother() {
    var clock = RequestClock()
    for now in UInt64(1)...3 { _ = clock.asked(isFence: false, at: now) }
    #expect(clock.since == 1)
    clock.answeredOperation(at: 50)
    #expect(clock.since == 50)
    clock.answeredOperation(at: 90)
    #expect(clock.since == 90)
    clock.answeredOperation(at: 91)
    _ = clock.asked(isFence: false, at: 200)
    #expect(clock.since == 200)
    clock.postpone(to: 300)
    #expect(clock.since == 300)
  }

  /// It begins when all before it is answered; what is younger is no excuse.
  @Test func aFenceIsLateWhateverElseIsAnswered() {
    var clock = RequestClock()
    _ = clock.asked(isFence: false, at: 1)
    let fence = clock.asked(isFence: true, at: 2)
    #expect(clock.since == 1)
    clock.answeredOperation(at: 100)
    for now in stride(from: UInt64(110), to: 1000, by: 10) {
      _ = clock.asked(isFence: false, at: now)
      clock.answeredOperation(at: now + 5)
      let younger = clock.asked(isFence: true, at: now + 6)
      clock.answered(fence: younger, at: now + 7)
      #expect(clock.since == 100)
    }
    clock.answered(fence: fence, at: 2000)
    #expect(clock.since == nil)
  }

  /// Many of them that take long each are no late last one.
  @Test func fencesHaveTheirTimeOneAfterAnother() {
    var clock = RequestClock()
    let fences = (1...3).map { clock.asked(isFence: true, at: $0) }
    clock.answered(fence: fences[0], at: 500)
    #expect(clock.since == 500)
    // Out of order.
    clock.answered(fence: fences[2], at: 600)
    #expect(clock.since == 500)
    clock.answered(fence: fences[1], at: 700)
    #expect(clock.since == nil)
  }

  @Test func anOperationIsLateWhateverFencesAreAnswered() {
    var clock = RequestClock()
    _ = clock.asked(isFence: false, at: 1)
    let fence = clock.asked(isFence: true, at: 2)
    clock.answered(fence: fence, at: 900)
    #expect(clock.since == 1)
  }

  // MARK: On a link

  /// A fence that never retires, while all else is answered.
  @Test func aFenceThatNeverRetiresEndsTheLink() throws {
    let liar = try Liar(deadline: 20_000_000)
    try liar.greet()
    liar.ask(.fence)
    let bound = Clock.now + 60_000_000_000
    var id: UInt32 = 2
    while liar.end == nil, Clock.now < bound {
      id += 1
      liar.ask(.dropFile(1))
      try liar.say(RenderAnswer.done(error: 0).packet(id: id))
      try liar.loop.turn(timeout: 1)
    }
    #expect(liar.end == .late(20_000_000))
    #expect(liar.outcomes.last == .lost)
  }

  /// The kernel is short of something for a while, and the socket is writable all the time: what was
  /// asked is sent later, with its descriptor and in order.
  @Test(arguments: [ETOOMANYREFS, ENOMEM, ENOBUFS])
  func whatTheKernelHasNoRoomForIsSentLater(_ error: CInt) throws {
    var left = 0
    let liar = try Liar { (socket, packet, fds) throws(Errno) in
      guard left == 0 else {
        left -= 1
        throw Errno(error, "sendmsg")
      }
      try RenderLink.transmit(socket, packet, fds)
    }
    try liar.greet()
    #expect(try liar.next()?.header.operation == RenderOpcode.setUp.rawValue)
    left = 3
    let file = SharedFD(try MemFD.create("file", size: 4096))
    liar.link.send(.addFile(1, size: 4096), gift: file) { _ in }
    liar.ask(.dropFile(1))
    var heard: [UInt32] = []
    let bound = Clock.now + 60_000_000_000
    while heard.count < 2, liar.end == nil, Clock.now < bound {
      guard let (header, fds) = try? liar.next() else {
        try liar.loop.turn(timeout: 100)
        continue
      }
      heard.append(header.operation)
      #expect(fds == (header.operation == RenderOpcode.addFile.rawValue ? 1 : 0))
    }
    #expect(left == 0)
    #expect(heard == [RenderOpcode.addFile.rawValue, RenderOpcode.dropFile.rawValue])
    #expect(liar.end == nil)
  }
}
