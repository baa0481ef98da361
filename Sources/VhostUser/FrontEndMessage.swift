import GuestMemory
import Linux
import Virtqueue

/// A front-end's message that was found well-formed: sizes, descriptor counts and ranges.
enum FrontEndMessage {
  case getFeatures
  case setFeatures(UInt64)
  case setOwner
  case resetOwner
  case getProtocolFeatures
  case setProtocolFeatures(ProtocolFeatures)
  case setMemoryTable([(region: MemoryRegion, fd: SharedFD)])
  case getMaxMemorySlots
  case addMemoryRegion(MemoryRegion, SharedFD)
  case removeMemoryRegion(MemoryRegion)
  case getQueueNum
  case setVringNum(queue: Int, UInt16)
  case setVringAddress(queue: Int, RingAddresses)
  case setVringBase(queue: Int, UInt16)
  case getVringBase(queue: Int)
  case setVringKick(queue: Int, SharedFD?)
  case setVringCall(queue: Int, SharedFD?)
  case setVringError(queue: Int, SharedFD?)
  case setVringEnable(queue: Int, Bool)
  case getConfig(offset: UInt32, count: UInt32)
  case setConfig(offset: UInt32, [UInt8])
  case setBackendChannel(SharedFD)
  case gpuSetSocket(ReceivedFDs)
  case resetDevice
  case getStatus
  case setStatus(UInt8)
  case getSharedObject(SharedObjectID?)
}

/// Judges messages one by one; it knows the device's limits and keeps no state.
struct MessageValidator {
  let queueCount: Int
  let maxQueueSize: UInt16

  func validate(
    _ message: VhostUserMessage, _ fds: ReceivedFDs
  ) throws(VhostUserError) -> FrontEndMessage {
    guard let request = FrontEndRequest(rawValue: message.request) else {
      throw .notOffered(request: message.request)
    }
    let input = Input(request: request, payload: message.payload, fds: fds)
    switch request {
    case .setMemoryTable, .addMemoryRegion, .removeMemoryRegion: return try memory(input)
    case .setVringNum, .setVringAddress, .setVringBase, .getVringBase, .setVringEnable,
      .setVringKick, .setVringCall, .setVringError:
      return try vring(input)
    case .getConfig, .setConfig: return try config(input)
    case .setBackendRequestFD, .gpuSetSocket: return try socket(input)
    case .setFeatures, .setProtocolFeatures, .setStatus: return try word(input)
    case .getSharedObject: return try sharedObject(input)
    default: return try bare(input)
    }
  }

  /// A request with what came along.
  struct Input {
    let request: FrontEndRequest
    let payload: [UInt8]
    let fds: ReceivedFDs

    var name: String { "\(request)" }
    var badPayload: VhostUserError { .badPayload(name, size: payload.count) }

    func expectFDs(_ count: Int) throws(VhostUserError) {
      guard fds.count == count else { throw .badDescriptorCount(name, count: fds.count) }
    }

    func takeFD() throws(VhostUserError) -> SharedFD {
      guard let fd = fds.take() else { throw .badDescriptorCount(name, count: 0) }
      return SharedFD(fd)
    }
  }

  private func bare(_ input: Input) throws(VhostUserError) -> FrontEndMessage {
    let valid: FrontEndMessage
    switch input.request {
    case .getFeatures: valid = .getFeatures
    case .setOwner: valid = .setOwner
    case .resetOwner: valid = .resetOwner
    case .getProtocolFeatures: valid = .getProtocolFeatures
    case .getQueueNum: valid = .getQueueNum
    case .getMaxMemorySlots: valid = .getMaxMemorySlots
    case .resetDevice: valid = .resetDevice
    case .getStatus: valid = .getStatus
    default: throw .notOffered(request: input.request.rawValue)
    }
    guard input.payload.isEmpty else { throw input.badPayload }
    try input.expectFDs(0)
    return valid
  }

  private func sharedObject(_ input: Input) throws(VhostUserError) -> FrontEndMessage {
    try input.expectFDs(0)
    // QEMU 10 forgets to set the size, and so sends no name.
    if input.payload.isEmpty { return .getSharedObject(nil) }
    guard let id = SharedObjectID(input.payload) else { throw input.badPayload }
    return .getSharedObject(id)
  }

