import Fences
import Glibc
import Linux
import Pixels
import Testing

@testable import Buffers

/// A picture in ordinary memory whose pixels say where they are.
private final class Picture {
  let bytes: UnsafeMutableRawBufferPointer
  let layout: PixelLayout

  init(width: UInt32, height: UInt32, padding: UInt32 = 0) {
    layout = PixelLayout(
      width: width, height: height, stride: width * 4 + padding, fourcc: .xrgb8888)
    bytes = .allocate(byteCount: Int(layout.size), alignment: 64)
    fill(1)
  }

  deinit { bytes.deallocate() }

  /// Sets each pixel to a number made of its place and `salt`.
  func fill(_ salt: UInt32) {
    for y in 0..<layout.height {
      for x in 0..<layout.width { set(x, y, salt << 24 | y << 12 | x) }
    }
  }

  func set(_ x: UInt32, _ y: UInt32, _ value: UInt32) {
    bytes.storeBytes(of: value, toByteOffset: Int(y * layout.stride + x * 4), as: UInt32.self)
  }

  func pixel(_ x: UInt32, _ y: UInt32) -> UInt32 {
    bytes.loadUnaligned(fromByteOffset: Int(y * layout.stride + x * 4), as: UInt32.self)
  }

  /// The picture in `pieces` spans of about the same length.
  func source(pieces: Int = 1) throws -> PixelSource {
    let base = try #require(bytes.baseAddress)
    let size = bytes.count / pieces
    let spans = (0..<pieces).map {
      HostSpan(
        base: base + $0 * size, count: $0 == pieces - 1 ? bytes.count - $0 * size : size)
    }
    return try #require(PixelSource(layout: layout, spans: spans))
  }
}

private func pixel(_ buffer: OfferedBuffer, _ x: UInt32, _ y: UInt32) throws -> UInt32 {
  let map = try Mapping(fd: buffer.fd.raw, offset: 0, count: Int(buffer.size), writable: false)
  let stride = try #require(buffer.layout.packed).stride
  return map.base.loadUnaligned(fromByteOffset: Int(y * stride + x * 4), as: UInt32.self)
}

private func whole(_ pool: CopyPool) -> Rect {
  Rect(x: 0, y: 0, width: pool.width, height: pool.height)
}

@Suite("Copies for consumers")
struct CopyPoolTests {
  @Test("A receiver can read, and in no way write")
  func sealed() throws {
    let buffer = try CopyBuffer(width: 100, height: 10, fourcc: .xrgb8888)
    let fd = buffer.offered.fd.raw
    #expect(MemFD.seals(of: fd) == [.shrink, .grow, .futureWrite, .seal])
    #expect(throws: Errno.self) {
      _ = try Mapping(fd: fd, offset: 0, count: 4096, writable: true)
    }
    var byte: UInt8 = 1
    #expect(Glibc.pwrite(fd, &byte, 1, 0) == -1)
    #expect(Glibc.ftruncate(fd, 0) == -1)
    #expect(throws: Errno.self) { try MemFD.punchHole(fd, offset: 0, count: 4096) }
    let reopened = try OwnedFD.open("/proc/self/fd/\(fd)", O_RDWR)
    #expect(Glibc.pwrite(reopened.raw, &byte, 1, 0) == -1)
    buffer.pixels.storeBytes(of: 0x0102_0304, as: UInt32.self)
    #expect(try pixel(buffer.offered, 0, 0) == 0x0102_0304, "our own writes are seen")
  }

  @Test("Rows begin at multiples of 256 bytes")
  func stride() throws {
    let buffer = try CopyBuffer(width: 1366, height: 3, fourcc: .xrgb8888).offered
    #expect(buffer.layout.packed?.stride == 5632)
    #expect(buffer.size == 20480)
    #expect(buffer.memory == .copy)
    let tight = try CopyBuffer(width: 1366, height: 3, fourcc: .xrgb8888, strideAlignment: 4)
    #expect(tight.offered.layout.packed?.stride == 5464)
    #expect(throws: Errno.self) { try CopyBuffer(width: 0, height: 3, fourcc: .xrgb8888) }
    #expect(throws: Errno.self) { try CopyBuffer(width: .max, height: .max, fourcc: .xrgb8888) }
  }

  @Test("Only what changed is copied")
  func damage() throws {
    let picture = Picture(width: 64, height: 32, padding: 12)
    let pool = CopyPool(width: 64, height: 32, fourcc: .xrgb8888)
    let source = try picture.source(pieces: 3)
    let first = try #require(pool.update(from: source, crop: whole(pool), damage: whole(pool)))
    #expect(pool.copiedBytes == 64 * 32 * 4)
    for (x, y) in [(0, 0), (63, 31), (17, 9)] as [(UInt32, UInt32)] {
      #expect(try pixel(first, x, y) == picture.pixel(x, y))
    }
    picture.fill(2)
    let part = Rect(x: 8, y: 4, width: 5, height: 3)
    let second = try #require(pool.update(from: source, crop: whole(pool), damage: part))
    #expect(second === first, "nobody was looking at it")
    #expect(pool.copiedBytes == 64 * 32 * 4 + 5 * 3 * 4)
    #expect(try pixel(first, 8, 4) == picture.pixel(8, 4))
    #expect(try pixel(first, 12, 6) == picture.pixel(12, 6))
    for (x, y) in [(7, 4), (13, 4), (8, 3), (8, 7)] as [(UInt32, UInt32)] {
      #expect(try pixel(first, x, y) != picture.pixel(x, y), "outside the damage")
    }
  }

  @Test("Each copy catches up with what it missed")
  func catchesUp() throws {
    let picture = Picture(width: 64, height: 32)
    let pool = CopyPool(width: 64, height: 32, fourcc: .xrgb8888)
    let source = try picture.source()
    let one = try #require(pool.update(from: source, crop: whole(pool), damage: whole(pool)))
    one.lock.retain()
    let none = Rect(x: 0, y: 0, width: 0, height: 0)
    let two = try #require(pool.update(from: source, crop: whole(pool), damage: none))
    #expect(two !== one)
    #expect(one.id != two.id)
    two.lock.retain()
    let three = try #require(pool.update(from: source, crop: whole(pool), damage: none))
    three.lock.retain()
    picture.set(5, 5, 55)
    let dot = Rect(x: 5, y: 5, width: 1, height: 1)
    #expect(pool.update(from: source, crop: whole(pool), damage: dot) == nil, "all in use")
    picture.set(60, 30, 66)
    two.lock.release()
    let before = pool.copiedBytes
    let last = Rect(x: 60, y: 30, width: 1, height: 1)
    let again = try #require(pool.update(from: source, crop: whole(pool), damage: last))
    #expect(again === two)
    #expect(try pixel(two, 5, 5) == 55)
    #expect(try pixel(two, 60, 30) == 66)
    #expect(pool.copiedBytes - before == 56 * 26 * 4, "both changes and what is between")
    #expect(try pixel(one, 5, 5) != 55, "a copy in use stays as it is")
    #expect(pool.offered.count == 3)
  }

  @Test("The freshest of those that nobody looks at is brought up to date")
  func freshest() throws {
    let picture = Picture(width: 64, height: 32)
    let pool = CopyPool(width: 64, height: 32, fourcc: .xrgb8888)
    let source = try picture.source()
    let one = try #require(pool.update(from: source, crop: whole(pool), damage: whole(pool)))
    one.lock.retain()
    let dot = Rect(x: 5, y: 5, width: 1, height: 1)
    let two = try #require(pool.update(from: source, crop: whole(pool), damage: dot))
    two.lock.retain()
    for lock in [one.lock, two.lock] { lock.release() }
    #expect(pool.acquire()?.offered === two)
    #expect(pool.current === two)
  }

  @Test("A part of the picture")
  func crop() throws {
    let picture = Picture(width: 64, height: 32)
    let pool = CopyPool(width: 16, height: 8, fourcc: .xrgb8888)
    let source = try picture.source(pieces: 5)
    let crop = Rect(x: 40, y: 20, width: 16, height: 8)
    let buffer = try #require(pool.update(from: source, crop: crop, damage: whole(pool)))
    #expect(try pixel(buffer, 0, 0) == picture.pixel(40, 20))
    #expect(try pixel(buffer, 15, 7) == picture.pixel(55, 27))
    let outside = Rect(x: 60, y: 20, width: 16, height: 8)
    pool.damage(whole(pool))
    #expect(pool.update(from: source, crop: outside, damage: whole(pool)) == nil)
    let wide = Rect(x: .max, y: .max, width: 16, height: 8)
    #expect(pool.update(from: source, crop: wide, damage: wide) == nil)
  }
}

