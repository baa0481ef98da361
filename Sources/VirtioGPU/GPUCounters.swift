import Linux

/// What a device did since it was made.
public struct GPUCounters: Sendable {
  /// Requests of the guest.
  public internal(set) var commands: UInt64 = 0
  /// Requests that were answered with an error.
  public internal(set) var errors: UInt64 = 0
  /// Transfers that were copied into a snapshot.
  public internal(set) var transfers: UInt64 = 0
  /// Flushes of resources on screen.
  public internal(set) var flushes: UInt64 = 0
  /// Frames shown, replays not counted.
  public internal(set) var frames: UInt64 = 0
  /// Frames whose buffer is the guest's own pages.
  public internal(set) var directFrames: UInt64 = 0
  /// Frames whose buffer is a copy.
  public internal(set) var copiedFrames: UInt64 = 0
  /// Frames that waited because consumers held every copy.
  public internal(set) var copiesBusy: UInt64 = 0
  /// SUBMIT_3D commands.
  public internal(set) var submits: UInt64 = 0
  /// Frames that the renderer drew.
  public internal(set) var renderedFrames: UInt64 = 0
  /// Requests that the renderer refused or lost.
  public internal(set) var renderFailures: UInt64 = 0
  /// Bytes of pixels that were copied, into snapshots and for consumers.
  public internal(set) var copiedBytes: UInt64 = 0
  /// Times that pages under a shown buffer were found discarded.
  public internal(set) var discards: UInt64 = 0
  /// How long fenced requests, such as a cursor's TRANSFER_TO_HOST_2D, waited behind older ones.
  public internal(set) var fenceWaits = Durations(
    bounds: [1_000, 2_000, 4_000, 8_000, 16_000, 20_000, 32_000, 64_000])
}
