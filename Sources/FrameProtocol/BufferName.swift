import PinholeProtocol

/// Names one generation of a buffer.
public struct BufferName: Hashable, Sendable, CustomStringConvertible {
  /// Which buffer: one picture of the guest, or one copy.
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

/// What the descriptors of a buffer are.
public enum FrameMemory: Sendable, Equatable {
  /// A dma-buf: the guest's own pages, or a GPU's image.
  case dmaBuf
  /// A memfd that cannot shrink, with a copy.
  case copy
}

/// Why a frame is a copy, `PINHOLE_COPY_*`.
public enum FrameCopyReason: UInt32, Sendable, CaseIterable, CustomStringConvertible {
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

/// Why a generation of a buffer was removed, `PINHOLE_REMOVE_*`.
public enum RemovalReason: UInt32, Sendable, CaseIterable, CustomStringConvertible {
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
  /// This consumer kept a frame of it for too long.
  case timeout = 8

  /// The case's name.
  public var description: String {
    switch self {
    case .destroyed: "destroyed"
    case .discarded: "discarded"
    case .rebacked: "rebacked"
    case .reset: "reset"
    case .memory: "memory"
    case .unused: "unused"
    case .shutdown: "shutdown"
    case .timeout: "timeout"
    }
  }
}
