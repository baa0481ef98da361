import CLinux
import Glibc
import GuestMemory
import Linux
import Testing
import VhostUser
import Virtqueue

@Suite("Front-ends that break the protocol")
struct HostileFrontEndTests {
  struct Case: CustomTestStringConvertible, Sendable {
    var request: FrontEndRequest
    var payload: [UInt8] = []
    var fds = 0
    let expected: VhostUserError
    var testDescription: String { "\(request): \(expected)" }
  }

  static func state(_ index: UInt32, _ num: UInt32) -> [UInt8] {
    VringState(index: index, num: num).bytes
  }
  static func bad(_ what: String, _ size: Int) -> VhostUserError { .badPayload(what, size: size) }
  static let region = MemoryRegion(guestAddress: 0, size: 1, userAddress: 0, fileOffset: 0)
  static let ring = VringAddress(index: 2, Guest.ring).bytes

  static let cases: [Case] = [
    Case(request: .getFeatures, payload: [0], expected: bad("getFeatures", 1)),
    Case(request: .setOwner, fds: 1, expected: .badDescriptorCount("setOwner", count: 1)),
    Case(request: .setFeatures, payload: [1, 2, 3], expected: bad("setFeatures", 3)),
    Case(
      request: .setProtocolFeatures, payload: WordPayload(1 << 1).bytes,
      expected: .unsupportedFeatures("protocol bit 1")),
    Case(
      request: .setProtocolFeatures, payload: WordPayload(1 << 8).bytes,
      expected: .unsupportedFeatures("protocol bit 8")),
    Case(request: .setStatus, payload: WordPayload(256).bytes, expected: bad("setStatus", 8)),
    Case(
      request: .setMemoryTable, payload: MemoryTable([region]).bytes,
      expected: .badDescriptorCount("setMemoryTable", count: 0)),
    Case(
      request: .setMemoryTable, payload: MemoryTable([region]).bytes, fds: 2,
      expected: .badDescriptorCount("setMemoryTable", count: 2)),
    Case(
      request: .setMemoryTable, payload: [9, 0, 0, 0, 0, 0, 0, 0], fds: 1,
      expected: bad("setMemoryTable", 8)),
    Case(request: .addMemoryRegion, payload: [0], fds: 1, expected: bad("addMemoryRegion", 1)),
    Case(
      request: .addMemoryRegion, payload: SingleRegion(region).bytes,
      expected: .badDescriptorCount("addMemoryRegion", count: 0)),
    Case(
      request: .removeMemoryRegion, payload: SingleRegion(region).bytes, fds: 2,
      expected: .badDescriptorCount("removeMemoryRegion", count: 2)),
    Case(request: .setVringNum, payload: state(0, 0), expected: bad("setVringNum", 8)),
    Case(request: .setVringNum, payload: state(0, 2048), expected: bad("setVringNum", 8)),
    Case(
      request: .setVringNum, payload: state(2, 16),
      expected: .noSuchQueue("setVringNum", index: 2)),
    Case(request: .setVringBase, payload: state(0, 65536), expected: bad("setVringBase", 8)),
    Case(request: .setVringEnable, payload: state(0, 2), expected: bad("setVringEnable", 8)),
    Case(
      request: .getVringBase, payload: state(.max, 0),
      expected: .noSuchQueue("getVringBase", index: .max)),
    Case(
      request: .setVringAddress, payload: ring,
      expected: .noSuchQueue("setVringAddress", index: 2)),
    Case(
      request: .setVringAddress, payload: Array(ring.dropLast()),
      expected: bad("setVringAddress", 39)),
    Case(
      request: .setVringKick, payload: VringDescriptor(index: 0).bytes,
      expected: .badDescriptorCount("setVringKick", count: 0)),
    Case(
      request: .setVringCall, payload: VringDescriptor(index: 0, hasDescriptor: false).bytes,
      fds: 1, expected: .badDescriptorCount("setVringCall", count: 1)),
    Case(
      request: .setVringError, payload: VringDescriptor(index: 9).bytes, fds: 1,
      expected: .noSuchQueue("setVringError", index: 9)),
    Case(
      request: .getConfig, payload: [0, 0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0],
      expected: bad("getConfig", 12)),
    Case(
      request: .getConfig, payload: [0, 0, 0, 0, 1, 1, 0, 0, 0, 0, 0, 0] + Array(0...255) + [0],
      expected: bad("getConfig", 269)),
    Case(
      request: .gpuSetSocket, expected: .badDescriptorCount("gpuSetSocket", count: 0)),
    Case(
      request: .setBackendRequestFD, fds: 1,
      expected: .badDescriptor("setBackendRequestFD", nil)),
    Case(request: .setLogBase, expected: .notOffered(request: 6)),
    Case(request: .getInflightFD, expected: .notOffered(request: 31)),
    Case(request: .postcopyListen, expected: .notOffered(request: 29)),
  ]

