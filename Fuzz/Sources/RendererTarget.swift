import Linux
import RenderWire
import Rendering

/// A renderer that says anything to the daemon, which asks things of it all the time.
enum RendererTarget {
  /// What the bytes of an input mean.
  enum Step: UInt8, CaseIterable {
    /// Recent or not, a number of capability sets and their length.
    case ready
    case unable
    /// Answers the oldest request that it read, or the newest, or any number.
    case done
    /// Gifts, bytes as they are.
    case raw
    case ask
    /// A submission: kilobytes.
    case submit
    case read
    case turn
    case leave
    /// Answers the oldest request that it read with a twin, and any number of descriptors.
    case exported
  }

  static func run(_ input: consuming Input) throws {
    var input = input
    let bench = try RendererBench()
    for _ in 0..<256 where !input.isEmpty { try bench.step(&input) }
    bench.finish()
  }
}

/// A link and its far end, which counts what is asked and answered.
private final class RendererBench {
  private let loop: EventLoop
  private let peer: Peer
  private let link: RenderLink
  private var asked = 0
  private var answered = 0
  private var ends = 0
  private var left = false
  private var heard: [UInt32] = []
  private var lastHeard: UInt32 = 0

  init() throws {
    loop = try EventLoop()
    let pair = try UnixSocket.Pair(.seqpacket)
    peer = Peer(try pair.second.duplicate())
    link = try RenderLink(try pair.first.duplicate(), on: loop, deadline: 3_600_000_000_000)
    link.onEnd = { [unowned self] _ in ends += 1 }
    link.onReady = { claim($0.capsets.count <= RenderWire.mostCapsets, "too many capsets") }
  }

  func step(_ input: inout Input) throws {
    switch RendererTarget.Step(rawValue: input.u8() % UInt8(RendererTarget.Step.allCases.count)) {
    case .ready:
      let choice = input.u8()
      let set = RenderCapset(
        id: UInt32(choice), version: 1, data: .init(repeating: 1, count: Int(input.number() % 9000))
      )
      let greeting = RenderGreeting(
        version: choice & 0x40 == 0 ? RenderWire.version : 9, isRecent: choice & 0x80 != 0,
        capsets: .init(repeating: set, count: Int(choice & 15)))
      try peer.send(RenderAnswer.ready(greeting).packet(id: 0))
    case .unable: try peer.send(RenderAnswer.unable(input.take(Int(input.u8()))).packet(id: 0))
    case .done:
      let choice = input.u8()
      let id: UInt32
      if choice < 0xf0, !heard.isEmpty {
        id = choice < 0xc0 ? heard.removeFirst() : heard.removeLast()
      } else {
        id = input.number()
      }
      try peer.send(RenderAnswer.done(error: UInt32(input.u8() & 3)).packet(id: id))
    case .raw:
      let gifts = Peer.gifts(&input)
      try peer.send(input.take(Int(input.u16()) % 1100), gifts: gifts)
    case .ask: ask(&input)
    case .submit:
      let size = (Int(input.u8()) + 1) * (input.flag() ? 64 << 10 : 1024)
      asked += 1
      link.submit(context: 1, count: size, filling: { _ in }, { [unowned self] in count($0) })
    case .read: read(Int(input.u8()) % 64)
    case .turn: for _ in 0...(input.u8() & 7) { try loop.turn(timeout: 0) }
    case .leave, nil:
      left = left || ends == 0
      link.leave()
    case .exported:
      let id = heard.isEmpty ? input.number() : heard.removeFirst()
      let gifts = Peer.gifts(&input)
      let twin = RenderTwin(stride: input.number(), offset: input.number(), modifier: 0)
      try peer.send(RenderAnswer.exported(twin).packet(id: id), gifts: gifts)
    }
  }

