import Buffers
import Fences
import Glibc
import Linux
import PinholeProtocol
import VirtioGPU

/// Shows what is on screen to one consumer that has just come.
final class FrameNewcomer: DisplaySink {
  private let client: FrameClient

  init(_ client: FrameClient) { self.client = client }

  var wantsBuffers: Bool { true }

  func output(_ index: Int, resized size: (width: UInt32, height: UInt32)?) {
    client.output(index, resized: size)
  }

  func present(_ frame: Frame) {
    let acquire = frame.acquire.flatMap { SyncFile.isSignalled($0.raw) ? nil : $0 }
    client.present(frame, acquire: acquire, timestamp: Clock.now)
  }

  func withdraw(
    _ buffer: OfferedBuffer, reason: WithdrawReason, released: @escaping () -> Void
  ) {
    client.server.withdraw(buffer, reason: reason, released: released)
  }

  func cursor(_ state: CursorState, imageChanged: Bool) { client.cursor(state) }
}

/// Cursor images as consumers get them.
enum FrameCursorFile {
  /// Writes the pixels to a memfd that nobody can change.
  static func make(_ image: CursorImage) throws(Errno) -> SharedFD {
    let sizes = 1...PINHOLE_MAX_CURSOR
    guard sizes.contains(image.width), sizes.contains(image.height),
      image.pixels.count == Int(image.width) * Int(image.height) * 4
    else { throw Errno(EINVAL, "pwrite") }
    let file = try MemFD.create("pinhole-cursor", size: image.pixels.count)
    let written = try retrying("pwrite") {
      image.pixels.withUnsafeBytes { pwrite(file.raw, $0.baseAddress, $0.count, 0) }
    }
    guard written == image.pixels.count else { throw Errno(ENOSPC, "pwrite") }
    try MemFD.add([.shrink, .grow, .write, .seal], to: file.raw)
    return SharedFD(file)
  }
}
