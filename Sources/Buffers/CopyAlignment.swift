import Pixels

/// What a consumer's hardware asks of the rows of a picture; both are powers of two.
public struct CopyAlignment: Hashable, Sendable {
  /// Rows begin at multiples of so many bytes.
  public let stride: UInt32
  /// There is memory for a multiple of so many rows.
  public let height: UInt32

  /// Names an alignment; 0 and 1 ask for nothing.
  public init(stride: UInt32 = 0, height: UInt32 = 0) {
    self.stride = max(stride, 1)
    self.height = max(height, 1)
  }

  /// What copies have unless more is asked for: strides that every GPU takes.
  public static let usual = CopyAlignment(stride: 256)

  /// The alignment of the copies that serve this one: one of six, so that consumers with many
  /// different wishes do not each get copies of their own.
  public var pooled: CopyAlignment {
    CopyAlignment(
      stride: stride <= 256 ? 256 : 4096, height: height <= 1 ? 1 : height <= 64 ? 64 : 4096)
  }

  /// What serves those who ask for this and those who ask for the other.
  public func joined(with other: CopyAlignment) -> CopyAlignment {
    CopyAlignment(stride: max(stride, other.stride), height: max(height, other.height))
  }

  /// Whether a buffer's rows are as they are asked for.
  public func suits(_ buffer: OfferedBuffer) -> Bool {
    let layout = buffer.layout
    let mask = UInt64(height) &- 1
    let rows = (UInt64(layout.height) &+ mask) & ~mask
    // What the rows of a GPU's own layout take only its driver knows.
    guard layout.packed != nil else { return layout.planes.allSatisfy { isAligned($0.stride) } }
    return layout.planes.allSatisfy { plane in
      let (bytes, overflow) = rows.multipliedReportingOverflow(by: UInt64(plane.stride))
      return isAligned(plane.stride) && !overflow && plane.offset <= buffer.size
        && bytes <= buffer.size &- plane.offset
    }
  }

  private func isAligned(_ rowBytes: UInt32) -> Bool { rowBytes & (stride &- 1) == 0 }
}
