import CLinux
import Glibc
import GuestMemory
import Linux
import Logging
import Testing
import VhostUser
import Virtqueue

/// The front-end's end of a connection, and the session at the other, in one thread.
final class FrontEnd {
  let device = FakeDevice()
  let memory = GuestMemory()
  let loop: EventLoop
  let log = LogBook.Lines()
  private(set) var session: VhostUserSession?
  private(set) var reason: VhostUserError?
  fileprivate var socket: SharedFD?

  init() throws {
    loop = try EventLoop()
    try connect()
  }

  var logger: Logger { Logger(label: "test") { [log] _ in LogBook(lines: log) } }

  func connect() throws {
    let pair = try UnixSocket.Pair(.stream)
    var near: SharedFD?
    var far: SharedFD?
    pair.split {
      near = SharedFD($0)
      far = SharedFD($1)
    }
    socket = near
    reason = nil
    session = try VhostUserSession(
      try #require(far).duplicate(), device: device, memory: memory, loop: loop, logger: logger
    ) { [unowned self] in reason = $0 }
    session?.displaySocketArrived = { [device] in device.displaySocket($0) }
  }

  /// Leaves, and waits until the session has noticed: a parallel test that looks at our
  /// descriptor at this moment may keep the socket open a little longer.
  func disconnect() throws {
    socket = nil
    let deadline = Clock.now + 20_000_000_000
    while reason == nil, Clock.now < deadline { try loop.turn(timeout: 100) }
  }

  /// Lets the session do all it can.
  func spin() throws { for _ in 0..<8 { try loop.turn(timeout: 0) } }

  func sendRaw(_ bytes: [UInt8], fds: [CInt] = []) throws {
    let socket = try #require(socket)
    let sent = try bytes.withUnsafeBytes { try UnixSocket.send(socket.raw, $0, fds: fds) }
    #expect(sent == bytes.count)
  }

  func send(_ message: VhostUserMessage, fds: [CInt] = []) throws {
    try sendRaw(message.encoded, fds: fds)
    try spin()
  }

  func send(
    _ request: FrontEndRequest, _ payload: [UInt8] = [], needReply: Bool = false,
    fds: [CInt] = []
  ) throws {
    try send(VhostUserMessage(request, needReply: needReply, payload), fds: fds)
  }

  /// All that the session has sent, as it came.
  func received() throws -> [UInt8] {
    let socket = try #require(socket)
    var bytes = [UInt8](repeating: 0, count: 65536)
    var fds: [CInt] = []
    let count = bytes.withUnsafeMutableBytes { p in
      try? UnixSocket.receive(socket.raw, into: p, fds: &fds, dontWait: true).count
    }
    #expect(fds.isEmpty)
    return Array(bytes[..<(count ?? 0)])
  }

  /// What the session has sent, with its descriptors.
  func receive(into bytes: inout [UInt8], _ fds: inout [CInt]) throws -> Int {
    let socket = try #require(socket)
    return try bytes.withUnsafeMutableBytes { p in
      try UnixSocket.receive(socket.raw, into: p, fds: &fds, dontWait: true).count
    }
  }

  /// Sends a request and returns its reply's payload, whose header must be right.
  func ask(
    _ request: FrontEndRequest, _ payload: [UInt8] = [], needReply: Bool = false,
    fds: [CInt] = []
  ) throws -> [UInt8] {
    try send(request, payload, needReply: needReply, fds: fds)
    let bytes = try received()
    try #require(bytes.count >= 12, "no reply to \(request): \(String(describing: reason))")
    let header = VhostUserHeader(Array(bytes[..<12]))
    #expect(header.request == request.rawValue)
    #expect(header.flags == 0x5)
    #expect(Int(header.payloadSize) == bytes.count - 12)
    return Array(bytes[12...])
  }

  func word(_ request: FrontEndRequest, _ payload: [UInt8] = []) throws -> UInt64 {
    try #require(WordPayload(try ask(request, payload))).value
  }

  /// The answer to a request with need_reply: zero for success.
  func ack(
    _ request: FrontEndRequest, _ payload: [UInt8] = [], fds: [CInt] = []
  ) throws -> UInt64 {
    try #require(WordPayload(try ask(request, payload, needReply: true, fds: fds))).value
  }
}

/// A memfd with a ring in it, and its eventfds: what a front-end has to offer.
final class Guest {
  static let user: UInt64 = 0x7f00_0000_0000
  static let ring = RingAddresses(
    descriptors: user, available: user + 0x1000, used: user + 0x2000)
  static let size: UInt16 = 16

  let file: SharedFD
  let raw: UnsafeMutableRawPointer
  let mapping: Mapping
  let kick: SharedFD
  let call: SharedFD
  let error: SharedFD
  var available: UInt16 = 0