  @Test("Each fault has its name and ends the connection", arguments: cases)
  func faults(_ fault: Case) throws {
    let peer = try FrontEnd()
    try peer.handshake()
    let witness = try Witness()
    let fds = [CInt](repeating: witness.fd.raw, count: fault.fds)
    try peer.send(fault.request, fault.payload, fds: fds)
    #expect(peer.reason == fault.expected)
    #expect(peer.session?.isOpen == false)
    #expect(witness.copies == 0, "received descriptors are closed")
  }

  @Test("Headers that cannot be")
  func headers() throws {
    func reason(_ header: VhostUserHeader) throws -> VhostUserError? {
      let peer = try FrontEnd()
      var writer = WireWriter()
      writer.u32(header.request)
      writer.u32(header.flags)
      writer.u32(header.payloadSize)
      try peer.sendRaw(writer.bytes)
      try peer.spin()
      return peer.reason
    }
    func header(_ request: UInt32, _ flags: UInt32, _ size: UInt32) -> VhostUserHeader {
      VhostUserHeader(request: request, flags: flags, payloadSize: size)
    }
    #expect(try reason(header(1, 0, 0)) == .badFlags(0))
    #expect(try reason(header(1, 2, 0)) == .badFlags(2))
    #expect(try reason(header(1, 5, 0)) == .badFlags(5))
    #expect(try reason(header(2, 1, 4097)) == .tooLarge(request: 2, size: 4097))
    #expect(try reason(header(2, 1, .max)) == .tooLarge(request: 2, size: .max))
    #expect(try reason(header(0, 1, 0)) == .notOffered(request: 0))
    #expect(try reason(header(.max, 1, 0)) == .notOffered(request: .max))
  }

  @Test("Descriptors travel with the first byte only, and not more than eight")
  func strayDescriptors() throws {
    let witness = try Witness()
    let message = VhostUserMessage(.setVringKick, VringDescriptor(index: 0).bytes).encoded
    for split in 1..<message.count {
      let peer = try FrontEnd()
      try peer.sendRaw(Array(message[..<split]))
      try peer.spin()
      try peer.sendRaw(Array(message[split...]), fds: [witness.fd.raw])
      try peer.spin()
      #expect(peer.reason == .strayDescriptors)
    }
    let peer = try FrontEnd()
    try peer.send(.setOwner, fds: [CInt](repeating: witness.fd.raw, count: 9))
    #expect(peer.reason == .strayDescriptors)
    #expect(witness.copies == 0)
  }

  @Test("Messages may arrive byte by byte, and many at once")
  func pieces() throws {
    let peer = try FrontEnd()
    for byte in VhostUserMessage(.getQueueNum).encoded {
      #expect(try peer.received() == [])
      try peer.sendRaw([byte])
      try peer.spin()
    }
    #expect(try peer.received().count == 20)
    try peer.sendRaw((0..<100).flatMap { _ in VhostUserMessage(.getQueueNum).encoded })
    for _ in 0..<20 { try peer.spin() }
    #expect(try peer.received().count == 2000)
  }

  /// All that QEMU sends until a ring runs, with a descriptor per message that has one.
  private func script(_ witness: Witness) -> [(bytes: [UInt8], fds: [CInt])] {
    let fd = witness.event.raw
    let event = VringDescriptor(index: 0).bytes
    let word = WordPayload(FrontEnd.transport).bytes
    let messages: [(VhostUserMessage, [CInt])] = [
      (VhostUserMessage(.getFeatures), []),
      (VhostUserMessage(.getProtocolFeatures), []),
      (
        VhostUserMessage(
          .setProtocolFeatures, WordPayload(ProtocolFeatures.offered.rawValue).bytes), []
      ),
      (VhostUserMessage(.setOwner), []),
      (VhostUserMessage(.setVringCall, event), [fd]),
      (VhostUserMessage(.setBackendRequestFD), [witness.socket.raw]),
      (VhostUserMessage(.gpuSetSocket), [witness.socket.raw]),
      (VhostUserMessage(.setFeatures, word), []),
      (
        VhostUserMessage(.setMemoryTable, MemoryTable(Guest.regions).bytes),
        [witness.memory.raw, witness.memory.raw]
      ),
      (VhostUserMessage(.setVringNum, Self.state(0, 16)), []),
      (VhostUserMessage(.setVringBase, Self.state(0, 0)), []),
      (VhostUserMessage(.setVringAddress, VringAddress(index: 0, Guest.ring).bytes), []),
      (VhostUserMessage(.setVringError, event), [fd]),
      (VhostUserMessage(.setVringKick, event), [fd]),
      (VhostUserMessage(.setVringEnable, Self.state(0, 1)), []),
      (VhostUserMessage(.getVringBase, needReply: true, Self.state(0, 0)), []),
    ]
    return messages.map { ($0.0.encoded, $0.1) }
  }

