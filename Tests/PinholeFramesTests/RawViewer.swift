import Glibc
import Linux
import Testing

/// A VNC viewer of raw pixels, in a loop that the test turns.
final class RawViewer {
  private(set) var width = 0
  private(set) var height = 0
  /// 0xRRGGBB.
  private(set) var pixels: [UInt32] = []
  /// Rectangles of pixels of the last update: x, y, width, height.
  private(set) var areas: [[Int]] = []
  /// The last cursor's hot spot, width and height, and its pixels, 0xAARRGGBB.
  private(set) var cursor: (place: [Int], pixels: [UInt32])?
  private let socket: SharedFD
  private let loop: EventLoop
  private var bytes: [UInt8] = []
  private var next = 0
  /// The bridge has ended the connection.
  private(set) var isOver = false

  private struct Short: Error {}

  /// Connects, and says that it draws cursors itself.
  init(_ path: String, _ loop: EventLoop) throws {
    socket = SharedFD(try UnixSocket.connect(path, kind: .stream))
    self.loop = loop
    // Version, no security, everybody may stay; Raw, DesktopSize, a cursor with alpha.
    try say(Array("RFB 003.008\n".utf8) + [1, 1, 2, 0, 0, 3])
    try say([0, -223, -314].flatMap { Self.bytes(Int32($0)) })
  }

  private static func bytes(_ number: Int32) -> [UInt8] {
    withUnsafeBytes(of: number.bigEndian) { Array($0) }
  }

  func say(_ bytes: [UInt8]) throws {
    _ = try bytes.withUnsafeBytes { try UnixSocket.send(socket.raw, $0) }
  }

  /// Asks for what is new, or for all.
  func request(all: Bool = false) throws {
    let size = [width, height].flatMap { [UInt8($0 >> 8), UInt8($0 & 255)] }
    try say([3, all ? 0 : 1, 0, 0, 0, 0] + size)
  }

  /// Where the pointer is, and its buttons.
  static func pointer(_ x: UInt8, _ y: UInt8, _ buttons: UInt8) -> [UInt8] {
    [5, buttons, 0, x, 0, y]
  }

  /// Lets the bridge work, and takes what it has sent.
  func turn(milliseconds: CInt = 0) throws {
    try loop.turn(timeout: milliseconds)
    var chunk = [UInt8](repeating: 0, count: 1 << 16)
    while !isOver {
      let count = recv(socket.raw, &chunk, chunk.count, CInt(MSG_DONTWAIT))
      if count < 0 { return }
      bytes += chunk.prefix(count)
      isOver = count == 0
    }
  }

  /// Waits for the greetings.
  func start() throws {
    try wait {
      guard try take(18).suffix(4).elementsEqual([0, 0, 0, 0]) else { throw Errno(EPROTO, "recv") }
      resize(try u16(), try u16())
      _ = try take(16)
      _ = try take(Int(try u32()))
    }
  }

  /// Waits for an update.
  func update() throws {
    try wait {
      guard try take(2)[0] == 0 else { throw Errno(EPROTO, "recv") }
      areas = []
      for _ in 0..<(try u16()) { try rectangle() }
    }
  }

  private func wait(for message: () throws -> Void) throws {
    let bound = Clock.now + 20_000_000_000
    while true {
      do {
        next = 0
        try message()
        bytes.removeFirst(next)
        return
      } catch is Short {
        try #require(!isOver && Clock.now < bound, "the rest of a message does not come")
        try turn(milliseconds: 20)
      }
    }
  }

  private func take(_ count: Int) throws -> [UInt8] {
    guard next + count <= bytes.count else { throw Short() }
    next += count
    return Array(bytes[next - count..<next])
  }
  private func u16() throws -> Int { try take(2).reduce(0) { $0 << 8 | Int($1) } }
  private func u32() throws -> UInt32 { try take(4).reduce(0) { $0 << 8 | UInt32($1) } }

  private func resize(_ width: Int, _ height: Int) {
    (self.width, self.height) = (width, height)
    pixels = [UInt32](repeating: 0xdead00, count: width * height)
  }

  private func rectangle() throws {
    let area = [try u16(), try u16(), try u16(), try u16()]
    switch Int32(bitPattern: try u32()) {
    case 0:
      areas.append(area)
      for y in area[1]..<area[1] + area[3] {
        for x in area[0]..<area[0] + area[2] {
          let pixel = try take(4)
          let colour = UInt32(pixel[2]) << 16 | UInt32(pixel[1]) << 8 | UInt32(pixel[0])
          if x < width, y < height { pixels[y * width + x] = colour }
        }
      }
    case -223: resize(area[2], area[3])
    case -314:
      _ = try take(4)
      let shown = try (0..<area[2] * area[3]).map { _ in
        let rgba = try u32()
        return rgba << 24 | rgba >> 8
      }
      cursor = (area, shown)
    default: throw Errno(EPROTO, "recv")
    }
  }
}
