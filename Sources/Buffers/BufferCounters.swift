import Linux

/// What the buffers did since the start.
public struct BufferCounters: Sendable {
  /// Checks of a buffer against its witness.
  public internal(set) var checks: UInt64 = 0
  /// Checks that the unchanged times of the guest's files answered.
  public internal(set) var gated: UInt64 = 0
  /// Discards that were only reported.
  public internal(set) var reports: UInt64 = 0
  /// Checks that found pages gone.
  public internal(set) var discards: UInt64 = 0
  /// Pages that were found gone.
  public internal(set) var discardedPages: UInt64 = 0
  /// Buffers made over guest pages.
  public internal(set) var builds: UInt64 = 0
  /// Further generations of such buffers.
  public internal(set) var rebuilds: UInt64 = 0
  /// Times that a discard in the middle of a build made it start again.
  public internal(set) var retries: UInt64 = 0
  /// Buffers that could not be rebuilt and are copied since.
  public internal(set) var losses: UInt64 = 0
  /// dma-bufs over guest pages made.
  public internal(set) var pins: UInt64 = 0
  /// dma-bufs over guest pages let go.
  public internal(set) var unpins: UInt64 = 0
  /// Bytes of guest memory in dma-bufs that this process holds now.
  public internal(set) var pinnedBytes: UInt64 = 0
  /// dma-bufs that were taken back and that others still hold.
  public internal(set) var kept: UInt64 = 0
  /// Bytes in the generations on offer now.
  public internal(set) var exportedBytes: UInt64 = 0
  /// How long it took to make a buffer anew after a discard.
  public internal(set) var rebuildTimes = Durations(
    bounds: [250, 500, 1_000, 2_000, 4_000, 8_000, 16_000, 32_000, 64_000])
  /// How often each reason led to a copy; see ``fallbacks(_:)``.
  private var reasons = [UInt64](repeating: 0, count: CopyReason.Kind.allCases.count)

  /// How often a reason led to a copy.
  public func fallbacks(_ kind: CopyReason.Kind) -> UInt64 { reasons[kind.rawValue] }

  /// All reasons that led to copies.
  public var fallbacks: [(kind: CopyReason.Kind, count: UInt64)] {
    CopyReason.Kind.allCases.map { ($0, reasons[$0.rawValue]) }.filter { $0.count > 0 }
  }

  /// Counts a reason; true the first time.
  mutating func count(_ kind: CopyReason.Kind) -> Bool {
    reasons[kind.rawValue] &+= 1
    return reasons[kind.rawValue] == 1
  }
}

/// Counts pinned memory. A pin ends when the last holder of its dma-buf in this process goes.
final class PinAccount {
  var pins: UInt64 = 0
  var unpins: UInt64 = 0
  var bytes: UInt64 = 0
}

/// One dma-buf's share of a ``PinAccount``.
final class Pin {
  private let account: PinAccount
  private let bytes: UInt64

  init(_ account: PinAccount, bytes: UInt64) {
    self.account = account
    self.bytes = bytes
    account.pins &+= 1
    account.bytes &+= bytes
  }

  deinit {
    account.unpins &+= 1
    account.bytes &-= bytes
  }
}