  @Test("A front-end that leaves at any byte leaves nothing open")
  func everyPrefix() throws {
    let witness = try Witness()
    let script = script(witness)
    let total = script.reduce(0) { $0 + $1.bytes.count }
    for length in 0...total {
      let peer = try FrontEnd()
      var left = length
      for message in script where left > 0 {
        let part = min(left, message.bytes.count)
        try peer.sendRaw(Array(message.bytes[..<part]), fds: message.fds)
        left -= part
      }
      try peer.spin()
      try peer.disconnect()
      let atBoundary = peer.reason == .frontEndClosed
      #expect(atBoundary || peer.reason == .truncated, "\(length) bytes")
      #expect(peer.device.diary.last == "disconnected")
      peer.device.display = nil
      #expect(peer.session?.isOpen == false)
      guard witness.copies == 0 else {
        Issue.record("\(witness.copies) descriptors left open after \(length) bytes")
        return
      }
    }
  }

  @Test("Random messages never do harm")
  func garbage() throws {
    var random = Seeded()
    let seed = random.seed
    print("random front-end: seed \(seed)")
    let witness = try Witness()
    let script = script(witness)
    var accepted = 0
    for round in 0..<600 {
      let peer = try FrontEnd()
      let file = peer.device
      for _ in 0..<Int.random(in: 1...24, using: &random) where peer.reason == nil {
        guard var (bytes, fds) = script.randomElement(using: &random) else { continue }
        switch Int.random(in: 0..<6, using: &random) {
        case 0:
          bytes[Int.random(in: 0..<bytes.count, using: &random)] = UInt8.random(
            in: 0...255, using: &random)
        case 1: bytes.removeLast(Int.random(in: 0..<bytes.count, using: &random))
        case 2: bytes += (0..<20).map { _ in UInt8.random(in: 0...255, using: &random) }
        default: accepted += 1
        }
        if Int.random(in: 0..<12, using: &random) == 0 { fds.append(witness.fd.raw) }
        if bytes.isEmpty { continue }
        try peer.sendRaw(bytes, fds: fds)
        try peer.spin()
      }
      try peer.disconnect()
      #expect(peer.session?.isOpen == false, "seed \(seed) round \(round)")
      file.display = nil
      guard witness.copies == 0 else {
        Issue.record("seed \(seed) round \(round): \(witness.copies) descriptors left open")
        return
      }
    }
    #expect(accepted > 500)
  }
}

/// Descriptors to send away, whose copies in this process can be counted.
final class Witness {
  let fd: SharedFD
  let memory: SharedFD
  let socket: SharedFD
  let event: SharedFD
  private let ids: Set<[UInt64]>

  init() throws {
    fd = SharedFD(try UnixSocket.Pair(.seqpacket).takeFirst())
    memory = SharedFD(try MemFD.create("guest", size: 0x20000))
    socket = SharedFD(try UnixSocket.Pair(.stream).takeFirst())
    event = SharedFD(OwnedFD(adopting: try check(ph_eventfd(0), "eventfd")))
    ids = Set(
      try [fd, memory, socket].map {
        let identity = try FileFacts(of: $0.raw).identity
        return [identity.device, identity.inode]
      })
  }

  /// How many descriptors beside our own four lead to these files.
  var copies: Int {
    var facts = stat()
    let ours = eventID(event.raw)
    return (0..<1024 as Range<CInt>).count { fd in
      guard fstat(fd, &facts) == 0 else { return false }
      return ids.contains([UInt64(facts.st_dev), UInt64(facts.st_ino)])
        || facts.st_mode & S_IFMT == 0 && eventID(fd) == ours
    } - 4
  }

  /// What /proc tells an eventfd by; eventfds have no inodes of their own.
  private func eventID(_ fd: CInt) -> String? {
    guard let info = fopen("/proc/self/fdinfo/\(fd)", "re") else { return nil }
    defer { fclose(info) }
    var line = [CChar](repeating: 0, count: 256)
    while fgets(&line, 256, info) != nil {
      let text = String(
        decoding: line.prefix { $0 != 0 }.map { UInt8(bitPattern: $0) }, as: UTF8.self)
      if text.hasPrefix("eventfd-id") { return text }
    }
    return nil
  }
}

extension UnixSocket.Pair {
  consuming func takeFirst() throws(Errno) -> OwnedFD { try first.duplicate() }
}

/// Random numbers that a printed seed brings back (xorshift64*).
struct Seeded: RandomNumberGenerator {
  private var state: UInt64
  let seed: UInt64

  init(_ seed: UInt64 = UInt64.random(in: 1...UInt64.max)) {
    self.seed = seed
    state = seed | 1
  }

  mutating func next() -> UInt64 {
    state ^= state >> 12
    state ^= state << 25
    state ^= state >> 27
    return state &* 0x2545_F491_4F6C_DD1D
  }
}
