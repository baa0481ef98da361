import CLinux
import FakeGuest
import Glibc
import Linux
import Pixels

/// The least that a back-end can do: the frame's bytes in one blocking sendmsg(2) from where they
/// lie. A thread of its own, whose processor time is measured.
final class BareSend: Contestant {
  private let scene: Scene
  private let display: BenchDisplay
  private let pixels: UnsafeMutableRawBufferPointer
  private var time: UInt64 = 0
  private var expected: UInt64 = 0
  private var frame: UInt32 = 0

  init(_ scene: Scene) throws(GuestError) {
    self.scene = scene
    display = try BenchDisplay((UInt32(scene.width), UInt32(scene.height)))
    let count = scene.width * scene.height * 4
    guard
      let memory = mmap(
        nil, count, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS | MAP_POPULATE, -1, 0),
      memory != MAP_FAILED
    else { throw .full("a picture of \(count) bytes") }
    pixels = UnsafeMutableRawBufferPointer(start: memory, count: count)
    try display.start()
    try play()
  }

  deinit {
    display.stop()
    munmap(pixels.baseAddress, pixels.count)
  }

  var processorTime: UInt64 { time }

  func play() throws(GuestError) {
    frame &+= 1
    for _ in 0..<scene.outputs {
      let damage = scene.damage
      for y in damage.y..<(damage.y + damage.height) {
        let start = (Int(y) * scene.width + Int(damage.x)) * 4
        fillPixels(pixels, start, Int(damage.width), frame &* 0x9e37_79b9 &+ y)
      }
      let before = Self.threadTime
      try send(damage)
      time += Self.threadTime - before
      expected += UInt64(damage.width) * UInt64(damage.height)
    }
    while display.pixels < expected { usleep(50) }
  }

  private static var threadTime: UInt64 {
    var now = timespec()
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now)
    return UInt64(now.tv_sec) * 1_000_000_000 + UInt64(now.tv_nsec)
  }

  /// UPDATE, with its rows gathered where they lie.
  private func send(_ damage: Rect) throws(GuestError) {
    let row = Int(damage.width) * 4
    let size = 20 + row * Int(damage.height)
    var header = WireBytes(
      u32: 8, 0, UInt32(size), 0, damage.x, damage.y, damage.width, damage.height
    ).bytes
    var pieces: [iovec] = []
    header.withUnsafeMutableBytes {
      pieces.append(iovec(iov_base: $0.baseAddress, iov_len: $0.count))
    }
    guard let base = pixels.baseAddress else { return }
    if row == scene.width * 4 {
      pieces.append(
        iovec(iov_base: base + Int(damage.y) * row, iov_len: row * Int(damage.height)))
    } else {
      for y in damage.y..<(damage.y + damage.height) {
        pieces.append(
          iovec(
            iov_base: base + (Int(y) * scene.width + Int(damage.x)) * 4, iov_len: row))
      }
    }
    var failed: Errno?
    withExtendedLifetime(header) {
      var first = 0
      while first < pieces.count {
        let some = Array(pieces[first..<min(pieces.count, first + 1024)])
        var sent: Int
        do throws(Errno) {
          sent = try some.withUnsafeBufferPointer { gather throws(Errno) in
            try UnixSocket.send(display.theirs.raw, gather: gather)
          }
        } catch {
          failed = error
          return
        }
        while first < pieces.count, sent >= pieces[first].iov_len {
          sent -= pieces[first].iov_len
          first += 1
        }
        guard first < pieces.count, sent > 0 else { continue }
        pieces[first].iov_base = pieces[first].iov_base.map { $0 + sent }
        pieces[first].iov_len -= sent
      }
    }
    if let failed { throw .system("a bare send", failed) }
  }
}

/// Fills a run of pixels with values that differ from pixel to pixel and from seed to seed.
func fillPixels(
  _ bytes: UnsafeMutableRawBufferPointer, _ start: Int, _ count: Int, _ seed: UInt32
) {
  var value = seed
  for index in 0..<count {
    bytes.storeBytes(of: value, toByteOffset: start + index * 4, as: UInt32.self)
    value = value &* 1_664_525 &+ 1_013_904_223
  }
}
