import Pixels

/// A buffer over guest pages, as an operator sees it.
public struct BufferReport: Sendable, Equatable {
  /// Names it to consumers, with ``generation``.
  public let id: UInt32
  /// How often it was made; 1 for one whose pages were never taken.
  public let generation: UInt32
  /// Pixels across, down, and how they lie.
  public let layout: PixelLayout
  /// Bytes of guest memory that it pins.
  public let bytes: UInt64
  /// Runs of neighbouring pages, which udmabuf counts.
  public let pieces: Int

  init(_ buffer: PageBuffer) {
    id = buffer.id
    generation = buffer.generation
    layout = buffer.layout
    bytes = buffer.size
    pieces = buffer.ranges.count
  }
}
