import Synchronization

/// Names of buffers, which no two buffers of a process share.
public enum BufferID {
  private static let last = Atomic<UInt32>(0)

  /// A name that was not given out before; counts from 1.
  public static func next() -> UInt32 { last.add(1, ordering: .relaxed).newValue }
}
