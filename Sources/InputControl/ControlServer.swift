import Glibc
import Linux
import Logging
import PinholeInput
import PinholeProtocol

/// Where controllers connect. It belongs to the event loop's thread.
public final class ControlServer {
  /// Bounds, and who may connect.
  public struct Options: Sendable {
    /// Controllers at a time.
    public var maxControllers = 16
    /// Events a second that one controller may send.
    public var maxRate = 4000
    /// Mode of the socket: whoever may write may control.
    public var mode: mode_t = 0o600
    /// The socket's group; nil leaves it as it is.
    public var group: gid_t?
    /// The defaults.
    public init() {}
  }

  private let hub: InputHub
  private let loop: EventLoop
  private let log: Logger
  private let options: Options
  private var controllers: [UInt64: Controller] = [:]
  private var listener: Listener?
  private var lastNumber: UInt64 = 0
  /// Controllers that are to go at the end of the turn: not while their code runs.
  private var leaving: [UInt64: String?] = [:]

  /// A server that does nothing yet.
  public init(_ hub: InputHub, options: Options, loop: EventLoop, log: Logger) {
    self.hub = hub
    self.options = options
    self.loop = loop
    self.log = log
    hub.ledsChanged = { [unowned self] in
      let leds = self.hub.leds
      for controller in controllers.values { controller.tell(leds: leds) }
    }
    loop.everyTurn { [weak self] in self?.dismiss() }
  }

  /// Listens on a path. The kernel decides by mode and group who may connect.
  ///
  /// - Throws: ``ListenError``.
  public func listen(on path: String) throws(ListenError) {
    let access = UnixSocket.Access.mode(options.mode, group: options.group)
    let listener = try Listener(
      .path(path, .seqpacket, access: access, takesDescriptors: false), on: loop)
    listener.failed = { [log] in log.warning("cannot accept a controller: \($0)") }
    listener.connected = { [unowned self] in serve($0) }
    self.listener = listener
  }

  /// Ends all connections and removes the socket.
  public func stop() {
    for controller in controllers.values {
      controller.refuse(PINHOLE_INPUT_ERROR_SHUTDOWN, "pinhole input ends")
      hub.left(controller.number)
    }
    controllers = [:]
    listener = nil
  }

  /// Takes over a connected `SOCK_SEQPACKET` socket.
  package func serve(_ socket: consuming OwnedFD) {
    do throws(Errno) {
      lastNumber &+= 1
      let controller = try Controller(
        socket, number: lastNumber, rate: options.maxRate, loop: loop,
        received: { [unowned self] message, controller throws(InputWire.Malformed) in
          try take(message, from: controller)
        },
        ended: { [unowned self] controller, why in leaving[controller.number] = why })
      guard controllers.count < options.maxControllers else {
        controller.refuse(
          PINHOLE_INPUT_ERROR_LIMIT, "\(options.maxControllers) controllers are connected")
        return log.warning("a controller was turned away: there are \(controllers.count)")
      }
      controllers[lastNumber] = controller
    } catch { log.warning("a controller cannot be served: \(error)") }
  }

  private func take(
    _ message: InputWire.Message, from controller: Controller
  ) throws(InputWire.Malformed) {
    guard leaving[controller.number] == nil else { return }
    switch message {
    case .hello(let version, let name):
      guard !controller.isWelcome else { throw InputWire.Malformed("a second HELLO") }
      guard version == PINHOLE_INPUT_VERSION else {
        controller.refuse(
          PINHOLE_INPUT_ERROR_VERSION, "version \(version) is not spoken here, only 1")
        leaving[controller.number] = "it speaks version \(version)"
        return
      }
      controller.welcome(name: name, devices: hub.devices, leds: hub.leds)
      log.info("controller \(controller.number) has connected: \(Self.printable(name))")
    case .events(let output, let width, let height, let events):
      guard controller.isWelcome else { throw InputWire.Malformed("EVENTS before HELLO") }
      hub.submit(
        events, output: output, width: width, height: height, from: controller.number)
    }
  }

  private func dismiss() {
    guard !leaving.isEmpty else { return }
    for (number, why) in leaving {
      guard controllers.removeValue(forKey: number) != nil else { continue }
      hub.left(number)
      if let why {
        log.warning("controller \(number) is disconnected: \(why)")
      } else {
        log.info("controller \(number) has left")
      }
    }
    leaving = [:]
  }

  /// Names come from strangers and go to the log.
  private static func printable(_ name: String) -> String {
    String(
      name.unicodeScalars.map { $0.properties.generalCategory == .control ? "?" : Character($0) })
  }
}
