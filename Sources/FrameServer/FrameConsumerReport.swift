import Linux

/// A consumer of frames, as an operator sees it.
public struct FrameConsumerReport: Sendable, Equatable {
  /// What happened since it connected.
  public struct Counters: Sendable, Equatable {
    /// Frames that it was sent.
    public internal(set) var frames: UInt64 = 0
    /// Frames that it did not get because it was behind.
    public internal(set) var skipped: UInt64 = 0
    /// Frames that it kept past a deadline.
    public internal(set) var late: UInt64 = 0
  }

  /// What it calls itself; may have any characters.
  public let name: String
  /// Its process, as the kernel says.
  public let pid: Int32
  /// It gets nothing but copies, whatever the outputs show.
  public let isCopyOnly: Bool
  /// Frames that it has not answered.
  public let inFlight: Int
  /// Frames that it has, or still reads, past their deadline: it gets copies meanwhile.
  public let lateNow: Int
  /// Buffers that were taken from it and that it has not closed in time.
  public let unclosed: Int
  /// What happened since it connected.
  public let counters: Counters

  init(_ client: FrameClient) {
    name = client.name
    pid = client.peer.pid
    isCopyOnly = client.isCopyOnly
    inFlight = client.outputs.reduce(0) { $0 + $1.inFlight.count }
    lateNow = client.late
    unclosed = client.overdue
    counters = client.counted
  }
}

extension FrameServer {
  /// The consumers that have introduced themselves, oldest first.
  public var reports: [FrameConsumerReport] {
    clients.filter(\.isGreeted).map(FrameConsumerReport.init)
  }
}
