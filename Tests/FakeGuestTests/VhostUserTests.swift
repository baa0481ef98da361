import FakeGuest
import Glibc
import GuestMemory
import Linux
import Logging
import Testing
import VhostUser
import Virtqueue

/// A device that answers every command with OK and the fence, as far as that fits.
private final class AgreeableDevice: VirtioDevice {
  let deviceFeatures: UInt64 = 1 << 1
  let queueCount = 2
  let maxQueueSize: UInt16 = 256
  var queues: [Int: VirtioQueue] = [:]
  var displays: [SharedFD] = []
  let resets = Locked(0)

  func featuresNegotiated(_ features: UInt64) {}
  func readConfig(offset: UInt32, count: UInt32) -> [UInt8]? {
    (0..<count).map { UInt8(truncatingIfNeeded: offset + $0) }
  }
  func queueStarted(_ index: Int, _ queue: VirtioQueue) { queues[index] = queue }
  func queueStopped(_ index: Int) { queues[index] = nil }
  func queueKicked(_ index: Int) {
    guard let queue = queues[index] else { return }
    repeat {
      while let chain = queue.pop() {
        var header = [UInt8](repeating: 0, count: 24)
        let count = header.withUnsafeMutableBytes { chain.read(into: $0) }
        header.replaceSubrange(0..<4, with: count == 24 ? [0, 0x11, 0, 0] : [0, 0x12, 0, 0])
        let written = header.withUnsafeBytes { chain.write($0) }
        queue.push(chain, written: UInt32(written))
      }
    } while queue.ring.enableNotifications()
    queue.notifyIfWanted()
  }
  func deviceReset() { resets.withLock { $0 += 1 } }
  func displaySocket(_ fd: consuming OwnedFD) { displays = [SharedFD(fd)] }
  func disconnected() {}
}

/// A back-end in a thread of its own.
private final class Backend {
  let socket: String
  let resets: Locked<Int>
  private let directory: TemporaryDirectory
  private let stopper: EventLoop.Stopper
  private var thread: Linux.Thread?

  init() throws {
    directory = try TemporaryDirectory()
    let path = directory.file("socket")
    let loop = try EventLoop()
    let device = AgreeableDevice()
    resets = device.resets
    let server = VhostUserServer(
      device: device, memory: GuestMemory(), loop: loop, logger: Logger(label: "test"))
    server.displaySocketArrived = { device.displaySocket($0) }
    try server.listen(on: path)
    stopper = loop.stopper
    socket = path
    nonisolated(unsafe) let handOver = (server, loop)
    thread = try Linux.Thread("backend") {
      try? handOver.1.run()
      handOver.0.stop()
    }
  }

  deinit {
    stopper.stop()
    thread = nil
  }
}

@Suite struct FrontEndTests {
  private func ram() throws -> GuestRAM {
    let size: UInt64 = 16 << 20
    return try GuestRAM(size: size, regions: GuestRAM.pcRegions(size: size))
  }

  @Test(arguments: [0, Feature.indirect, Feature.eventIndex, Feature.all])
  func commandsAreAnsweredWithAnyRingFeatures(_ features: UInt64) throws {
    let backend = try Backend()
    let frontEnd = try VhostUserFrontEnd(path: backend.socket, ram: ram())
    var options = GPUDriver.Options()
    options.features = features | Feature.version1
    let driver = try GPUDriver(frontEnd, options)
    #expect(driver.features & ~options.features == 0)
    var fences: [UInt64] = []
    for i in 1...300 {
      try driver.send(.getDisplayInfo.fenced(UInt64(i)).cut(into: 1 + i % 5)) {
        if $0.response == .ok, $0.length == 24 { fences.append($0.fence) }
      }
      if i % 7 == 0 { try driver.kick() }
    }
    try driver.drain()
    #expect(fences == (1...300).map { UInt64($0) })
    #expect(try driver.run(.moveCursor(0, x: 1, y: 2)).response == .ok)
  }

  @Test(arguments: [ProtocolFeature.all, ProtocolFeature.config, 0])
  func aPauseAResetAndMemoryChangesKeepTheGuestGoing(_ protocolFeatures: UInt64) throws {
    let backend = try Backend()
    var options = VhostUserFrontEnd.Options()
    options.protocolFeatures = protocolFeatures
    let frontEnd = try VhostUserFrontEnd(path: backend.socket, ram: ram(), options)
    let driver = try GPUDriver(frontEnd)
    #expect(try driver.run(.getDisplayInfo).response == .ok)
    for _ in 0..<3 {
      try frontEnd.pause()
      try driver.send(.getDisplayInfo)
      try driver.kick()
      #expect(try driver.poll() == 0)
      try frontEnd.resume()
      try driver.drain()
    }
    #expect(frontEnd.display?.now.sockets == 4)
    if protocolFeatures & ProtocolFeature.memorySlots != 0 {
      let low = GuestRAM.pcRegions(size: 16 << 20)[0]
      try frontEnd.removeMemory(low)
      #expect(try driver.run(.getDisplayInfo).response == .ok)
      try frontEnd.addMemory(low)
    }
    try driver.restart()
    #expect(try driver.run(.getDisplayInfo).response == .ok)
    if protocolFeatures & ProtocolFeature.config != 0 {
      #expect(try frontEnd.readConfig(offset: 3, count: 4) == [3, 4, 5, 6])
    }
    // Also where the front-end cannot say RESET_DEVICE: its rings begin at their start.
    #expect(backend.resets.withLock { $0 } == 1)
  }

  @Test func aBackendServesTheNextFrontEndAfterOneVanishes() throws {
    let backend = try Backend()
    for _ in 0..<5 {
      let frontEnd = try VhostUserFrontEnd(path: backend.socket, ram: ram())
      let driver = try GPUDriver(frontEnd)
      #expect(try driver.run(.getDisplayInfo).response == .ok)
    }
  }

  @Test func aBackendThatDiesIsNoticedAtOnce() throws {
    var backend: Backend? = try Backend()
    let frontEnd = try VhostUserFrontEnd(path: try #require(backend).socket, ram: ram())
    let driver = try GPUDriver(frontEnd)
    backend = nil
    #expect(throws: GuestError.self) { try driver.run(.getDisplayInfo) }
    #expect(frontEnd.channel.isClosed)
  }
}
