import CLinux
import Glibc
import Linux
import PinholeFrames

/// A drm_syncobj timeline whose points this program signals or submits fences for, as a GPU's
/// driver does (drm/drm.h).
package final class FakeTimeline {
  private static let create: UInt = 0xc008_64bf
  private static let handleToFD: UInt = 0xc010_64c1
  private static let transfer: UInt = 0xc020_64cc
  private static let timelineSignal: UInt = 0xc018_64cd
  private static let importSyncFile: UInt32 = 1

  private let own: OwnedFD
  /// The same device opened once more, for a producer.
  package let node: OwnedFD
  /// The timeline as a descriptor.
  package let descriptor: OwnedFD
  private let handle: UInt32

  /// The first render node whose driver has timelines, on a kernel that can watch them.
  package static var path: String? {
    for number in 128..<136 {
      let path = "/dev/dri/renderD\(number)"
      guard let node = try? OwnedFD.open(path, O_RDWR) else { continue }
      if FrameConsumer.hasTimelines(node: node.raw) { return path }
    }
    return nil
  }

  /// A timeline without any point.
  ///
  /// - Throws: `ENODEV` where there is no such node.
  package init() throws(Errno) {
    guard let path = Self.path else { throw Errno(ENODEV, "open") }
    own = try OwnedFD.open(path, O_RDWR)
    node = try OwnedFD.open(path, O_RDWR)
    var words: [UInt32] = [0, 0]
    try Self.ask(own.raw, Self.create, &words, "ioctl(SYNCOBJ_CREATE)")
    handle = words[0]
    var export: [UInt32] = [handle, 0, 0, 0]
    try Self.ask(own.raw, Self.handleToFD, &export, "ioctl(SYNCOBJ_HANDLE_TO_FD)")
    descriptor = OwnedFD(adopting: CInt(bitPattern: export[2]))
  }

  /// Signals a point, and with it all before it.
  package func signal(_ point: UInt64) throws(Errno) {
    var handles: UInt64 = UInt64(handle)
    var points = point
    // struct drm_syncobj_timeline_array: two addresses, a count, flags.
    let failure: Errno? = withUnsafeMutablePointer(to: &handles) { handles in
      withUnsafeMutablePointer(to: &points) { points in
        var words = [UInt64(UInt(bitPattern: handles)), UInt64(UInt(bitPattern: points)), 1]
        do throws(Errno) {
          try Self.ask(own.raw, Self.timelineSignal, &words, "ioctl(SYNCOBJ_TIMELINE_SIGNAL)")
          return nil
        } catch { return error }
      }
    }
    if let failure { throw failure }
  }

  /// Submits work for a point: it signals with a sync_file, which stays the caller's.
  package func submit(_ fence: CInt, as point: UInt64) throws(Errno) {
    var binary: [UInt32] = [0, 0]
    try Self.ask(own.raw, Self.create, &binary, "ioctl(SYNCOBJ_CREATE)")
    var words: [UInt32] = [binary[0], Self.importSyncFile, UInt32(bitPattern: fence), 0]
    try Self.ask(
      own.raw, UInt(ph_REQUEST_SYNCOBJ_FD_TO_HANDLE), &words, "ioctl(SYNCOBJ_FD_TO_HANDLE)")
    // struct drm_syncobj_transfer: from and to, their points, flags.
    var move: [UInt64] = [UInt64(handle) << 32 | UInt64(binary[0]), 0, point, 0]
    try Self.ask(own.raw, Self.transfer, &move, "ioctl(SYNCOBJ_TRANSFER)")
    try check(ph_syncobj_destroy(own.raw, binary[0]), "ioctl(SYNCOBJ_DESTROY)")
  }

  /// Takes the first handle of the producer's node away, as only its opener's program can.
  package func breakNode() throws(Errno) {
    try check(ph_syncobj_destroy(node.raw, 1), "ioctl(SYNCOBJ_DESTROY)")
  }

  private static func ask<Word>(
    _ fd: CInt, _ request: UInt, _ words: inout [Word], _ name: StaticString
  ) throws(Errno) {
    let result = words.withUnsafeMutableBytes { ph_ioctl(fd, request, $0.baseAddress) }
    try check(result, name)
  }
}
