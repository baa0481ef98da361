import Glibc
import Linux
import Logging
import PinholeFrames
import PinholeInput
import RFB

/// Shows a guest's outputs to VNC viewers, and gives their keys and pointers to the guest.
///
/// Everything happens in the loop's thread, and nothing in it waits.
public final class VNCBridge {
  /// What an operator says.
  public struct Options: Sendable {
    /// The producer's socket.
    public var frames: String
    /// The control socket of `pinhole input`; viewers only look without it.
    public var input: String?
    /// Where viewers of the first output connect.
    public var address: VNCAddress
    /// How many outputs are shown, each at an address of its own.
    public var outputs = 1
    /// The desktop's name.
    public var name = "pinhole"
    /// The guest's keyboard, for viewers that tell no scan codes.
    public var layout = "us"
    /// A variant of ``layout``, or empty.
    public var variant = ""
    /// Viewers of all outputs together.
    public var maxViewers = 32
    /// A viewer that takes nothing, or asks for nothing, for so many nanoseconds is disconnected.
    public var timeout: UInt64 = 60_000_000_000

    /// Shows one output.
    public init(frames: String, address: VNCAddress) {
      self.frames = frames
      self.address = address
    }
  }

  /// Why it cannot start: what failed, on what, and what to do.
  public struct Failure: Error, CustomStringConvertible, Sendable {
    /// For the operator.
    public let description: String
  }

  /// Where each output's viewers connect.
  public private(set) var addresses: [VNCAddress] = []
  private let options: Options
  private let loop: EventLoop
  private let log: Logger
  private let source: FrameSource
  private let layout: KeyLayout
  private var listeners: [Listener] = []
  private var viewers: [Viewer] = []
  private var count: UInt64 = 0
  private var clock: LoopTimer?
  /// Ends the turn in which a viewer that waits for a newer frame may begin without it.
  private var fresh: LoopTimer?
  private static let freshness: UInt64 = 100_000_000

  /// Listens and connects.
  public init(_ options: Options, on loop: EventLoop, log: Logger) throws(Failure) {
    self.options = options
    self.loop = loop
    self.log = log
    do throws(KeyLayout.Unknown) {
      layout = try KeyLayout(layout: options.layout, variant: options.variant)
    } catch { throw Failure(description: "\(error)") }
    do throws(FramesError) {
      source = try FrameSource(options.frames, on: loop, log: log)
    } catch { throw Failure(description: "\(error)") }
    for output in 0..<min(options.outputs, FrameSource.maxOutputs) { try listen(output) }
    source.tell = { [unowned self] output, news in
      for viewer in viewers where viewer.output == output { viewer.tell(news) }
    }
    fresh = LoopTimer(on: loop) {}
    clock = LoopTimer(on: loop) { [unowned self] in
      for viewer in viewers { viewer.expire(after: self.options.timeout) }
    }
    loop.everyTurn { [unowned self] in settle() }
  }

  /// The paths that are removed at the end.
  public var paths: [String] {
    addresses.compactMap { if case .path(let path) = $0 { path } else { nil } }
  }

  private func listen(_ output: Int) throws(Failure) {
    guard let address = options.address.of(output: output) else {
      throw Failure(description: "there is no port for output \(output) behind \(options.address)")
    }
    do throws(ListenError) {
      let listener: Listener
      switch address {
      case .path(let path):
        listener = try Listener(.path(path, .stream, takesDescriptors: false), on: loop)
        addresses.append(address)
      case .loopback(let host, let port):
        listener = try Listener(.loopback(host, port: port), on: loop)
        addresses.append(.loopback(host, port: listener.port))
      }
      listener.failed = { [log] in log.warning("cannot accept a viewer: \($0)") }
      listener.connected = { [unowned self] in accept($0, output) }
      listeners.append(listener)
    } catch {
      // There is no password and no encryption.
      throw Failure(description: "viewers: \(error)")
    }
  }

  private func accept(_ connection: consuming OwnedFD, _ output: Int) {
    guard viewers.count < options.maxViewers else {
      return log.warning("a viewer was turned away: \(viewers.count) are connected (--max-viewers)")
    }
    count &+= 1
    let name = options.outputs > 1 ? "\(options.name) \(output)" : options.name
    let session = RFBSession(name: name, picture: source.screens[output])
    let cursor = source.cursor(of: output)
    session.show(cursor: cursor.image, x: cursor.x, y: cursor.y)
    do throws(Errno) {
      try UnixSocket.setNonblocking(connection.raw, true)
      let viewer = try Viewer(
        connection, output: output, number: count, session: session,
        input: link(), layout: layout, loop: loop)
      viewers.append(viewer)
    } catch { return log.warning("cannot serve a viewer: \(error)") }
    // Frames are not fetched while nobody looks: what is at hand may be old.
    if source.release(output) {
      viewers.last?.wait(Self.freshness)
      fresh?.arm(after: Self.freshness + 1_000_000)
    }
    log.info("viewer \(count) looks at output \(output)")
    if clock?.isArmed == false { clock?.arm(after: 1_000_000_000, every: 1_000_000_000) }
  }

  /// The way of a viewer's keys; each viewer has its own, so that they go up when it leaves.
  private func link() -> InputLink? {
    guard let path = options.input else { return nil }
    let link = InputLink(path, name: "pinhole vnc", on: loop)
    link.failed = { [log] in log.warning("a viewer's keys are lost: \($0)") }
    return link
  }

  /// The end of a turn: who leaves, who has something to send, and whose pictures are wanted.
  private func settle() {
    viewers.removeAll { viewer in
      guard let why = viewer.end else { return false }
      log.info("viewer \(viewer.number) is disconnected: \(why)")
      return true
    }
    if viewers.isEmpty { clock?.disarm() }
    var wanted: UInt64 = 0
    for viewer in viewers {
      viewer.settle()
      if viewer.takesNewest() { wanted |= 1 << UInt64(viewer.output) }
    }
    for output in 0..<FrameSource.maxOutputs where wanted >> UInt64(output) & 1 == 1 {
      source.release(output)
    }
  }
}
