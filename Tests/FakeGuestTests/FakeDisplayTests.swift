import FakeGuest
import Glibc
import Linux
import Testing

/// Messages as docs/interop/vhost-user-gpu.rst lays them out, byte by byte.
@Suite struct FakeDisplayTests {
  private let display = FakeDisplay()
  private let socket: SharedFD

  init() throws { socket = SharedFD(try display.replaceSocket()) }

  private func send(_ request: UInt32, _ payload: [UInt8], fds: [CInt] = []) throws {
    let bytes = WireBytes(u32: request, 0, UInt32(payload.count)).bytes + payload
    let sent = try bytes.withUnsafeBytes { try UnixSocket.send(socket.raw, $0, fds: fds) }
    #expect(sent == bytes.count)
  }

  private func receive(_ count: Int) throws -> [UInt8] {
    var bytes: [UInt8] = []
    while bytes.count < count {
      var chunk = [UInt8](repeating: 0, count: count - bytes.count)
      var fds: [CInt] = []
      let got = try chunk.withUnsafeMutableBytes {
        try UnixSocket.receive(socket.raw, into: $0, fds: &fds).count
      }
      try #require(got > 0)
      bytes += chunk.prefix(got)
    }
    return bytes
  }

  private func settle(_ messages: Int) {
    #expect(display.wait { $0.messages.values.reduce(0, +) == messages })
  }

  @Test func whoLooksSlowlyLooksOnceMore() throws {
    var looks = 0
    let seen = display.wait(milliseconds: 1) { state in
      looks += 1
      if looks == 1 {
        // The picture comes, and the time is over, before the first look has ended.
        try? send(7, WireBytes(u32: 0, 4, 3).bytes)
        settle(1)
        usleep(2000)
      }
      return state.surfaces[0] != nil
    }
    #expect(seen && looks == 2)
  }

  @Test func questionsAreAnsweredAsQEMUDoes() throws {
    try send(1, [])
    #expect(try receive(20) == [1, 0, 0, 0, 4, 0, 0, 0, 8, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0])
    try send(2, WireBytes(u64: 1).bytes)
    try send(3, [])
    let info = try receive(12 + 408)
    #expect(WireBytes.read(info, 8, as: UInt32.self) == 408)
    #expect(WireBytes.read(info, 12, as: UInt32.self) == 0x1101)
    #expect((0..<4).map { WireBytes.read(info, 36 + 4 * $0, as: UInt32.self) } == [0, 0, 640, 480])
    #expect(WireBytes.read(info, 52, as: UInt32.self) == 1)
    #expect(WireBytes.read(info, 76, as: UInt32.self) == 0)
    try send(11, WireBytes(u32: 0).bytes)
    let edid = try receive(12 + 1056)
    #expect(WireBytes.read(edid, 36, as: UInt32.self) == 128)
    #expect(edid[44..<172].reduce(0) { $0 &+ $1 } == 0, "the checksum")
    settle(4)
    #expect(display.now.acknowledgedFeatures == 1)
    #expect(display.now.violations == [])
  }

  @Test func updatesLandWhereTheyBelong() throws {
    try send(7, WireBytes(u32: 0, 4, 3).bytes)
    try send(8, WireBytes(u32: 0, 1, 1, 2, 1, 0xaabbcc, 0x112233).bytes)
    settle(2)
    let surface = try #require(display.now.surfaces[0])
    #expect(surface.pixels == [0, 0, 0, 0, 0, 0xaabbcc, 0x112233, 0, 0, 0, 0, 0])
    #expect(surface.updates == 1)
    #expect(display.now.violations == [])
  }

  @Test func whatWouldBreakQEMUIsNoticed() throws {
    let pair = try UnixSocket.Pair(.stream)
    try send(8, WireBytes(u32: 0, 0, 0, 1, 1, 0).bytes)  // before SCANOUT
    try send(7, WireBytes(u32: 0, 4, 3).bytes)
    try send(8, WireBytes(u32: 0, 3, 0, 2, 1, 0, 0).bytes)  // past the edge
    try send(8, WireBytes(u32: 0, 0, 0, 2, 1, 0).bytes)  // a pixel is missing
    try send(7, WireBytes(u32: 0, 4, 3).bytes, fds: [pair.first.raw])  // a stray descriptor
    try send(4, WireBytes(u32: 0, 4).bytes)  // short
    try send(99, [])
    try send(10, WireBytes(u32: 0, 0, 0, 1, 1).bytes)  // no dma-buf
    settle(8)
    #expect(display.now.violations.count == 7, "\(display.now.violations)")
  }

  @Test func dmabufsComeAndGo() throws {
    let memory = try MemFD.create("picture", size: 4096)
    let scanout = WireBytes(u32: 1, 0, 0, 32, 32, 32, 32, 128, 0, 0x3432_5258)
    try send(12, scanout.bytes + WireBytes(u64: 0).bytes, fds: [memory.raw])
    try send(10, WireBytes(u32: 1, 0, 0, 32, 32).bytes)
    #expect(try receive(12) == [10, 0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0])
    let shown = try #require(display.now.surfaces[1]?.dmabuf)
    #expect(shown.stride == 128)
    #expect(shown.fourcc == 0x3432_5258)
    #expect(shown.modifier == 0)
    #expect(try FileFacts(of: shown.fd.raw).identity == FileFacts(of: memory.raw).identity)
    #expect(display.now.violations == [])
    try send(7, WireBytes(u32: 1, 0, 0).bytes)
    settle(3)
    #expect(display.now.violations.count == 1, "SCANOUT does not let go of a dma-buf")
  }

  @Test func theCursorIsKept() throws {
    let image = [UInt32](repeating: 0x8000_ff00, count: 64 * 64)
    var update = WireBytes(u32: 0, 10, 20, 3, 4)
    for pixel in image { update.put(pixel) }
    try send(6, update.bytes)
    try send(4, WireBytes(u32: 0, 30, 40).bytes)
    settle(2)
    let cursor = display.now.cursor
    #expect([cursor.x, cursor.y, cursor.hotX, cursor.hotY] == [30, 40, 3, 4])
    #expect(cursor.visible && cursor.image == image)
    try send(5, WireBytes(u32: 0, 30, 40).bytes)
    settle(3)
    #expect(!display.now.cursor.visible)
  }

  @Test func aStalledDisplayReadsOnceItIsReleased() throws {
    display.behave { $0.stalled = true }
    try send(7, WireBytes(u32: 0, 4, 3).bytes)
    usleep(20_000)
    #expect(display.now.messages.isEmpty)
    display.behave { $0.stalled = false }
    settle(1)
  }

  @Test func aNewSocketKeepsThePicture() throws {
    try send(7, WireBytes(u32: 0, 4, 3).bytes)
    settle(1)
    let next = try display.replaceSocket()
    #expect(display.now.sockets == 2)
    #expect(display.now.surfaces[0]?.width == 4)
    #expect(UnixSocket.isSocket(next.raw, kind: .stream))
    #expect(throws: Errno.self) {
      for _ in 0..<2 { try send(7, WireBytes(u32: 0, 4, 3).bytes) }
    }
  }
}
