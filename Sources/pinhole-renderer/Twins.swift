import CGbm
import CLinux
import CVirgl
import Glibc
import Linux
import RenderWire

/// Makes pictures in the memory of the GPU that draws (libgbm).
final class TwinMaker {
  fileprivate let device: OpaquePointer
  /// What the device was opened with, as long as it lives.
  private let node: SharedFD

  /// Opens the render node's memory and makes a picture of it, so that everything is loaded that
  /// is loaded for one; nil where that does not work: pictures have no twins then.
  ///
  /// - Parameter node: a descriptor of the render node.
  init?(_ node: SharedFD) {
    var why = [CChar](repeating: 0, count: 400)
    guard ph_gbm_load(&why, why.count) == 0, let opened = ph_gbm_open(node.raw) else { return nil }
    device = opened
    self.node = node
    let xrgb8888: UInt32 = 0x3432_5258
    let trial = RenderPicture(width: 64, height: 64, stride: 256, fourcc: xrgb8888)
    do throws(Errno) { _ = try Twin(of: trial, by: self).export() } catch { return nil }
  }

  deinit { ph_gbm_close(device) }
}

/// A picture in a file, once more in the GPU's memory, where devices import it.
///
/// It is only written to, as reading from there may be slow: what it shows comes from the file.
final class Twin {
  private let picture: RenderPicture
  private var memory: ph_gbm_picture
  /// Which made it, and must outlive it.
  private let maker: TwinMaker

  /// Black at first. Its rows are as long as the picture's at least: every importer takes these.
  init(of picture: RenderPicture, by maker: TwinMaker) throws(Errno) {
    guard picture.width > 0, picture.width <= picture.stride / 4, picture.stride % 4 == 0 else {
      throw Errno(EINVAL, "gbm_bo_create")
    }
    var memory = ph_gbm_picture()
    let error = ph_gbm_create(
      maker.device, picture.stride / 4, picture.height, picture.fourcc, &memory)
    guard error == 0 else { throw Errno(error, "gbm_bo_create") }
    self.picture = picture
    self.memory = memory
    self.maker = maker
  }

  deinit { ph_gbm_destroy(&memory) }

  /// How it lies in its dma-buf.
  var layout: RenderTwin {
    RenderTwin(stride: memory.stride, offset: memory.offset, modifier: memory.modifier)
  }

  /// A descriptor of its dma-buf.
  func export() throws(Errno) -> SharedFD {
    SharedFD(OwnedFD(adopting: try check(ph_gbm_export(&memory), "gbm_bo_get_fd")))
  }

  /// Copies what was read back into the file.
  ///
  /// - Parameters:
  ///   - box: its size in pixels.
  ///   - run: where it begins in the file.
  ///   - rows: the file's memory from there on.
  /// - Returns: an error number, 0 for none.
  func copy(_ box: RenderBox, at run: RenderRun, from rows: iovec, stride: UInt32) -> CInt {
    let width = UInt64(picture.stride)
    let (y, x) = (run.offset / width, run.offset % width / 4)
    guard stride == picture.stride, box.width > 0, box.height > 0,
      x + UInt64(box.width) <= UInt64(picture.width),
      y < UInt64(picture.height), UInt64(box.height) <= UInt64(picture.height) - y,
      UInt64(box.height - 1) * width + UInt64(box.width) * 4 <= UInt64(rows.iov_len)
    else { return EINVAL }
    return ph_gbm_write(
      &memory, UInt32(x), UInt32(y), box.width, box.height, rows.iov_base, Int(stride))
  }
}
