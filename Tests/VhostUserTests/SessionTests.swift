import CLinux
import GuestMemory
import Linux
import Testing
import VhostUser
import Virtqueue

@Suite("A front-end and a device agree")
struct SessionTests {
  @Test("What is offered")
  func offers() throws {
    let peer = try FrontEnd()
    let features = try peer.word(.getFeatures)
    #expect(features == FrontEnd.transport | 1 << 1)
    #expect(features & VirtioFeature.ringPacked == 0)
    let expected: [UInt64] = [0, 3, 5, 9, 13, 15, 16, 18]
    #expect(try peer.word(.getProtocolFeatures) == expected.reduce(0) { $0 | 1 << $1 })
    #expect(try peer.word(.getQueueNum) == 2)
    #expect(try peer.word(.getMaxMemorySlots) >= 32)
    #expect(peer.reason == nil)
  }

  @Test("Features reach the device without the transport's own bit")
  func features() throws {
    let peer = try FrontEnd()
    try peer.handshake()
    let tolerated =
      VirtioFeature.notifyOnEmpty | VirtioFeature.anyLayout | VirtioFeature.ringReset
    try peer.send(.setFeatures, WordPayload(FrontEnd.transport | tolerated | 2).bytes)
    let bits = (FrontEnd.transport | tolerated | 2) & ~VirtioFeature.protocolFeatures
    #expect(peer.session?.features == bits)
    #expect(peer.device.diary == ["features " + String(bits, radix: 16)])
  }

  @Test(
    "Features that nobody can serve end the connection with their names",
    arguments: [
      (VirtioFeature.ringPacked, "RING_PACKED (bit 34)"),
      (VirtioFeature.accessPlatform, "ACCESS_PLATFORM (bit 33)"), (1 << 0, "bit 0"),
    ])
  func unsupported(bit: UInt64, name: String) throws {
    let peer = try FrontEnd()
    try peer.handshake()
    try peer.send(.setFeatures, WordPayload(FrontEnd.transport | bit).bytes)
    #expect(peer.reason == .unsupportedFeatures(name))
    #expect(peer.device.diary == ["disconnected"])
  }

  @Test("Acknowledgements come where they are asked for, and only then")
  func acks() throws {
    let peer = try FrontEnd()
    try peer.send(.setOwner, needReply: true)
    #expect(try peer.received() == [], "REPLY_ACK is not negotiated yet")
    try peer.handshake()
    #expect(try peer.ack(.setOwner) == 0)
    #expect(try peer.ack(.resetOwner) == 0)
    #expect(try peer.ack(.setFeatures, WordPayload(FrontEnd.transport).bytes) == 0)
    try peer.send(.setOwner)
    #expect(try peer.received() == [])
    let reply = try peer.ask(.getQueueNum, needReply: true)
    #expect(reply == WordPayload(2).bytes, "a reply is its own acknowledgement")
    // A failure is told before the connection ends.
    #expect(try peer.ack(.setFeatures, WordPayload(1 << 34).bytes) == 1)
    #expect(peer.reason == .unsupportedFeatures("RING_PACKED (bit 34)"))
  }

  @Test("Configuration is read exactly, and failures have no contents")
  func config() throws {
    let peer = try FrontEnd()
    try peer.handshake()
    func read(_ offset: UInt32, _ count: Int) throws -> [UInt8] {
      let blank = [UInt8](repeating: 0xaa, count: count)
      return try peer.ask(.getConfig, ConfigPayload(offset: offset, contents: blank).bytes)
    }
    #expect(try read(4, 3) == [4, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0, 4, 5, 6])
    #expect(try read(0, 16).count == 28)
    #expect(try read(0, 17) == [])
    #expect(try read(.max - 8, 4) == [])
    let write = ConfigPayload(offset: 4, contents: [1, 0]).bytes
    #expect(try peer.ack(.setConfig, write) == 0)
    #expect(peer.device.diary == ["config 4 [1, 0]"])
  }

  @Test("The status is kept and given back")
  func status() throws {
    let peer = try FrontEnd()
    try peer.handshake()
    try peer.send(.setStatus, WordPayload(0xb).bytes)
    #expect(try peer.word(.getStatus) == 0xb)
    #expect(peer.session?.status == 0xb)
    try peer.send(.setStatus, WordPayload(0).bytes)
    #expect(!peer.device.diary.contains("reset"), "a pause writes zero too")
  }

