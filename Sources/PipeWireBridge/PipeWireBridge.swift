import Bridge
import CPipeWire
import Glibc
import Linux
import Logging
import PinholeFrames

/// A node in PipeWire for each output that has shown a picture. It outlives both daemons: when
/// one of them is gone, its next start is waited for. It belongs to the event loop's thread.
public final class PipeWireBridge {
  private let name: String
  private let remote: String?
  private let role: String
  private let loop: EventLoop
  private let log: Logger
  private let pipeWire: OpaquePointer
  private var token: EventLoop.Token?
  private var retry: LoopTimer?
  private var feed: FrameFeed?
  private var nodes: [UInt32: PipeWireNode] = [:]
  private var isConnected = false
  private var hasComplained = false

  /// Prepares PipeWire's library and connects to both sides, now or later.
  ///
  /// - Parameters:
  ///   - frames: a frame or copy socket.
  ///   - name: of the node of output 0; those of the others have `-1` and so on behind it.
  ///   - role: `media.role` of the nodes.
  ///   - remote: PipeWire's socket by name or path; nil for what the environment says.
  public init(
    frames: String, name: String, role: String = "Screen", remote: String?, loop: EventLoop,
    log: Logger
  ) throws(Errno) {
    self.role = role
    self.name = name
    self.remote = remote
    self.loop = loop
    self.log = log
    var error: CInt = 0
    guard let made = ph_pw_new(&error) else { throw Errno(error, "pw_context_new") }
    pipeWire = made
    retry = LoopTimer(on: loop) { [unowned self] in connect() }
    token = try loop.watch(ph_pw_fd(made), for: .readable) { [unowned self] _ in turn() }
    connect()
    var handlers = FrameFeed.Handlers()
    handlers.frame = { [unowned self] in show($0, $1) }
    handlers.lost = { [unowned self] in for node in nodes.values { node.producerLost() } }
    feed = FrameFeed(
      path: frames, name: "pinhole pipewire", takesPool: true, loop: loop, log: log,
      handlers: handlers)
  }

  deinit {
    if let token { loop.unwatch(token) }
    nodes = [:]
    ph_pw_free(pipeWire)
  }

  private func connect() {
    guard !isConnected else { return }
    let result = ph_pw_connect(pipeWire, remote)
    guard result >= 0 else {
      if !hasComplained {
        let error = Errno(0 - result, "pw_context_connect")
        log.warning("no PipeWire: \(error.message); trying again until there is")
      }
      hasComplained = true
      retry?.arm(after: 500_000_000)
      return
    }
    hasComplained = false
    isConnected = true
    log.info("connected to PipeWire")
    for node in nodes.values { node.connect() }
  }

  private func turn() {
    ph_pw_turn(pipeWire)
    for node in nodes.values { node.present() }
    guard isConnected, ph_pw_is_connected(pipeWire) == 0 else { return }
    isConnected = false
    log.warning("PipeWire is gone; trying again until it is back")
    for node in nodes.values { node.disconnect() }
    ph_pw_disconnect(pipeWire)
    retry?.arm(after: 500_000_000)
  }

  private func show(_ frame: ReceivedFrame, _ buffer: ReceivedBuffer) {
    let node = nodes[frame.output] ?? makeNode(frame.output)
    node.show(frame, buffer)
  }

  private func makeNode(_ output: UInt32) -> PipeWireNode {
    let name = output == 0 ? name : "\(name)-\(output)"
    let node = PipeWireNode(
      pipeWire, name: name, description: "Pinhole output \(output)", role: role, loop: loop,
      log: log,
      producer: { [unowned self] in feed },
      answer: { [unowned self] in feed?.done($0, of: $1) })
    nodes[output] = node
    log.info("output \(output) is PipeWire's node \(name)")
    return node
  }
}
