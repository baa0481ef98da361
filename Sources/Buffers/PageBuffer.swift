import GuestMemory
import Linux
import Pixels

/// A picture in the guest's own pages, shared as a dma-buf.
///
/// It lives from when the picture is first shown until nobody shows it. ``BufferStore`` makes
/// generations of it.
public final class PageBuffer {
  /// What there is of it.
  public enum State: Equatable, Sendable {
    /// The present generation shows the guest's pages.
    case intact
    /// It could not be rebuilt after a discard: show a copy.
    case lost
    /// It was released.
    case released
  }

  /// The pages of one file, and what watches them.
  struct Watched {
    let file: GuestFile
    let witness: Witness
    let pages: PageSpans
    /// When the pages were last looked at and all there; nil where times prove nothing.
    var intactSince: FileTimes?
    /// When they are being looked at.
    var lookedAt: FileTimes?
  }

  /// Names the picture to consumers.
  public let id: UInt32
  /// Where the pixels are.
  public let layout: PixelLayout
  /// The pages in the picture's order.
  public let ranges: [FileRange]
  /// Bytes in all pages.
  public let size: UInt64
  /// What there is of it.
  public internal(set) var state = State.intact
  /// The present generation; nil once it is lost or released.
  public internal(set) var current: OfferedBuffer?
  /// Counts generations from 1; 0 before the first.
  public internal(set) var generation: UInt32 = 0
  /// Somebody else's check found some of these pages replaced.
  var isSuspect = false
  /// Pages that a report named already.
  var reportedPages = 0
  private(set) var watched: [Watched]

  init(layout: PixelLayout, plan: BufferPlan, watched: [Watched], after: BufferName?) {
    id = after?.id ?? BufferID.next()
    generation = after?.generation ?? 0
    self.layout = layout
    ranges = plan.items
    size = plan.bytes
    self.watched = watched
  }

  /// Whether any of these pages of the witness' file is in this buffer.
  func overlaps(_ span: PageSpan, of witness: Witness) -> Bool {
    watched.contains { $0.witness === witness && $0.pages.overlaps(span) }
  }

  /// Reads the times of the files, before the pages are looked at.
  func readTimes() {
    for index in watched.indices {
      let file = watched[index].file
      watched[index].lookedAt = file.kind == .memfd ? FileTimes(of: file.fd.raw) : nil
    }
  }

  /// The pages were all there.
  func keepTimes() {
    for index in watched.indices { watched[index].intactSince = watched[index].lookedAt }
  }

  /// Whether no file has changed since its pages were looked at and all there.
  var timesAreKept: Bool {
    watched.allSatisfy { $0.intactSince != nil && $0.intactSince == FileTimes(of: $0.file.fd.raw) }
  }
}
