import CLinux
import Glibc
import Linux

/// A vhost-user front-end for one virtio-gpu, in the order in which QEMU 10 sends its messages.
package final class VhostUserFrontEnd: DeviceTransport {
  /// How the front-end behaves.
  package struct Options: Sendable {
    /// Protocol features it takes if they are offered.
    package var protocolFeatures = ProtocolFeature.all
    /// It gives the back-end a display socket at each start.
    package var display = true
    /// What is added to the acknowledged features, whatever was offered.
    package var forcedFeatures: UInt64 = 0
    /// What the display does from the beginning.
    package var behaviour = FakeDisplay.Behaviour()
    /// Leaves after so many messages and so many bytes of the next one.
    package var cut: (messages: Int, bytes: Int)?
    /// Milliseconds until a missing reply is an error: of a back-end that serves another one first.
    package var patience: CInt = 10_000
    /// Behaves as QEMU does.
    package init() {}
  }

  private struct Bells {
    let ring: SplitRing
    let kick: SharedFD
    let call: SharedFD
  }

  package let ram: GuestRAM
  /// The socket; messages may also be sent on it by hand.
  package let channel: FrontEndChannel
  /// QEMU's side of the display socket.
  package let display: FakeDisplay?
  /// Negotiated protocol features.
  package private(set) var protocolFeatures: UInt64 = 0
  private let options: Options
  private var bells: [Bells] = []
  private var features: UInt64 = 0
  private var memoryIsSet = false
  private var bases: [UInt16] = []
  /// Where the back-end's own requests arrive, if it may send any.
  package private(set) var backendRequests: SharedFD?

  /// Where the front-end pretends to have mapped the guest's file.
  package static let userBase: UInt64 = 0x7f5a_0000_0000

  /// Connects to a back-end's socket and does what QEMU does when it makes the device.
  package convenience init(
    path: String, ram: GuestRAM, _ options: Options = .init()
  ) throws(GuestError) {
    let socket = try doing("connecting to \(path)") { () throws(Errno) in
      try UnixSocket.connect(path, kind: .stream)
    }
    try self.init(socket, ram: ram, options)
  }

  /// The same on a socket that is connected already.
  package init(
    _ socket: consuming OwnedFD, ram: GuestRAM, _ options: Options = .init()
  ) throws(GuestError) {
    channel = FrontEndChannel(socket)
    channel.patience = options.patience
    self.ram = ram
    self.options = options
    display = options.display ? FakeDisplay() : nil
    display?.behave { $0 = options.behaviour }
    channel.cut = options.cut
    try negotiate()
  }

  private var acks: Bool { protocolFeatures & ProtocolFeature.replyAck != 0 }
  private func has(_ bit: UInt64) -> Bool { protocolFeatures & bit != 0 }

  private func negotiate() throws(GuestError) {
    let offered: UInt64 = WireBytes.read(try channel.ask(.getFeatures), 0)
    if offered & Feature.protocolFeatures != 0 {
      let bits: UInt64 = WireBytes.read(try channel.ask(.getProtocolFeatures), 0)
      protocolFeatures = bits & options.protocolFeatures
      try channel.tell(.setProtocolFeatures, WireBytes(u64: protocolFeatures).bytes)
      if has(ProtocolFeature.multiqueue) {
        let queues: UInt64 = WireBytes.read(try channel.ask(.getQueueNum), 0)
        guard queues >= 2 else { throw .unsupported("the back-end has \(queues) queues") }
      }
    }
    try channel.tell(.setOwner)
    if has(ProtocolFeature.memorySlots) { _ = try channel.ask(.getMaxMemSlots) }
    if has(ProtocolFeature.backendRequests) { try sendBackendRequestSocket() }
  }

  private func sendBackendRequestSocket() throws(GuestError) {
    let pair = try doing("back-end request socket") { () throws(Errno) in
      try UnixSocket.Pair(.stream)
    }
    var ends: (SharedFD?, SharedFD?) = (nil, nil)
    pair.split { ends = (SharedFD($0), SharedFD($1)) }
    guard let ours = ends.0, let theirs = ends.1 else { return }
    try channel.tell(.setBackendReqFD, fds: [theirs.raw], ack: acks)
    backendRequests = ours
  }

  package func deviceFeatures() throws(GuestError) -> UInt64 {
    let offered: UInt64 = WireBytes.read(try channel.ask(.getFeatures), 0)
    return offered & ~Feature.protocolFeatures
  }

  package func start(features: UInt64, queues: [SplitRing]) throws(GuestError) {
    self.features = features | options.forcedFeatures
    if protocolFeatures != 0 { self.features |= Feature.protocolFeatures }
    bells = []
    for ring in queues {
      bells.append(Bells(ring: ring, kick: try eventFD(), call: try eventFD()))
    }
    bases = queues.map { _ in 0 }
    try startDevice()
  }

  private func eventFD() throws(GuestError) -> SharedFD {
    SharedFD(
      try doing("eventfd") { () throws(Errno) in
        OwnedFD(adopting: try check(ph_eventfd(0), "eventfd"))
      })
  }

  /// What QEMU sends at `DRIVER_OK` and after `cont`: display socket first, memory, then rings.
  private func startDevice() throws(GuestError) {
    if let display {
      let theirs = SharedFD(try display.replaceSocket())
      try channel.tell(.gpuSetSocket, fds: [theirs.raw])
    }
    try channel.tell(.setFeatures, WireBytes(u64: features).bytes)
    try sendMemory()
    for index in bells.indices { try startRing(index) }
    for index in bells.indices { try enable(index, true) }
    if has(ProtocolFeature.status) {
      _ = try channel.ask(.getStatus)
      try channel.tell(.setStatus, WireBytes(u64: 1 | 2 | 4).bytes, ack: acks)
    }
  }

  private func startRing(_ index: Int) throws(GuestError) {
    let ring = bells[index].ring
    let number = UInt32(index)
    try channel.tell(.setVringNum, WireBytes(u32: number, UInt32(ring.size)).bytes)
    try channel.tell(.setVringBase, WireBytes(u32: number, UInt32(bases[index])).bytes)
    var address = WireBytes(u32: number, 0)
    for guest in [ring.descriptorTable, ring.used, ring.available, 0] {
      address.put(guest == 0 ? 0 : userAddress(ofGuest: guest))
    }
    try channel.tell(.setVringAddr, address.bytes, ack: acks)
    let selector = WireBytes(u64: UInt64(index)).bytes
    try channel.tell(.setVringKick, selector, fds: [bells[index].kick.raw])
    try channel.tell(.setVringCall, selector, fds: [bells[index].call.raw])
  }

  /// SET_VRING_ENABLE.
  package func enable(_ queue: Int, _ on: Bool) throws(GuestError) {
    guard features & Feature.protocolFeatures != 0 else { return }
    try channel.tell(.setVringEnable, WireBytes(u32: UInt32(queue), on ? 1 : 0).bytes, ack: acks)
  }

  package func userAddress(ofGuest address: UInt64) -> UInt64 {
    Self.userBase &+ (ram.fileOffset(ofGuest: address) ?? address)
  }

  private func describe(_ region: GuestRAM.Region) -> [UInt8] {
    WireBytes(
      u64: region.guestAddress, region.size, Self.userBase &+ region.fileOffset,
      region.fileOffset
    ).bytes
  }

  private func sendMemory() throws(GuestError) {
    if has(ProtocolFeature.memorySlots) {
      guard !memoryIsSet else { return }
      for region in ram.regions { try addMemory(region) }
    } else {
      var table = WireBytes(u32: UInt32(ram.regions.count), 0).bytes
      for region in ram.regions { table += describe(region) }
      try channel.tell(
        .setMemTable, table, fds: ram.regions.map { _ in ram.fd.raw }, ack: acks)
    }
    memoryIsSet = true
  }

  /// ADD_MEM_REG.
  package func addMemory(_ region: GuestRAM.Region) throws(GuestError) {
    let payload = WireBytes(u64: 0).bytes + describe(region)
    try channel.tell(.addMemReg, payload, fds: [ram.fd.raw], ack: acks)
  }

  /// REM_MEM_REG.
  package func removeMemory(_ region: GuestRAM.Region) throws(GuestError) {
    try channel.tell(.remMemReg, WireBytes(u64: 0).bytes + describe(region), ack: acks)
  }

  package func kick(_ queue: Int) throws(GuestError) {
    _ = ph_eventfd_signal(bells[queue].kick.raw)
  }

  package func waitForCall(_ queue: Int, milliseconds: Int) throws(GuestError) {
    let ready = waitReadable(
      [bells[queue].call.raw, channel.socket.raw], milliseconds: milliseconds)
    if ready[0] { _ = ph_drain(bells[queue].call.raw) }
    // Unasked-for bytes there would be a protocol error: only its end makes it readable.
    if !ready[0], ready[1] { throw .closed("a command") }
  }

  /// The eventfds by which the device calls, by queue.
  package var callEvents: [SharedFD] { bells.map(\.call) }

  /// Interrupts since they were last waited for or taken.
  package func takeCalls(_ queue: Int) -> UInt64 { ph_drain(bells[queue].call.raw) }

  package func readConfig(offset: Int, count: Int) throws(GuestError) -> [UInt8] {
    var payload = WireBytes(u32: UInt32(offset), UInt32(count), 0).bytes
    payload += [UInt8](repeating: 0, count: count)
    let reply = try channel.ask(.getConfig, payload)
    guard reply.count == payload.count else {
      throw .violation("GET_CONFIG of \(count) bytes was answered with \(reply.count)")
    }
    return Array(reply.dropFirst(12))
  }

  package func writeConfig(offset: Int, _ bytes: [UInt8]) throws(GuestError) {
    let payload = WireBytes(u32: UInt32(offset), UInt32(bytes.count), 0).bytes + bytes
    try channel.tell(.setConfig, payload, ack: acks)
  }

  /// What QEMU sends on `stop`: rings off, their indices fetched, status cleared.
  package func pause() throws(GuestError) {
    for index in bells.indices { try enable(index, false) }
    for index in bells.indices {
      let reply = try channel.ask(.getVringBase, WireBytes(u32: UInt32(index), 0).bytes)
      bases[index] = UInt16(truncatingIfNeeded: WireBytes.read(reply, 4, as: UInt32.self))
    }
    if has(ProtocolFeature.status) {
      try channel.tell(.setStatus, WireBytes(u64: 0).bytes, ack: acks)
    }
  }

  /// What QEMU sends on `cont`: a new display socket, features, memory, the same rings.
  package func resume() throws(GuestError) { try startDevice() }

  /// What QEMU sends when the guest resets the device.
  package func reset() throws(GuestError) {
    try pause()
    if has(ProtocolFeature.resetDevice) { try channel.tell(.resetDevice, ack: acks) }
    bells = []
  }
}
