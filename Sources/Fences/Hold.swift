/// The one lock: it keeps something as it is until the last reader is done with it.
///
/// What that is differs, who holds it does not: consumers, their GPUs, QEMU's display, a socket.
/// - A fenced flush's lock keeps back the answer to the guest, which draws again once it has it.
/// - A copy's lock keeps the copy from being drawn into; it is used again and again.
/// - The lock of a buffer that was revoked keeps back whoever waits for the pages.
public final class Hold {
  /// Those who keep it now.
  public private(set) var readers = 0
  /// Somebody may have left readers behind that only the dma-buf's own fences tell of.
  public var mayHaveReaders = false
  private var answer: (() -> Void)?

  /// Starts locked once, by the maker.
  ///
  /// - Parameter answer: runs exactly once, at the last release or at ``expire()``.
  public init(_ answer: @escaping () -> Void) {
    self.answer = answer
    readers = 1
  }

  /// Starts unlocked, and can be locked again after the last release.
  public init() {}

  /// Whether somebody still waits for the last release.
  public var isPending: Bool { answer != nil }

  /// Adds a reader.
  public func retain() { readers &+= 1 }

  /// A reader is done; the last one lets go what waits.
  public func release() {
    guard readers > 0 else { return }
    readers &-= 1
    if readers == 0 { finish() }
  }

  /// The deadline has passed: nobody waits any longer, whoever still reads.
  public func expire() { finish() }

  private func finish() {
    let pending = answer
    answer = nil
    pending?()
  }
}
