import CLinux
import Glibc
import Linux

/// vgem: a driver without hardware whose fences programs signal themselves, as a GPU would.
///
/// Its fences signal on their own after 10 seconds.
final class Vgem {
  private let fd: OwnedFD

  // drm.h and vgem_drm.h
  private static let version: UInt = 0xc040_6400
  private static let primeFDToHandle: UInt = 0xc00c_642e
  private static let fenceAttach: UInt = 0xc010_6441
  private static let fenceSignal: UInt = 0x4008_6442

  /// Its render node.
  var descriptor: CInt { fd.raw }

  /// Whether the module is loaded.
  static var isHere: Bool { (try? Vgem()) != nil }

  init() throws {
    for number in 128..<136 {
      guard let node = try? OwnedFD.open("/dev/dri/renderD\(number)", O_RDWR) else { continue }
      if Self.driver(of: node.raw) == "vgem" {
        fd = node
        return
      }
    }
    throw Errno(ENODEV, "open(vgem's render node)")
  }

  private static func driver(of fd: CInt) -> String {
    var name = [UInt8](repeating: 0, count: 32)
    // struct drm_version: three ints, then three pairs of length and pointer.
    var words = [UInt64](repeating: 0, count: 8)
    name.withUnsafeMutableBytes { bytes in
      words[2] = UInt64(bytes.count)
      words[3] = UInt64(UInt(bitPattern: bytes.baseAddress))
      _ = words.withUnsafeMutableBytes { ph_ioctl(fd, version, $0.baseAddress) }
    }
    return String(decoding: name.prefix { $0 != 0 }, as: UTF8.self)
  }

  /// Imports a dma-buf and lets it look as if a GPU read it, or wrote to it.
  ///
  /// - Returns: the fence's number for ``signal(_:)``.
  func attach(to dmaBuf: CInt, writing: Bool = false) throws -> UInt32 {
    var prime: [UInt32] = [0, 0, UInt32(bitPattern: dmaBuf)]
    try control(Self.primeFDToHandle, &prime, "ioctl(PRIME_FD_TO_HANDLE)")
    var fence: [UInt32] = [prime[0], writing ? 1 : 0, 0, 0]
    try control(Self.fenceAttach, &fence, "ioctl(VGEM_FENCE_ATTACH)")
    return fence[2]
  }

  /// The GPU is done.
  func signal(_ fence: UInt32) throws {
    var argument: [UInt32] = [fence, 0]
    try control(Self.fenceSignal, &argument, "ioctl(VGEM_FENCE_SIGNAL)")
  }

  private func control(_ request: UInt, _ words: inout [UInt32], _ name: StaticString) throws {
    try check(words.withUnsafeMutableBytes { ph_ioctl(fd.raw, request, $0.baseAddress) }, name)
  }
}