  @Test("Several descriptors of one memfd are one file")
  func memoryTable() throws {
    let peer = try FrontEnd()
    let guest = try Guest()
    try peer.share(guest)
    #expect(peer.memory.entries.count == 2)
    #expect(peer.memory.entries[0].file === peer.memory.entries[1].file)
    try peer.share(guest)
    #expect(peer.memory.entries.count == 2)
    let one = MemoryTable([Guest.regions[0]]).bytes
    try peer.send(.setMemoryTable, one, fds: [guest.file.raw])
    #expect(peer.device.diary == ["memory -0", "memory -0", "memory -1"])
    try peer.send(.setMemoryTable, MemoryTable([]).bytes)
    #expect(peer.memory.entries.isEmpty)
    #expect(peer.reason == nil)
  }

  @Test("Regions come and go one by one")
  func memorySlots() throws {
    let peer = try FrontEnd()
    let guest = try Guest()
    try peer.handshake()
    for region in Guest.regions {
      let payload = SingleRegion(region).bytes
      #expect(try peer.ack(.addMemoryRegion, payload, fds: [guest.file.raw]) == 0)
    }
    let first = SingleRegion(Guest.regions[0]).bytes
    #expect(try peer.ack(.addMemoryRegion, first, fds: [guest.file.raw]) == 1, "overlap")
    #expect(peer.reason == nil, "a refused region does not end an acknowledged connection")
    #expect(peer.log.text.last?.contains("overlaps") == true)
    #expect(try peer.ack(.removeMemoryRegion, first) == 0)
    #expect(try peer.ack(.removeMemoryRegion, first) == 1)
    let second = SingleRegion(Guest.regions[1]).bytes
    #expect(try peer.ack(.removeMemoryRegion, second, fds: [guest.file.raw]) == 0)
    #expect(peer.memory.entries.isEmpty)
    #expect(peer.device.diary == ["memory -0", "memory -0", "memory -1", "memory -1"])
    #expect(peer.memory.takeUncovered().isEmpty, "a device that asks for no list gets no long one")
  }

  @Test("A bad region ends a connection that asks for no acknowledgement")
  func badRegion() throws {
    let peer = try FrontEnd()
    let guest = try Guest()
    let region = MemoryRegion(
      guestAddress: 0, size: 0x20000, userAddress: Guest.user, fileOffset: 0x1000)
    try peer.send(.setMemoryTable, MemoryTable([region]).bytes, fds: [guest.file.raw])
    guard case .memory(let why)? = peer.reason else {
      Issue.record("\(String(describing: peer.reason))")
      return
    }
    #expect(why.contains("passes the end of its 131072 byte file"))
  }

  @Test("The display's socket is passed on, each time")
  func display() throws {
    let peer = try FrontEnd()
    for _ in 0..<2 {
      let pair = try UnixSocket.Pair(.stream)
      try peer.send(.gpuSetSocket, fds: [pair.first.raw])
      let display = try #require(peer.device.display)
      let byte: [UInt8] = [42]
      _ = try byte.withUnsafeBytes { try UnixSocket.send(display.raw, $0) }
      var bytes = [UInt8](repeating: 0, count: 2)
      var fds: [CInt] = []
      let got = bytes.withUnsafeMutableBytes {
        try? UnixSocket.receive(pair.second.raw, into: $0, fds: &fds, dontWait: true).count
      }
      #expect(got == 1 && bytes[0] == 42)
    }
    #expect(peer.device.diary == ["display", "display"])
    let guest = try Guest()
    try peer.send(.gpuSetSocket, fds: [guest.kick.raw])
    #expect(peer.reason == .badDescriptor("gpuSetSocket", nil))
  }

  @Test("A channel for our own requests is kept")
  func backendChannel() throws {
    let peer = try FrontEnd()
    try peer.handshake()
    let pair = try UnixSocket.Pair(.stream)
    #expect(try peer.ack(.setBackendRequestFD, fds: [pair.first.raw]) == 0)
    #expect(peer.session?.backendChannel != nil)
  }

  @Test("A front-end that never reads its replies is not served for ever")
  func repliesNotRead() throws {
    let peer = try FrontEnd()
    let ask = VhostUserMessage(.getFeatures).encoded
    var sent = 0
    // The socket fills up with replies, then with requests: neither side grows without bound.
    while sent < 100_000 {
      do { try peer.sendNow(ask) } catch { break }
      sent += 1
      if sent % 64 == 0 { try peer.spin() }
    }
    #expect(sent < 100_000)
    #expect(peer.reason == nil)
    var replies = 0
    for _ in 0..<100 {
      replies += try peer.received().count
      try peer.spin()
    }
    #expect(replies == sent * 20, "each request that was taken has been answered")
  }
}
