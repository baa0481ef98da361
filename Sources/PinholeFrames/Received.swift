@_exported import FrameProtocol
import Linux
@_exported import Pixels

/// A new picture of an output.
public struct ReceivedFrame: Sendable, Equatable {
  /// Which output, from 0.
  public let output: UInt32
  /// Rises with every frame of the output.
  public let serial: UInt64
  /// Where the pixels are.
  public let buffer: BufferName
  /// What the output shows, in pixels of the buffer.
  public let crop: Rect
  /// What changed since the previous frame of this output, relative to ``crop``.
  public let damage: [Rect]
  /// Anything may have changed.
  public let isFull: Bool
  /// Frames were left out because this consumer was behind.
  public let hasSkipped: Bool
  /// `CLOCK_MONOTONIC` of the guest's flush, in nanoseconds.
  public let timestamp: UInt64
  /// To be waited for before the pixels are read; nil when they are there.
  public let acquire: ReceivedFence?
  /// Why the buffer is a copy; nil where it is not one, or nobody said.
  public let copyReason: FrameCopyReason?
}

extension ReceivedFrame {
  init(_ message: FrameMessage, fence: SharedFD?) {
    self.init(
      output: message.output, serial: message.serial, buffer: message.buffer, crop: message.crop,
      damage: message.damage, isFull: message.isFull, hasSkipped: message.hasSkipped,
      timestamp: message.timestamp, acquire: fence.map { ReceivedFence($0) },
      copyReason: message.copyReason)
  }
}

/// A sync_file that came with a frame (linux/sync_file.h), closed after the last holder.
public final class ReceivedFence: Sendable, Equatable {
  private let fd: SharedFD

  init(_ fd: SharedFD) { self.fd = fd }

  /// Readable (poll(2)) once the fence has signalled; stays this object's.
  public var descriptor: CInt { fd.raw }

  /// Two fences are equal if they are the same object.
  public static func == (a: ReceivedFence, b: ReceivedFence) -> Bool { a === b }
}

/// A cursor of an output.
public struct ReceivedCursor: Sendable, Equatable {
  /// Pixels of a cursor.
  public struct Image: Sendable, Equatable {
    /// Pixels across.
    public let width: UInt32
    /// Pixels down.
    public let height: UInt32
    /// The hot spot inside the image.
    public let hotX: UInt32
    /// The hot spot inside the image.
    public let hotY: UInt32
    /// The pixel format.
    public let fourcc: FourCC
    /// Bytes from one row of ``pixels`` to the next.
    public let stride: UInt32
    /// The pixels, alpha premultiplied.
    public let pixels: [UInt8]
  }

  /// Which output, from 0.
  public let output: UInt32
  /// Whether it is shown.
  public let isVisible: Bool
  /// The hot spot in pixels of the output; may lie outside.
  public let x: Int32
  /// The hot spot in pixels of the output; may lie outside.
  public let y: Int32
  /// The new image; nil when the last one stays.
  public let image: Image?
}
