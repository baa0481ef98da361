import CLinux
import GuestMemory
import Linux
import Logging
import Virtqueue

/// One front-end's connection to one device (QEMU docs/interop/vhost-user.rst).
///
/// It runs in the event loop's thread, from the moment it is made until the front-end leaves,
/// breaks the protocol, or ``close()``.
public final class VhostUserSession {
  /// The guest's memory, as the front-end has described it so far.
  public let memory: GuestMemory
  /// The feature bits that the driver chose.
  public internal(set) var features: UInt64 = 0
  /// The device status that the front-end has told (virtio 1.3, 2.1). It becomes zero at a pause
  /// too, so it says nothing about resets.
  public internal(set) var status: UInt8 = 0
  /// Where requests of our own to the front-end go (`VHOST_USER_SET_BACKEND_REQ_FD`).
  public internal(set) var backendChannel: SharedFD?
  /// Whether the front-end is still there.
  public private(set) var isOpen = true

  /// Takes a new socket to the front-end's display, in place of any older one (docs/interop/
  /// vhost-user-gpu.rst); without it such sockets are closed. One comes at each start of the
  /// machine, before memory and rings.
  public var displaySocketArrived: ((consuming OwnedFD) -> Void)?

  let device: any VirtioDevice
  let loop: EventLoop
  let logger: Logger
  var protocolFeatures: ProtocolFeatures = []
  var vrings: [Vring]
  private var connection: Connection?
  private let validator: MessageValidator
  private var token: EventLoop.Token?
  private var isBackedUp = false
  private var lossesSeen: UInt64 = 0
  private let ended: (VhostUserError) -> Void
  private static let messagesPerTurn = 32

  /// Takes over a connected stream socket and serves it.
  ///
  /// - Parameters:
  ///   - socket: the front-end's connection.
  ///   - device: what is served.
  ///   - memory: where the front-end's regions go; empty at first.
  ///   - loop: the thread's event loop.
  ///   - logger: told of everything that goes wrong.
  ///   - ended: called once, after the device's ``VirtioDevice/disconnected()``.
  /// - Throws: errors of fcntl(2) and epoll_ctl(2).
  public init(
    _ socket: consuming OwnedFD, device: any VirtioDevice, memory: GuestMemory,
    loop: EventLoop, logger: Logger, ended: @escaping (VhostUserError) -> Void
  ) throws(Errno) {
    let connection = Connection(socket)
    self.connection = connection
    self.device = device
    self.memory = memory
    self.loop = loop
    self.logger = logger
    self.ended = ended
    validator = MessageValidator(
      queueCount: device.queueCount, maxQueueSize: device.maxQueueSize)
    vrings = (0..<device.queueCount).map(Vring.init)
    token = try loop.watch(connection.raw, for: .readable) { [weak self] _ in self?.turn() }
    device.connected(self)
  }

  deinit {
    // Who lets go of a session that still runs has no use for its callbacks any more.
    if isOpen, let token { loop.unwatch(token) }
    for vring in vrings {
      unwatch(vring)
      vring.queue = nil
    }
  }

  /// Ends the session: stops all rings, forgets the memory, tells the device.
  public func close() { close(.closedHere) }

  /// Ends the session if guest memory vanished under it: what was read since then is not the
  /// guest's. To be called at the end of each turn of the loop.
  func checkMemory() {
    let losses = MemoryGuard.losses
    guard isOpen, losses != lossesSeen else { return }
    lossesSeen = losses
    if let region = memory.lostRegion { close(.memoryLost(region)) }
  }

  private func close(_ reason: VhostUserError) {
    guard isOpen else { return }
    isOpen = false
    if let token { loop.unwatch(token) }
    connection = nil
    for vring in vrings { stop(vring) }
    vrings = []
    backendChannel = nil
    memory.removeAll()
    device.disconnected()
    ended(reason)
  }

  /// Serves some messages; the loop comes back for more.
  private func turn() {
    guard isOpen, let connection else { return }
    do throws(VhostUserError) {
      try connection.flush()
      for _ in 0..<Self.messagesPerTurn {
        guard isOpen, !connection.hasOutgoing else { break }
        if connection.isStuck { throw .closeWaits }
        guard let (message, fds) = try connection.receive() else { break }
        try serve(message, fds, over: connection)
      }
      if isOpen, connection.hasOutgoing != isBackedUp { try rewatch(connection) }
    } catch { close(error) }
  }

