import CLinux
import Linux
import Pixels

/// A dma-buf in a GPU's memory with the same picture as a ``HostBuffer``, for whoever imports it.
///
/// A renderer hands it in, which may have been taken over: everything is looked at here.
public final class HostExport {
  /// Why a descriptor cannot be given to consumers.
  public enum Flaw: Error, Equatable, CustomStringConvertible {
    /// Another kind of file.
    case noDmaBuf
    /// Rows that overlap, or that no consumer takes.
    case stride(UInt32)
    /// The picture's end lies behind the memory's.
    case short(need: UInt64, size: UInt64)

    /// In a few words.
    public var description: String {
      switch self {
      case .noDmaBuf: "it is no dma-buf"
      case .stride(let bytes): "its rows have \(bytes) bytes"
      case .short(let need, let size): "it has \(size) bytes of \(need)"
      }
    }
  }

  /// The dma-buf.
  public let fd: SharedFD
  /// How the picture lies in it.
  public let layout: ImageLayout
  /// Its length in bytes.
  public let size: UInt64
  /// Those who were given it: it is the same one each time it is offered.
  let recipients = Recipients()
  /// What the memory is paid with.
  private let charge: AnyObject?
  /// Takes over what others still have when this object goes.
  var leftovers: Leftovers?
  /// How consumers know it last.
  var name = ""

  /// Looks at a descriptor, without waiting for whoever sent it.
  ///
  /// - Parameters:
  ///   - fd: anything.
  ///   - picture: how the picture lies in memory: its size and format are the dma-buf's, too.
  ///   - stride: bytes from row to row in the dma-buf.
  ///   - offset: bytes before the first row.
  ///   - modifier: `DRM_FORMAT_MOD_*`.
  ///   - charge: what the memory is paid with, for as long as anybody has the dma-buf.
  ///   - isDmaBuf: whether a descriptor is one.
  public init(
    _ fd: SharedFD, of picture: PixelLayout, stride: UInt32, offset: UInt32, modifier: UInt64,
    charge: AnyObject?, isDmaBuf: (CInt) -> Bool = { ph_is_dmabuf($0) == 1 }
  ) throws(Flaw) {
    guard isDmaBuf(fd.raw) else { throw .noDmaBuf }
    guard stride <= PictureLimits.stride, stride / 4 >= picture.width, stride % 4 == 0 else {
      throw .stride(stride)
    }
    let end = ph_dmabuf_size(fd.raw)
    guard end >= 0 else { throw .noDmaBuf }
    let size = UInt64(end)
    let need = UInt64(offset) + UInt64(stride) * UInt64(picture.height)
    guard size >= need, size <= PictureLimits.bytes else { throw .short(need: need, size: size) }
    self.fd = fd
    self.size = size
    self.charge = charge
    layout = ImageLayout(
      width: picture.width, height: picture.height, fourcc: picture.fourcc, modifier: modifier,
      planes: [PixelPlane(stride: stride, offset: UInt64(offset))])
  }

  deinit {
    guard let charge, let leftovers else { return }
    leftovers.take(fd, charge, name: name, size: size, from: recipients)
  }
}

extension BufferStore {
  /// The dma-buf in the GPU's memory, under a new name.
  func offer(_ export: HostExport) -> OfferedBuffer {
    let offered = OfferedBuffer(
      id: BufferID.next(), generation: 1, layout: export.layout, size: export.size, fd: export.fd,
      memory: .rendered, recipients: export.recipients)
    offered.keeper = export
    export.name = "\(offered.id).1"
    export.leftovers = leftovers
    return offered
  }
}
