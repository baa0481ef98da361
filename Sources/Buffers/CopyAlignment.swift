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

  /// Whether a buffer's rows are as they are asked for.
  public func suits(_ buffer: OfferedBuffer) -> Bool {
    let layout = buffer.layout
    let mask = UInt64(height) &- 1
    let rows = (UInt64(layout.height) &+ mask) & ~mask
    let (bytes, overflow) = rows.multipliedReportingOverflow(by: UInt64(layout.stride))
    return layout.stride & (stride &- 1) == 0 && !overflow && layout.offset <= buffer.size
      && bytes <= buffer.size &- layout.offset
  }
}
