import CLinux
import Glibc
import Linux

/// The render nodes of this machine (`/dev/dri/renderD*`), and which of them a GPU is behind.
package enum RenderNode {
  /// The first that this process may use and that draws; nil where there is none.
  package static var first: String? { first(in: (128..<192).map { "/dev/dri/renderD\($0)" }) }

  static func first(in paths: [String]) -> String? {
    paths.first { path in
      do throws(Errno) {
        let node = try OwnedFD.open(path, O_RDWR)
        return draws(driver(of: node.raw), has3D: ph_virtgpu_has_3d(node.raw) == 1)
      } catch { return false }
    }
  }

  /// The name of the driver behind a path; nil for what is no DRM device.
  package static func driver(of path: String) -> String? {
    do throws(Errno) {
      let node = try OwnedFD.open(path, O_RDWR)
      return driver(of: node.raw)
    } catch { return nil }
  }

  private static func driver(of node: CInt) -> String? {
    var name = [CChar](repeating: 0, count: 64)
    guard ph_drm_driver(node, &name, name.count) == 0 else { return nil }
    return String(
      decoding: name.prefix { $0 != 0 }.map { UInt8(bitPattern: $0) }, as: UTF8.self)
  }

  /// Mesa draws on a node without a GPU by the processor, through a path that crashes where a
  /// texture is sampled (kms_swrast); the processor without a node is better.
  ///
  /// - Parameters:
  ///   - driver: nil for what is no DRM device.
  ///   - has3D: what a virtio-gpu says of itself.
  static func draws(_ driver: String?, has3D: Bool) -> Bool {
    switch driver {
    case nil, "vgem", "vkms": false
    case "virtio_gpu": has3D
    default: true
    }
  }
}