  init() throws {
    file = SharedFD(try MemFD.create("guest", size: 0x20000))
    mapping = try Mapping(fd: file.raw, offset: 0, count: 0x20000, writable: true)
    raw = mapping.base
    func event() throws -> SharedFD {
      SharedFD(OwnedFD(adopting: try check(ph_eventfd(0), "eventfd")))
    }
    kick = try event()
    call = try event()
    error = try event()
  }

  /// Two regions of the one file, as QEMU sends memory below and above a hole.
  static let regions = [
    MemoryRegion(guestAddress: 0, size: 0x10000, userAddress: user, fileOffset: 0),
    MemoryRegion(
      guestAddress: 0x100_0000, size: 0x10000, userAddress: user + 0x100_0000,
      fileOffset: 0x10000),
  ]

  func describe(
    _ index: UInt16, _ address: UInt64, _ count: UInt32, _ flags: UInt16 = 0, next: UInt16 = 0
  ) {
    let entry = raw + 16 * Int(index)
    entry.storeBytes(of: address, as: UInt64.self)
    entry.storeBytes(of: count, toByteOffset: 8, as: UInt32.self)
    entry.storeBytes(of: flags, toByteOffset: 12, as: UInt16.self)
    entry.storeBytes(of: next, toByteOffset: 14, as: UInt16.self)
  }

  /// Makes a request of four bytes in one region, to be answered in the other.
  func request(_ value: UInt32, kick: Bool = true) {
    (raw + 0x4000).storeBytes(of: value, as: UInt32.self)
    describe(0, 0x4000, 4, 1, next: 1)
    describe(1, 0x100_0000, 4, 2)
    offer(0, kick: kick)
  }

  func offer(_ head: UInt16, kick: Bool = true) {
    (raw + 0x1004 + 2 * Int(available % Self.size)).storeBytes(of: head, as: UInt16.self)
    available &+= 1
    (raw + 0x1002).storeBytes(of: available, as: UInt16.self)
    if kick { _ = ph_eventfd_signal(self.kick.raw) }
  }

  func clearRing() {
    (raw + 0x1000).initializeMemory(as: UInt8.self, repeating: 0, count: 0x2000)
    available = 0
  }

  var answer: UInt32 { (raw + 0x10000).load(as: UInt32.self) }
  var usedIndex: UInt16 { (raw + 0x2002).load(as: UInt16.self) }
  var wasInterrupted: Bool { ph_drain(call.raw) > 0 }
}

extension FrontEnd {
  static let transport =
    VirtioFeature.version1 | VirtioFeature.eventIndex | VirtioFeature.indirectDescriptors
    | VirtioFeature.protocolFeatures

  /// What QEMU says when it starts.
  func handshake() throws {
    _ = try ask(.getFeatures)
    _ = try ask(.getProtocolFeatures)
    try send(.setProtocolFeatures, WordPayload(ProtocolFeatures.offered.rawValue).bytes)
    try send(.setOwner)
  }

  func share(_ guest: Guest) throws {
    let table = MemoryTable(Guest.regions).bytes
    try send(.setMemoryTable, table, fds: [guest.file.raw, guest.file.raw])
  }

  /// What QEMU says when the guest's driver is ready.
  func start(
    _ guest: Guest, queue: UInt32 = 0, base: UInt16 = 0,
    features: UInt64 = FrontEnd.transport, enable: Bool = true
  ) throws {
    try send(.setFeatures, WordPayload(features).bytes)
    try share(guest)
    try setUpRing(guest, queue: queue, base: base)
    if enable { try send(.setVringEnable, VringState(index: queue, num: 1).bytes) }
  }

  func setUpRing(_ guest: Guest, queue: UInt32 = 0, base: UInt16 = 0) throws {
    let fd = VringDescriptor(index: queue).bytes
    try send(.setVringCall, fd, fds: [guest.call.raw])
    try send(.setVringError, fd, fds: [guest.error.raw])
    try send(.setVringNum, VringState(index: queue, num: UInt32(Guest.size)).bytes)
    try send(.setVringBase, VringState(index: queue, num: UInt32(base)).bytes)
    try send(.setVringAddress, VringAddress(index: queue, Guest.ring).bytes)
    try send(.setVringKick, fd, fds: [guest.kick.raw])
  }

  func getVringBase(_ queue: UInt32 = 0) throws -> UInt32 {
    let reply = try ask(.getVringBase, VringState(index: queue, num: 0).bytes)
    let state = try #require(VringState(reply))
    #expect(state.index == queue)
    return state.num
  }
}

extension FrontEnd {
  /// Sends without waiting; throws where the socket is full.
  func sendNow(_ bytes: [UInt8]) throws {
    let socket = try #require(socket)
    let result = bytes.withUnsafeBytes { p in
      Result { () throws(Errno) in try UnixSocket.send(socket.raw, p, dontWait: true) }
    }
    #expect(try result.get() == bytes.count)
  }
}
