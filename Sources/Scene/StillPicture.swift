import Fences
import Linux

/// A picture in a file of ours, for those who send it by reference: whoever has locked it
/// (``hold``) finds it as it was when it was committed.
///
/// The kernel refers to the file's pages until the peer has read them, and a byte that is written
/// before arrives changed.
public final class StillPicture {
  /// The file, whose first byte is the picture's.
  public let file: SharedFD
  /// Bytes from one row to the next; there is nothing between rows.
  public let stride: UInt32
  /// Locked by those who read it, or whose peers may.
  public let hold = Hold()
  /// Whether it may be locked: false while its owner has to write into what is shown.
  public var isStill = false
  /// A reader has gone and cannot tell when its peer is done: it is never written again.
  public private(set) var isForsaken = false
  private let mapping: Mapping
  /// Keeps what the memory is paid from.
  private let keeper: AnyObject?

  /// Takes over a file and our mapping of it.
  public init(
    _ file: SharedFD, _ mapping: consuming Mapping, stride: UInt32, keeper: AnyObject? = nil
  ) {
    self.file = file
    self.mapping = mapping
    self.stride = stride
    self.keeper = keeper
  }

  /// Its first byte.
  public var base: UnsafeMutableRawPointer { mapping.base }
  /// Its size in bytes.
  public var count: Int { mapping.count }
  /// Somebody may read it: it must not be written.
  public var isRead: Bool { hold.readers > 0 || isForsaken }

  /// Nobody will ever tell whether it was read.
  public func forsake() { isForsaken = true }
}
