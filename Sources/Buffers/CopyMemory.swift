import CLinux
import Glibc
import Linux

/// Host memory for copies, apart from what a guest may use.
///
/// Whoever was given a memfd can keep it, and nothing tells whether he does. So memory that was
/// given away does not go back to the system: it is paid for once, when it is made, and used again
/// for the next picture. What others keep can never grow beyond ``limit``, whoever comes and goes.
/// Only where a larger picture needs the room smaller pieces are let go; pieces double in size, so
/// that this cannot be done without end.
///
/// It belongs to one thread.
public final class CopyMemory {
  /// Most bytes.
  public var limit: UInt64
  /// Bytes of all pieces, in use or not.
  public private(set) var used: UInt64 = 0
  /// Nanoseconds before a piece is used again: consumers may show the old picture until they get
  /// the next one.
  static let rest: UInt64 = 100_000_000
  /// Pieces that may rest at a time, each with a descriptor: a guest that changes its mode thousands
  /// of times a second has them used again sooner.
  static let mostResting = 32
  private var spare: [(piece: Piece, since: UInt64)] = []

  /// Makes a budget; memory comes when it is needed.
  public init(limit: UInt64 = .max) { self.limit = limit }

  /// A memfd that its receivers can only read.
  final class Piece {
    let fd: SharedFD
    let mapping: Mapping
    /// What is paid for: most bytes that were needed of it at a time.
    fileprivate(set) var paid: UInt64

    fileprivate init(_ capacity: Int, paid: UInt64) throws(Errno) {
      let fd = try MemFD.create("pinhole-copy", size: capacity)
      mapping = try Mapping(fd: fd.raw, offset: 0, count: capacity, writable: true)
      // Our mapping came first and stays writable; nobody can make another.
      try MemFD.add([.shrink, .grow, .futureWrite, .seal], to: fd.raw)
      self.fd = SharedFD(fd)
      self.paid = paid
    }
  }

  /// The use of a piece, which ends with this object's last holder.
  final class Use {
    let piece: Piece
    private let memory: CopyMemory

    fileprivate init(_ piece: Piece, _ memory: CopyMemory) {
      self.piece = piece
      self.memory = memory
    }

    deinit { memory.spare.append((piece, Clock.now)) }
  }

  /// Memory of zeros.
  ///
  /// - Parameter bytes: whole pages.
  /// - Throws: `ENOMEM` over the limit, and errors of memfd_create(2).
  func take(_ bytes: Int) throws(Errno) -> Use {
    let need = UInt64(bytes)
    let isCrowded = spare.count >= Self.mostResting
    if let old = reuse(need, restedAt: isCrowded ? .max : Clock.now) { return old }
    // What others may still have is not let go for a piece that cannot be had in any case.
    let inUse = used - spare.reduce(0) { $0 + $1.piece.paid }
    guard need <= limit, inUse <= limit - need else { throw Errno(ENOMEM, "memfd_create") }
    while used > limit - need {
      if let old = reuse(need, restedAt: .max) { return old }
      guard let smallest = spare.indices.min(by: { size($0) < size($1) }) else {
        throw Errno(ENOMEM, "memfd_create")
      }
      used -= spare.remove(at: smallest).piece.paid
    }
    let piece = try Piece(Self.capacity(for: bytes), paid: need)
    used += need
    return Use(piece, self)
  }

  private func size(_ index: Int) -> Int { spare[index].piece.mapping.count }

  /// The smallest piece that is large enough, emptied.
  private func reuse(_ need: UInt64, restedAt now: UInt64) -> Use? {
    let fits = spare.indices.filter { index in
      let (piece, since) = spare[index]
      let more = need > piece.paid ? need - piece.paid : 0
      return UInt64(piece.mapping.count) >= need && more <= limit && used <= limit - more
        && (now == .max || now &- since >= Self.rest)
    }
    guard let best = fits.min(by: { size($0) < size($1) }) else { return nil }
    let piece = spare.remove(at: best).piece
    // Nobody is to see what was shown before he came.
    memset(piece.mapping.base, 0, Int(piece.paid))
    if need > piece.paid {
      used += need - piece.paid
      piece.paid = need
    }
    return Use(piece, self)
  }

  /// The next power of two: what is not needed of it takes no memory.
  private static func capacity(for bytes: Int) -> Int {
    var capacity = pageSize
    while capacity < bytes { capacity *= 2 }
    return capacity
  }
}