  private func ask(_ input: inout Input) {
    asked += 1
    let picture = RenderPicture(width: 64, height: 64, stride: 256, fourcc: 0x3432_5258)
    let number = input.number()
    let request: RenderRequest =
      switch input.u8() % 5 {
      case 0: .fence
      case 1: .destroyResource(number)
      case 2:
        .attachBacking(
          number,
          .init(
            repeating: RenderRun(file: 1, offset: 0, count: 1), count: Int(input.number() % 20_000))
        )
      case 3: .createContext(number, capset: 2, name: input.take(Int(input.u8())))
      default: .exportPicture(number, picture)
      }
    guard request.opcode != .exportPicture else {
      link.export(number, picture) { [unowned self] made in count(made == nil ? .lost : .done) }
      return
    }
    link.send(request) { [unowned self] in count($0) }
  }

  private func count(_ outcome: RenderOutcome) {
    answered += 1
    claim(answered <= asked, "\(answered) answers to \(asked) requests")
  }

  private func read(_ count: Int) {
    for _ in 0..<count {
      guard let (bytes, fds) = peer.receive(limit: RenderWire.largestPacket) else { return }
      bytes.withUnsafeBytes { packet in
        guard let header = RenderHeader(packet),
          let opcode = RenderOpcode(rawValue: header.operation)
        else { return claim(false, "what was sent is no request") }
        claim(header.id == lastHeard &+ 1, "requests are out of order")
        lastHeard = header.id
        heard.append(header.id)
        let payload = UnsafeRawBufferPointer(rebasing: packet[RenderHeader.size...])
        if header.flags & RenderHeader.isInRing != 0 {
          claim(
            RingPlace(payload, ringSize: RenderWire.ringSize) != nil, "a place outside of the ring")
        } else {
          let request = RenderRequest(opcode, payload)
          claim(request != nil, "a request that cannot be read")
          claim(fds == request?.descriptors, "\(opcode) with \(fds) descriptors")
        }
      }
    }
  }

  func finish() {
    link.leave()
    claim(answered == asked, "\(answered) of \(asked) requests were answered")
    claim(ends <= 1 && (ends == 0 || !left), "a link ended \(ends) times")
    claim(link.unanswered == 0, "\(link.unanswered) requests wait for ever")
    peer.close()
  }
}

/// A renderer that behaves, and some that do not.
enum RendererSeeds {
  private typealias Step = RendererTarget.Step

  static var all: [String: [UInt8]] {
    [
      "work": start + ask + submit + read + done + done + done + [Step.leave.rawValue],
      "fences": start + fence + ask + fence + read + newest + done + newest,
      "large": start + large + large + large + read + done + read + done + read + done,
      "unable": [Step.ask.rawValue, 1, 0, Step.unable.rawValue, 3, 65, 66, 67] + turn,
      "dies": start + ask + fence + [Step.raw.rawValue, 0, 1, 0, 9] + turn,
      "twins": start + export + ask + export + read + exported(1) + done + exported(0) + turn,
      "two-twins": start + export + read + exported(2) + turn,
      "rubbish": start + ask + [Step.done.rawValue, 0xff, 77, 0] + turn,
    ]
  }

  private static let turn = [Step.turn.rawValue, 1]
  private static let read = [Step.read.rawValue, 60]
  private static let start: [UInt8] =
    [Step.ready.rawValue, 2, 200] + read + [Step.done.rawValue, 0, 0] + turn
  private static let ask: [UInt8] = [Step.ask.rawValue, 5, 1]
  private static let export: [UInt8] = [Step.ask.rawValue, 5, 4]
  private static func exported(_ gifts: UInt8) -> [UInt8] {
    [Step.exported.rawValue, gifts] + [UInt8](repeating: 0, count: Int(gifts)) + [128, 0] + turn
  }
  private static let fence: [UInt8] = [Step.ask.rawValue, 0, 0]
  private static let submit: [UInt8] = [Step.submit.rawValue, 3, 0]
  private static let large: [UInt8] = [Step.submit.rawValue, 200, 1]
  private static let done: [UInt8] = [Step.done.rawValue, 0, 0] + turn
  private static let newest: [UInt8] = [Step.done.rawValue, 0xc0, 0] + turn
}