@Suite("Pixels in pieces")
struct PixelSourceTests {
  @Test("Any cut reads the same")
  func pieces() throws {
    let picture = Picture(width: 33, height: 17, padding: 4)
    let target = UnsafeMutableRawPointer.allocate(byteCount: 9 * 40, alignment: 4)
    defer { target.deallocate() }
    for count in [1, 2, 3, 7, 100] {
      let source = try picture.source(pieces: count)
      #expect(source.copy(Rect(x: 30, y: 8, width: 3, height: 9), to: target, stride: 40))
      for y in 0..<9 {
        for x in 0..<3 {
          let got = target.load(fromByteOffset: y * 40 + x * 4, as: UInt32.self)
          #expect(got == picture.pixel(UInt32(30 + x), UInt32(8 + y)))
        }
      }
    }
  }

  @Test("What does not fit is refused")
  func bounds() throws {
    let picture = Picture(width: 16, height: 16)
    let source = try picture.source(pieces: 4)
    let spare = UnsafeMutableRawPointer.allocate(byteCount: 4096, alignment: 4)
    defer { spare.deallocate() }
    for rect in [
      Rect(x: 1, y: 0, width: 16, height: 1), Rect(x: 0, y: 16, width: 1, height: 1),
      Rect(x: .max, y: 0, width: .max, height: 1), Rect(x: 0, y: .max, width: 1, height: .max),
    ] {
      #expect(!source.copy(rect, to: spare, stride: 64))
      #expect(!source.forEachPiece(of: rect) { _, _ in Issue.record("touched \(rect)") })
    }
    #expect(!source.forEachPiece(offset: .max, count: 1) { _, _ in })
    #expect(!source.forEachPiece(offset: 1024, count: 1) { _, _ in })
    #expect(!source.forEachPiece(offset: 0, count: -1) { _, _ in })
    let base = try #require(picture.bytes.baseAddress)
    let short = [HostSpan(base: base, count: 100), HostSpan(base: base, count: 100)]
    #expect(PixelSource(layout: picture.layout, spans: short) == nil)
  }
}

extension CopyPool {
  fileprivate func update(from source: PixelSource, crop: Rect, damage: Rect) -> OfferedBuffer? {
    self.damage(damage)
    return update(from: source, crop: crop)
  }
}
