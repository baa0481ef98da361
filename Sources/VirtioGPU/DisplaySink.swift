import Buffers
import Fences
import Linux

/// One picture of one output, ready to be looked at.
public struct Frame {
  /// Which output, from 0.
  public let output: Int
  /// The part of `pixels` that the output shows.
  public let crop: Rect
  /// What changed since the last frame of this output, in pixels relative to `crop`.
  public let damage: Rect
  /// The pixels for the CPU, valid until the sink returns.
  public let pixels: PixelSource
  /// What consumers import; nil when no sink wants buffers or none could be made.
  public let buffer: OfferedBuffer?
  /// The part of `buffer` that the output shows; has the size of `crop`, and differs from it in
  /// place when the buffer is a copy of the visible part alone.
  public let bufferCrop: Rect
  /// Keeps the guest's fence back; nil for unfenced flushes. Retain it to hold the frame.
  public let hold: Hold?
  /// Makes copies for those who must not, or cannot, have `buffer`.
  public let copies: (any CopySource)?
  /// A sync_file to wait for before the pixels are read; nil when the guest's CPU drew them.
  public let acquire: SharedFD?
  /// Why there are only copies; nil where `buffer` is the guest's pages.
  public let whyCopied: WhyCopied?

  /// Describes a frame; `bufferCrop` is `crop` unless given.
  public init(
    output: Int, crop: Rect, damage: Rect, pixels: PixelSource, buffer: OfferedBuffer?,
    bufferCrop: Rect? = nil, hold: Hold?, copies: (any CopySource)? = nil,
    acquire: SharedFD? = nil, whyCopied: WhyCopied? = nil
  ) {
    self.output = output
    self.crop = crop
    self.damage = damage
    self.pixels = pixels
    self.buffer = buffer
    self.bufferCrop = bufferCrop ?? crop
    self.hold = hold
    self.copies = copies
    self.acquire = acquire
    self.whyCopied = whyCopied
  }
}

/// Why the device shows copies of a picture to all consumers.
public enum WhyCopied: Sendable {
  /// The guest draws into the picture that is on screen, which would be seen.
  case redrawn
  /// The operator wants it so.
  case asked
  /// The guest's pages cannot be shown; nil where the guest gave the picture none that could.
  case pages(CopyReason.Kind?)
}

/// Makes copies of what an output shows, when somebody asks.
public protocol CopySource: AnyObject {
  /// A copy of the visible part as it was flushed last, made at most once a flush.
  ///
  /// - Returns: nil while consumers hold all copies, or while the output shows something that
  ///   was not flushed yet.
  func copy(aligned: CopyAlignment) -> OfferedBuffer?
}

/// A cursor of one output.
public struct CursorState {
  /// Which output, from 0.
  public var output: Int
  /// Where the hot spot is, in pixels of the output; may lie outside.
  public var x: Int32
  /// Where the hot spot is, in pixels of the output; may lie outside.
  public var y: Int32
  /// The hot spot inside the image.
  public var hotX: UInt32
  /// The hot spot inside the image.
  public var hotY: UInt32
  /// The image; nil hides the cursor.
  public var image: CursorImage?
}

/// The pixels of a cursor, which never change.
public final class CursorImage {
  /// Pixels across.
  public let width: UInt32
  /// Pixels down.
  public let height: UInt32
  /// `DRM_FORMAT_ARGB8888`, premultiplied as the guest sent it, rows of `width * 4` bytes.
  public let pixels: [UInt8]
  /// Changes with every image.
  public let serial: UInt64

  /// Holds an image of `width * height * 4` bytes.
  public init(width: UInt32, height: UInt32, pixels: [UInt8], serial: UInt64) {
    self.width = width
    self.height = height
    self.pixels = pixels
    self.serial = serial
  }
}

/// Somebody on the host who looks at what the guest shows.
///
/// All calls come in the event loop's thread and must return without waiting.
public protocol DisplaySink: AnyObject {
  /// Whether frames should carry buffers that can be imported.
  var wantsBuffers: Bool { get }

  /// An output has a picture of this size in pixels, or none any more.
  func output(_ index: Int, resized size: (width: UInt32, height: UInt32)?)

  /// There is something to see. Comes after ``output(_:resized:)`` with the size of the crop.
  func present(_ frame: Frame)

  /// A generation of a buffer must not be used any more.
  ///
  /// - Parameter released: call it once nobody on this side has the memory mapped or imported.
  func withdraw(
    _ buffer: OfferedBuffer, reason: WithdrawReason, released: @escaping () -> Void)

  /// A cursor moved, changed or was hidden.
  ///
  /// - Parameter imageChanged: the image differs from that of the last call for this output.
  func cursor(_ state: CursorState, imageChanged: Bool)
}

/// The device, as its displays see it.
public protocol DisplaySource: AnyObject {
  /// Shows one sink all outputs, their present pictures and cursors again.
  func replay(to sink: any DisplaySink)
}
