import Buffers
import Fences
import Linux
import Pixels

/// A picture that a sink may hand to somebody who imports or maps it; locked for the sink.
public struct Frame {
  /// Which output, from 0.
  public let output: Int
  /// The memory.
  public let buffer: OfferedBuffer
  /// The part of it that the output shows, in pixels.
  public let crop: Rect
  /// To be released once; nil where nothing waits for the reader.
  public let lock: Hold?
  /// A sync_file to wait for before the pixels are read; nil when they are there.
  public let acquire: SharedFD?
  /// When it was committed, `CLOCK_MONOTONIC` in nanoseconds.
  public let timestamp: UInt64
  /// Why it is a copy; nil where it is what the guest or a renderer drew into.
  public let whyCopied: WhyCopied?
}

/// What somebody who reads frames can do, and may have.
public struct Wishes {
  /// How rows have to lie.
  public var alignment = CopyAlignment()
  /// Nothing but read-only copies.
  public var onlyCopies: WhyCopied?
  /// It has not given earlier frames back in time.
  public var isLate = false
  /// It waits for fences itself.
  public var takesFences = false
  /// It imports images of a GPU: any format, modifier and number of planes.
  public var takesImages = false

  /// Takes anything that the processor could read.
  public init() {}

  /// Whether a buffer can be imported as it is.
  func suits(_ buffer: OfferedBuffer) -> Bool {
    (takesImages || buffer.layout.packed != nil) && alignment.suits(buffer)
  }
}

/// Why a picture is shown as a copy.
public enum WhyCopied: Sendable, Equatable {
  /// The guest draws into the picture that is on screen, which would be seen.
  case redrawn
  /// The operator wants it so.
  case asked
  /// The guest's pages cannot be shown; nil where the guest gave the picture none that could.
  case pages(CopyReason.Kind?)
  /// The reader asked for it.
  case wanted
  /// The reader is not trusted.
  case untrusted
  /// The reader is behind.
  case late
  /// The reader needs other strides, or cannot import a GPU's own layout.
  case alignment
}

/// What the device shows on an output from now on.
public struct Commit {
  /// Which output, from 0.
  public var output: Int
  /// The part of `pixels` that the output shows.
  public var crop: Rect
  /// What changed since the last commit of this output, in pixels relative to `crop`.
  public var damage: Rect
  /// The pixels for the processor.
  public var pixels: PixelSource
  /// Keeps the memory behind `pixels`.
  public var owner: AnyObject?
  /// The memory behind `pixels`, where it stays as it is for those who read it by reference.
  public var still: StillPicture?
  /// What can be imported; nil where there are only copies.
  public var buffer: OfferedBuffer?
  /// The part of `buffer` that the output shows; has the size of `crop`.
  public var bufferCrop: Rect
  /// Who reads `buffer` keeps this back: the guest's fence, or the renderer that would draw into it
  /// again; nil where nobody waits.
  public var lock: Hold?
  /// A sync_file to wait for before the pixels are read; nil when the guest's processor drew them.
  public var acquire: SharedFD?
  /// Why there is no buffer, or nothing but a copy.
  public var whyCopied: WhyCopied?

  /// Describes a picture; `bufferCrop` is `crop` unless given.
  public init(
    output: Int, crop: Rect, damage: Rect, pixels: PixelSource, owner: AnyObject? = nil,
    still: StillPicture? = nil, buffer: OfferedBuffer?, bufferCrop: Rect? = nil, lock: Hold?,
    acquire: SharedFD? = nil, whyCopied: WhyCopied? = nil
  ) {
    self.output = output
    self.crop = crop
    self.damage = damage
    self.pixels = pixels
    self.owner = owner
    self.still = still
    self.buffer = buffer
    self.bufferCrop = bufferCrop ?? crop
    self.lock = lock
    self.acquire = acquire
    self.whyCopied = whyCopied
  }
}

/// Whether somebody gets the buffer itself or a copy, and why: decided here and nowhere else.
enum Choice: Equatable {
  case buffer
  case copy(WhyCopied?)
  /// Its pixels are not drawn yet, and the reader cannot wait.
  case later

  init(_ commit: Commit, isDrawn: Bool, _ wishes: Wishes) {
    guard isDrawn || wishes.takesFences && wishes.onlyCopies == nil else {
      self = .later
      return
    }
    let why: WhyCopied?
    if let only = wishes.onlyCopies {
      why = only
    } else if let buffer = commit.buffer, buffer.isOriginal {
      why = wishes.isLate ? .late : wishes.suits(buffer) ? nil : .alignment
    } else {
      // A renderer's own memory, sealed: it is drawn into again, unlike the copies of a pool.
      why = wishes.isLate && commit.buffer != nil ? .late : commit.whyCopied
    }
    let isFit = commit.buffer.map { buffer in
      wishes.suits(buffer) && !wishes.isLate && (!buffer.isOriginal || wishes.onlyCopies == nil)
    }
    guard isFit != true else {
      self = .buffer
      return
    }
    self = isDrawn ? .copy(why) : .later
  }
}