  private func word(_ input: Input) throws(VhostUserError) -> FrontEndMessage {
    guard let word = WordPayload(input.payload)?.value else { throw input.badPayload }
    try input.expectFDs(0)
    switch input.request {
    case .setFeatures: return .setFeatures(word)
    case .setProtocolFeatures:
      let features = ProtocolFeatures(rawValue: word)
      let surplus = features.subtracting(.offered)
      guard surplus.isEmpty else {
        throw .unsupportedFeatures("protocol " + VirtioFeature.names(of: surplus.rawValue))
      }
      return .setProtocolFeatures(features)
    default:
      guard let status = UInt8(exactly: word) else { throw input.badPayload }
      return .setStatus(status)
    }
  }

  private func memory(_ input: Input) throws(VhostUserError) -> FrontEndMessage {
    if input.request == .setMemoryTable {
      guard let table = MemoryTable(input.payload) else { throw input.badPayload }
      try input.expectFDs(table.regions.count)
      var regions: [(region: MemoryRegion, fd: SharedFD)] = []
      for region in table.regions { regions.append((region, try input.takeFD())) }
      return .setMemoryTable(regions)
    }
    guard let region = SingleRegion(input.payload)?.region else { throw input.badPayload }
    if input.request == .addMemoryRegion {
      try input.expectFDs(1)
      return .addMemoryRegion(region, try input.takeFD())
    }
    // Older front-ends send a descriptor with a removal; it only has to be closed.
    guard input.fds.count <= 1 else {
      throw .badDescriptorCount(input.name, count: input.fds.count)
    }
    return .removeMemoryRegion(region)
  }

  private func queue(_ index: UInt32, _ input: Input) throws(VhostUserError) -> Int {
    guard let queue = Int(exactly: index), queue < queueCount else {
      throw .noSuchQueue(input.name, index: index)
    }
    return queue
  }

  private func vring(_ input: Input) throws(VhostUserError) -> FrontEndMessage {
    switch input.request {
    case .setVringKick, .setVringCall, .setVringError: return try vringDescriptor(input)
    case .setVringAddress:
      guard let address = VringAddress(input.payload) else { throw input.badPayload }
      try input.expectFDs(0)
      return .setVringAddress(queue: try queue(address.index, input), address.addresses)
    default: break
    }
    guard let state = VringState(input.payload) else { throw input.badPayload }
    try input.expectFDs(0)
    let queue = try queue(state.index, input)
    switch input.request {
    case .setVringNum:
      guard let size = UInt16(exactly: state.num), size > 0, size <= maxQueueSize else {
        throw input.badPayload
      }
      return .setVringNum(queue: queue, size)
    case .setVringBase:
      guard let base = UInt16(exactly: state.num) else { throw input.badPayload }
      return .setVringBase(queue: queue, base)
    case .setVringEnable:
      guard state.num <= 1 else { throw input.badPayload }
      return .setVringEnable(queue: queue, state.num == 1)
    default: return .getVringBase(queue: queue)
    }
  }

  private func vringDescriptor(_ input: Input) throws(VhostUserError) -> FrontEndMessage {
    guard let descriptor = VringDescriptor(input.payload) else { throw input.badPayload }
    try input.expectFDs(descriptor.hasDescriptor ? 1 : 0)
    let queue = try queue(descriptor.index, input)
    var fd: SharedFD?
    if descriptor.hasDescriptor {
      let event = try input.takeFD()
      // Only those are known not to wait; and `O_NONBLOCK` stays as the front-end has it.
      guard Foreign.isEventFD(event.raw) else { throw .badDescriptor(input.name, nil) }
      fd = event
    }
    switch input.request {
    case .setVringKick: return .setVringKick(queue: queue, fd)
    case .setVringCall: return .setVringCall(queue: queue, fd)
    default: return .setVringError(queue: queue, fd)
    }
  }

  private func config(_ input: Input) throws(VhostUserError) -> FrontEndMessage {
    guard let config = ConfigPayload(input.payload) else { throw input.badPayload }
    try input.expectFDs(0)
    if input.request == .setConfig {
      return .setConfig(offset: config.offset, config.contents)
    }
    return .getConfig(offset: config.offset, count: UInt32(config.contents.count))
  }

  private func socket(_ input: Input) throws(VhostUserError) -> FrontEndMessage {
    guard input.payload.isEmpty else { throw input.badPayload }
    try input.expectFDs(1)
    if input.request == .gpuSetSocket { return .gpuSetSocket(input.fds) }
    let channel = try input.takeFD()
    guard UnixSocket.isSocket(channel.raw, kind: .stream) else {
      throw .badDescriptor(input.name, nil)
    }
    return .setBackendChannel(channel)
  }
}
