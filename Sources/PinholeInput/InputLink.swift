import Linux

/// A bridge's connection to `pinhole input` in an event loop: made when there is something to
/// send, and again when it is lost. What happens meanwhile is lost too.
public final class InputLink {
  /// Told why keys are lost, at most once a second.
  public var failed: (InputError) -> Void = { _ in }
  private let path: String
  private let name: String
  private let loop: EventLoop
  private var client: InputClient?
  private var token: EventLoop.Token?
  private var nextTry: UInt64 = 0
  private var isWaiting = false

  /// Connects later.
  ///
  /// - Parameters:
  ///   - path: the control socket.
  ///   - name: tells people who controls; cut at 31 bytes.
  ///   - loop: whose thread it belongs to.
  public init(_ path: String, name: String, on loop: EventLoop) {
    self.path = path
    self.name = name
    self.loop = loop
  }

  deinit { drop() }

  /// Sends what happened at one moment, at most 28 events.
  public func send(_ events: [InputEvent], at place: InputPlace? = nil) {
    guard let client = client ?? connect() else { return }
    do throws(InputError) {
      try client.send(events, at: place)
      watchForRoom(client)
    } catch { lost(error) }
  }

  private func connect() -> InputClient? {
    let now = Clock.now
    guard now >= nextTry else { return nil }
    nextTry = now + 1_000_000_000
    do throws(InputError) {
      let new = try InputClient(path: path, name: name, patience: 0)
      do throws(Errno) {
        token = try loop.watch(new.fd, for: .readable) { [unowned self] in ready($0) }
      } catch { throw .system(error) }
      client = new
      return new
    } catch {
      failed(error)
      return nil
    }
  }

  private func ready(_ events: EventLoop.Events) {
    guard let client else { return }
    do throws(InputError) {
      if events.contains(.writable) { try client.flush() }
      for _ in 0..<16 { if try client.next(timeout: 0) == nil { break } }
      watchForRoom(client)
    } catch { lost(error) }
  }

  private func watchForRoom(_ client: InputClient) {
    guard let token, client.hasWaiting != isWaiting else { return }
    isWaiting = client.hasWaiting
    try? loop.change(token, to: isWaiting ? [.readable, .writable] : .readable)
  }

  private func lost(_ error: InputError) {
    failed(error)
    drop()
  }

  private func drop() {
    if let token { loop.unwatch(token) }
    token = nil
    client = nil
    isWaiting = false
  }
}
