import Linux

/// Waits in the event loop for a sync_file; the descriptor is closed with it.
public final class FenceWatch {
  private let fence: SharedFD
  private let loop: EventLoop
  private let signalled: () -> Void
  private var token: EventLoop.Token?

  /// Watches a fence.
  ///
  /// - Parameter signalled: runs once in the loop's thread, never before this returns; not at all
  ///   when the watch goes before.
  /// - Throws: errors of epoll_ctl(2).
  public init(
    _ fence: SharedFD, on loop: EventLoop, _ signalled: @escaping () -> Void
  ) throws(Errno) {
    self.fence = fence
    self.loop = loop
    self.signalled = signalled
    token = try loop.watch(fence.raw, for: .readable) { [unowned self] _ in finish() }
  }

  deinit { stop() }

  private func stop() {
    if let token { loop.unwatch(token) }
    token = nil
  }

  private func finish() {
    stop()
    signalled()
  }
}
