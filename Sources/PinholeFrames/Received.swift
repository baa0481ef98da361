import Linux
import PinholeProtocol

/// The producer, as it introduced itself.
public struct Producer: Sendable, Equatable {
  /// The protocol version spoken.
  public let version: UInt32
  /// `PINHOLE_FEATURE_*` bits that hold on this connection.
  public let features: UInt64
  /// Frames of one output without ``FrameConsumer/done(_:)`` at most.
  public let maxInFlight: UInt32
  /// How long the guest waits for ``FrameConsumer/done(_:)``, in microseconds.
  public let holdDeadline: UInt32
  /// How long the guest waits for a removed buffer, in microseconds.
  public let closeDeadline: UInt32
  /// Outputs are numbered below this.
  public let maxOutputs: UInt32
  /// For people.
  public let name: String
}

/// What an output shows.
public struct OutputState: Sendable, Equatable {
  /// Which output, from 0.
  public let output: UInt32
  /// Whether it shows anything.
  public let isEnabled: Bool
  /// Pixels across.
  public let width: UInt32
  /// Pixels down.
  public let height: UInt32
  /// Thousandths of a hertz, 0 when not known.
  public let refresh: UInt32
}

/// Names one generation of a buffer.
public struct BufferName: Hashable, Sendable, CustomStringConvertible {
  /// Which picture of the guest.
  public let number: UInt32
  /// Which pages under it, from 1.
  public let generation: UInt32

  /// Names a generation.
  public init(number: UInt32, generation: UInt32) {
    self.number = number
    self.generation = generation
  }

  /// For example `3.1`.
  public var description: String { "\(number).\(generation)" }
}

/// A rectangle of pixels.
public struct PixelRect: Sendable, Equatable, CustomStringConvertible {
  /// Left edge.
  public let x: UInt32
  /// Top edge.
  public let y: UInt32
  /// Pixels across.
  public let width: UInt32
  /// Pixels down.
  public let height: UInt32

  /// Makes a rectangle; nothing is checked.
  public init(x: UInt32, y: UInt32, width: UInt32, height: UInt32) {
    self.x = x
    self.y = y
    self.width = width
    self.height = height
  }

  init(_ rect: pinhole_rect) {
    self.init(x: rect.x, y: rect.y, width: rect.width, height: rect.height)
  }

  /// Not empty, and inside `0..<width` and `0..<height`.
  public func fits(width limitX: UInt32, height limitY: UInt32) -> Bool {
    width > 0 && height > 0 && UInt64(x) + UInt64(width) <= UInt64(limitX)
      && UInt64(y) + UInt64(height) <= UInt64(limitY)
  }

  /// For example `0,0 640x480`.
  public var description: String { "\(x),\(y) \(width)x\(height)" }
}

/// A new picture of an output.
public struct ReceivedFrame: Sendable, Equatable {
  /// Which output, from 0.
  public let output: UInt32
  /// Rises with every frame of the output.
  public let serial: UInt64
  /// Where the pixels are.
  public let buffer: BufferName
  /// What the output shows, in pixels of the buffer.
  public let crop: PixelRect
  /// What changed since the previous frame of this output, relative to ``crop``.
  public let damage: [PixelRect]
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

/// Why a frame is a copy, `PINHOLE_COPY_*`.
public enum FrameCopyReason: UInt32, Sendable, CustomStringConvertible {
  /// This consumer accepts nothing else.
  case asked = 1
  /// The socket shows nothing else.
  case socket = 2
  /// This consumer is behind.
  case late = 3
  /// The guest's rows are not aligned as this consumer wishes.
  case alignment = 4
  /// The guest draws into the picture that is on screen.
  case redrawn = 5
  /// The producer's operator wants copies.
  case `operator` = 6
  /// /dev/udmabuf is missing, closed to the producer, or refused.
  case udmabuf = 7
  /// Discards of guest memory cannot be noticed.
  case witness = 8
  /// The guest's memory is of another kind than needed.
  case memory = 9
  /// The picture does not lie in whole pages.
  case placement = 10
  /// More pieces or bytes than udmabuf takes.
  case limit = 11
  /// More pinned memory than the operator allows.
  case budget = 12
  /// Pages go faster than the buffer can be made.
  case discards = 13

  /// In a few words.
  public var description: String {
    switch self {
    case .asked: "asked for"
    case .socket: "copy socket"
    case .late: "late"
    case .alignment: "alignment"
    case .redrawn: "redrawn in place"
    case .operator: "operator's wish"
    case .udmabuf: "no udmabuf"
    case .witness: "no witness"
    case .memory: "kind of memory"
    case .placement: "not whole pages"
    case .limit: "udmabuf's limits"
    case .budget: "pin budget"
    case .discards: "too many discards"
    }
  }
}

/// A sync_file that came with a frame (linux/sync_file.h), closed after the last holder.
public final class ReceivedFence: Sendable, Equatable {
  private let fd: OwnedFD

  init(_ fd: consuming OwnedFD) { self.fd = fd }

  /// Readable (poll(2)) once the fence has signalled; stays this object's.
  public var descriptor: CInt { fd.raw }

  /// Two fences are equal if they are the same object.
  public static func == (a: ReceivedFence, b: ReceivedFence) -> Bool { a === b }
}

/// Why a generation of a buffer was removed, `PINHOLE_REMOVE_*`.
public enum RemovalReason: UInt32, Sendable, CustomStringConvertible {
  /// The guest destroyed the picture.
  case destroyed = 1
  /// The guest's pages were discarded; the next generation follows.
  case discarded = 2
  /// The guest gave the picture other pages; the next generation follows.
  case rebacked = 3
  /// The device was reset.
  case reset = 4
  /// The guest memory under it was unplugged.
  case memory = 5
  /// Nothing shows it any more; it may be added again.
  case unused = 6
  /// The producer ends.
  case shutdown = 7

  /// The case's name.
  public var description: String {
    switch self {
    case .destroyed: return "destroyed"
    case .discarded: return "discarded"
    case .rebacked: return "rebacked"
    case .reset: return "reset"
    case .memory: return "memory"
    case .unused: return "unused"
    case .shutdown: return "shutdown"
    }
  }
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
    /// `DRM_FORMAT_*`.
    public let fourcc: UInt32
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