  /// Who does not read replies gets no more requests served.
  private func rewatch(_ connection: Connection) throws(VhostUserError) {
    guard let token else { return }
    do throws(Errno) {
      try loop.change(token, to: connection.hasOutgoing ? .writable : .readable)
    } catch { throw .socket(error) }
    isBackedUp = connection.hasOutgoing
  }

  private func serve(
    _ message: VhostUserMessage, _ fds: ReceivedFDs, over connection: Connection
  ) throws(VhostUserError) {
    let request = FrontEndRequest(rawValue: message.request)
    do throws(VhostUserError) {
      let valid = try validator.validate(message, fds)
      guard let request else { return }
      if case .getSharedObject(let id) = valid {
        let object = device.sharedObject(id)
        return try connection.send(VhostUserMessage(replyTo: request, []), fd: object)
      }
      let reply = try handle(valid)
      if let reply {
        try connection.send(VhostUserMessage(replyTo: request, reply))
      } else if wantsAck(message) {
        try connection.send(VhostUserMessage(replyTo: request, WordPayload(0).bytes))
      }
    } catch {
      guard let request, wantsAck(message), !Self.hasOwnReply(request) else { throw error }
      try connection.send(VhostUserMessage(replyTo: request, WordPayload(1).bytes))
      guard error.isRefusal else { throw error }
      logger.error("\(error)")
    }
  }

  private func wantsAck(_ message: VhostUserMessage) -> Bool {
    message.needsReply && protocolFeatures.contains(.replyAck)
  }

  private static func hasOwnReply(_ request: FrontEndRequest) -> Bool {
    switch request {
    case .getFeatures, .getProtocolFeatures, .getQueueNum, .getMaxMemorySlots, .getVringBase,
      .getConfig, .getStatus, .getSharedObject:
      return true
    default: return false
    }
  }

  /// Does what a message asks for; returns the payload of its reply where it has one.
  private func handle(_ message: FrontEndMessage) throws(VhostUserError) -> [UInt8]? {
    switch message {
    case .getFeatures:
      return WordPayload(device.deviceFeatures | VirtioFeature.offered).bytes
    case .setFeatures(let bits): try setFeatures(bits)
    case .setOwner, .resetOwner, .getSharedObject: break
    case .getProtocolFeatures: return WordPayload(ProtocolFeatures.offered.rawValue).bytes
    case .setProtocolFeatures(let chosen): protocolFeatures = chosen
    case .setMemoryTable(let regions): try setMemoryTable(regions)
    case .getMaxMemorySlots: return WordPayload(UInt64(GuestMemory.maxRegions)).bytes
    case .addMemoryRegion(let region, let fd): try addRegion(region, fd)
    case .removeMemoryRegion(let region): try removeRegion(region)
    case .getQueueNum: return WordPayload(UInt64(device.queueCount)).bytes
    case .getVringBase(let queue): return getVringBase(vrings[queue])
    case .setVringNum, .setVringAddress, .setVringBase, .setVringKick, .setVringCall,
      .setVringError, .setVringEnable:
      try setUp(message)
    case .getConfig(let offset, let count):
      guard let bytes = device.readConfig(offset: offset, count: count), bytes.count == count
      else { return [] }
      return ConfigPayload(offset: offset, contents: bytes).bytes
    case .setConfig(let offset, let bytes): device.writeConfig(offset: offset, bytes: bytes)
    case .setBackendChannel(let channel): backendChannel = channel
    case .gpuSetSocket(let fds):
      guard let fd = fds.take(), UnixSocket.isSocket(fd.raw, kind: .stream) else {
        throw .badDescriptor("gpuSetSocket", nil)
      }
      displaySocketArrived?(fd)
    case .resetDevice: reset()
    case .getStatus: return WordPayload(UInt64(status)).bytes
    case .setStatus(let new): status = new
    }
    return nil
  }
}
