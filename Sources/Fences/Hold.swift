/// Keeps one answer to the guest back until every consumer of a frame has released it.
///
/// Whoever shows the frame calls ``retain()`` before it returns from its presentation and
/// ``release()`` once it is done; the maker releases its own share after all were asked.
public final class Hold {
  private var shares = 1
  private var answer: (() -> Void)?

  /// Starts with one share, the maker's.
  ///
  /// - Parameter answer: runs exactly once, at the last release or at ``expire()``.
  public init(_ answer: @escaping () -> Void) { self.answer = answer }

  /// Whether the answer still waits.
  public var isPending: Bool { answer != nil }

  /// Adds a share.
  public func retain() { shares &+= 1 }

  /// Gives a share back; the last one lets the answer go.
  public func release() {
    guard shares > 0 else { return }
    shares &-= 1
    if shares == 0 { finish() }
  }

  /// The deadline has passed: answers now, whoever still holds shares.
  public func expire() { finish() }

  private func finish() {
    let pending = answer
    answer = nil
    pending?()
  }
}
