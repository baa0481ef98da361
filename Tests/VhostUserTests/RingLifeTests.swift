import CLinux
import Glibc
import GuestMemory
import Linux
import Testing
import VhostUser
import Virtqueue

@Suite("The life of a ring")
struct RingLifeTests {
  @Test("Requests are served, answered and announced")
  func serves() throws {
    let peer = try FrontEnd()
    let guest = try Guest()
    try peer.handshake()
    try peer.start(guest)
    #expect(peer.device.diary.suffix(1) == ["started 0"])
    guest.request(0xcafe)
    try peer.spin()
    #expect(guest.answer == 0xcafe)
    #expect(guest.usedIndex == 1)
    #expect(guest.wasInterrupted)
  }

  @Test("Each kick is noticed, and none is left for whoever serves the ring next")
  func kicks() throws {
    let peer = try FrontEnd()
    let guest = try Guest()
    try peer.handshake()
    try peer.start(guest)
    for i in 0..<5 as Range<UInt32> {
      guest.request(i)
      try peer.spin()
      #expect(guest.answer == i)
    }
    #expect(try peer.getVringBase() == 5)
    #expect(ph_drain(guest.kick.raw) == 0)
  }

  @Test("A front-end whose eventfds block, or are full, does not stop the loop")
  func fullBells() throws {
    let peer = try FrontEnd()
    let guest = try Guest()
    for bell in [guest.kick.raw, guest.call.raw] {
      let flags = fcntl(bell, F_GETFL)
      #expect(fcntl(bell, F_SETFL, flags & ~O_NONBLOCK) == 0)
    }
    try peer.handshake()
    try peer.start(guest)
    // The guest took no interrupt for very long; write(2) would wait for it.
    var most = UInt64.max - 1
    #expect(write(guest.call.raw, &most, 8) == 8)
    for i in 0..<3 as Range<UInt32> {
      guest.request(i)
      try peer.spin()
      #expect(guest.answer == i)
    }
    #expect(guest.usedIndex == 3)
    for bell in [guest.kick.raw, guest.call.raw] {
      #expect(fcntl(bell, F_GETFL) & O_NONBLOCK == 0, "the front-end's own flag")
    }
  }

  @Test("What was made available before the kick was watched is served without one")
  func pending() throws {
    let peer = try FrontEnd()
    let guest = try Guest()
    guest.request(7, kick: false)
    try peer.handshake()
    try peer.start(guest)
    #expect(guest.usedIndex == 1)
    #expect(guest.wasInterrupted)
  }

  @Test("A ring that is not enabled waits, one without protocol features does not")
  func enabling() throws {
    let peer = try FrontEnd()
    let guest = try Guest()
    try peer.handshake()
    try peer.start(guest, enable: false)
    guest.request(1)
    try peer.spin()
    #expect(guest.usedIndex == 0)
    try peer.send(.setVringEnable, VringState(index: 0, num: 1).bytes)
    #expect(guest.usedIndex == 1)
    try peer.send(.setVringEnable, VringState(index: 0, num: 0).bytes)
    guest.request(2)
    try peer.spin()
    #expect(guest.usedIndex == 1)
    try peer.send(.setVringEnable, VringState(index: 0, num: 1).bytes)
    #expect(guest.usedIndex == 2, "it goes on where it was")

    let old = try FrontEnd()
    let other = try Guest()
    let features = FrontEnd.transport & ~VirtioFeature.protocolFeatures
    try old.start(other, features: features, enable: false)
    other.request(3)
    try old.spin()
    #expect(other.answer == 3)
  }

  @Test("GET_VRING_BASE stops the ring, has it emptied, and says where to go on")
  func vringBase() throws {
    let peer = try FrontEnd()
    let guest = try Guest()
    try peer.handshake()
    try peer.start(guest)
    for i in 0..<3 as Range<UInt32> {
      guest.request(i)
      try peer.spin()
    }
    peer.device.holds = true
    guest.offer(0)
    try peer.spin()
    #expect(peer.device.held.count == 1)
    #expect(try peer.getVringBase() == 4)
    #expect(guest.usedIndex == 4, "what was in flight has been answered")
    #expect(peer.device.diary.last == "stopped 0")
    peer.device.holds = false

    guest.request(9)
    try peer.spin()
    #expect(guest.usedIndex == 4, "a stopped ring is not served")
    #expect(try peer.getVringBase() == 4)
    try peer.start(guest, base: 4)
    #expect(guest.usedIndex == 5)
    #expect(guest.answer == 9)
    #expect(!peer.device.diary.contains("kicked 0 while stopped"))
  }

  @Test("A pause keeps the device, a reset sets it back")
  func reset() throws {
    let peer = try FrontEnd()
    let guest = try Guest()
    try peer.handshake()
    try peer.start(guest)
    guest.request(1)
    try peer.spin()
    peer.device.diary = []
    try peer.send(.setStatus, WordPayload(0xf).bytes)
    #expect(try peer.ack(.resetDevice) == 0)
    #expect(peer.device.diary == ["stopped 0", "reset"])
    #expect(try peer.word(.getStatus) == 0)
    guest.request(2)
    try peer.spin()
    #expect(guest.usedIndex == 1)
    #expect(try peer.getVringBase() == 0)

    // The machine boots again with rings that begin at zero, and are off until it says so.
    guest.clearRing()
    guest.request(3, kick: false)
    try peer.start(guest, enable: false)
    #expect(guest.usedIndex == 0)
    guest.clearRing()
    try peer.start(guest)
    guest.request(3)
    try peer.spin()
    #expect(guest.usedIndex == 1)
    #expect(guest.answer == 3)
  }

  @Test("A driver that begins anew without a reset finds nothing of the old one")
  func newDriver() throws {
    let peer = try FrontEnd()
    let guest = try Guest()
    try peer.handshake()
    try peer.start(guest)
    guest.request(1)
    try peer.spin()
    // A pause: the ring goes on where it stopped.
    #expect(try peer.getVringBase() == 1)
    peer.device.diary = []
    try peer.start(guest, base: 1)
    guest.request(2)
    try peer.spin()
    #expect(guest.usedIndex == 2)
    #expect(!peer.device.diary.contains("reset"))
    // A kexec: it begins at its start.
    #expect(try peer.getVringBase() == 2)
    peer.device.diary = []
    guest.clearRing()
    try peer.start(guest)
    #expect(peer.device.diary.suffix(2) == ["reset", "started 0"])
    guest.request(3)
    try peer.spin()
    #expect(guest.answer == 3)
    // Set up once more, as for another size, it is the same driver.
    peer.device.diary = []
    try peer.start(guest, base: 1)
    #expect(!peer.device.diary.contains("reset"))
  }

  @Test("A bad ring is stopped with a reason, alone, and until it is set up again")
  func badRing() throws {
    let peer = try FrontEnd()
    let guest = try Guest()
    let other = try Guest()
    try peer.handshake()
    try peer.start(guest)
    guest.offer(99)
    try peer.spin()
    #expect(ph_drain(guest.error.raw) == 1)
    #expect(
      peer.log.text == [
        "error: queue 0: head 99 is outside the descriptor table; "
          + "the queue is stopped until the driver resets it"
      ])
    #expect(peer.reason == nil)
    for _ in 0..<3 {
      _ = ph_eventfd_signal(guest.kick.raw)
      try peer.spin()
    }
    #expect(ph_drain(guest.kick.raw) == 3, "nobody looks at it any more")
    #expect(peer.log.text.count == 1)

    guest.clearRing()
    try peer.setUpRing(other, queue: 1)
    try peer.send(.setVringEnable, VringState(index: 1, num: 1).bytes)
    #expect(peer.device.diary.last == "started 1")
    guest.request(5, kick: false)
    _ = ph_eventfd_signal(other.kick.raw)
    try peer.spin()
    #expect(guest.answer == 5, "the other queue is served (over the same ring memory)")

    _ = try peer.getVringBase()
    guest.clearRing()
    try peer.start(guest)
    guest.request(6)
    try peer.spin()
    #expect(guest.answer == 6)
  }

  @Test("A ring at an address that does not exist is bad, its connection is not")
  func badAddress() throws {
    let peer = try FrontEnd()
    let guest = try Guest()
    try peer.handshake()
    try peer.send(.setFeatures, WordPayload(FrontEnd.transport).bytes)
    try peer.setUpRing(guest)
    try peer.send(.setVringEnable, VringState(index: 0, num: 1).bytes)
    #expect(ph_drain(guest.error.raw) == 1)
    #expect(peer.log.text.first?.contains("the descriptor table at 0x7f0000000000 is not") == true)
    #expect(peer.reason == nil)
    try peer.start(guest)
    guest.request(4)
    try peer.spin()
    #expect(guest.answer == 4)
  }

  @Test("A ring survives its memory going away and coming back")
  func memoryUnderRing() throws {
    let peer = try FrontEnd()
    let guest = try Guest()
    try peer.handshake()
    try peer.start(guest)
    let region = SingleRegion(Guest.regions[0]).bytes
    #expect(try peer.ack(.removeMemoryRegion, region) == 0)
    guest.request(8)
    try peer.spin()
    #expect(guest.usedIndex == 0)
    #expect(try peer.ack(.addMemoryRegion, region, fds: [guest.file.raw]) == 0)
    #expect(guest.usedIndex == 1, "no kick is lost")
    #expect(guest.answer == 8)
    #expect(peer.log.text.isEmpty)
  }

  @Test("A new interrupt descriptor is used at once")
  func newCall() throws {
    let peer = try FrontEnd()
    let guest = try Guest()
    let other = try Guest()
    try peer.handshake()
    try peer.start(guest)
    let fd = VringDescriptor(index: 0).bytes
    try peer.send(.setVringCall, fd, fds: [other.call.raw])
    #expect(other.wasInterrupted, "an interrupt that went to the old one is not lost")
    guest.request(1)
    try peer.spin()
    #expect(!guest.wasInterrupted)
    #expect(other.wasInterrupted)
    try peer.send(.setVringCall, VringDescriptor(index: 0, hasDescriptor: false).bytes)
    guest.request(2)
    try peer.spin()
    #expect(guest.usedIndex == 2)
  }

  @Test("A ring without a kick descriptor is polled")
  func polled() throws {
    let peer = try FrontEnd()
    let guest = try Guest()
    try peer.handshake()
    try peer.start(guest, enable: false)
    try peer.send(.setVringKick, VringDescriptor(index: 0, hasDescriptor: false).bytes)
    try peer.send(.setVringEnable, VringState(index: 0, num: 1).bytes)
    for round in 0...2 as ClosedRange<UInt16> {
      guest.request(6 + UInt32(round), kick: false)
      let deadline = Clock.now + 10_000_000_000
      while guest.usedIndex == round, Clock.now < deadline { try peer.loop.turn(timeout: 100) }
      #expect(guest.answer == 6 + UInt32(round), "again and again")
    }
  }

  /// Reads and writes of other files could wait for whoever serves them.
  @Test(
    "What is no eventfd neither kicks nor is called",
    arguments: [FrontEndRequest.setVringKick, .setVringCall, .setVringError],
    ["a socket", "a pipe", "a file", "an epoll"])
  func onlyEventfds(_ request: FrontEndRequest, _ kind: String) throws {
    let peer = try FrontEnd()
    let guest = try Guest()
    try peer.handshake()
    try peer.start(guest, enable: false)
    var pipe: [CInt] = [-1, -1]
    #expect(Glibc.pipe(&pipe) == 0)
    let socket = try UnixSocket.Pair(.stream)
    let poll = epoll_create1(0)
    defer { for fd in pipe + [poll] { close(fd) } }
    let fd =
      switch kind {
      case "a socket": socket.first.raw
      case "a pipe": pipe[request == .setVringKick ? 0 : 1]
      case "a file": guest.file.raw
      default: poll
      }
    try peer.send(request, VringDescriptor(index: 0).bytes, fds: [fd])
    #expect(peer.reason == .badDescriptor("\(request)", nil))
  }

  /// The front-end shares the file, and may wait in a read of it (rust-vmm's does).
  @Test("O_NONBLOCK of the front-end's eventfds stays as it is", arguments: [false, true])
  func nonblocking(_ isOn: Bool) throws {
    let peer = try FrontEnd()
    let guest = try Guest()
    for event in [guest.kick, guest.call, guest.error] {
      try UnixSocket.setNonblocking(event.raw, isOn)
    }
    try peer.handshake()
    try peer.start(guest)
    guest.request(6)
    try peer.spin()
    #expect(guest.answer == 6)
    for event in [guest.kick, guest.call, guest.error] {
      #expect((fcntl(event.raw, F_GETFL) & O_NONBLOCK != 0) == isOn)
    }
  }

  @Test("A call descriptor whose counter is full is not waited for")
  func fullCall() throws {
    let peer = try FrontEnd()
    let guest = try Guest()
    try peer.handshake()
    try peer.start(guest)
    for event in [guest.kick, guest.call] {
      try UnixSocket.setNonblocking(event.raw, false)
      var most = UInt64.max - 1
      Foreign.drain(event.raw)
      #expect(write(event.raw, &most, 8) == 8)
    }
    guest.request(6, kick: false)
    try peer.spin()
    #expect(guest.answer == 6)
    #expect(try peer.getVringBase() == 1)
  }

  @Test("QEMU's order at boot, pause, continue and end")
  func lifetime() throws {
    let peer = try FrontEnd()
    let guest = try Guest()
    try peer.handshake()
    for round in 0..<3 as Range<UInt16> {
      let pair = try UnixSocket.Pair(.stream)
      try peer.send(.gpuSetSocket, fds: [pair.first.raw])
      try peer.send(.setOwner)
      try peer.start(guest, base: round)
      guest.request(UInt32(round))
      try peer.spin()
      #expect(guest.usedIndex == round + 1)
      try peer.send(.setVringEnable, VringState(index: 0, num: 0).bytes)
      #expect(try peer.getVringBase() == UInt32(round) + 1)
    }
    peer.device.diary = []
    try peer.disconnect()
    #expect(peer.reason == .frontEndClosed)
    #expect(peer.device.diary == ["disconnected"])
    #expect(peer.memory.entries.isEmpty)
    try peer.connect()
    #expect(try peer.word(.getQueueNum) == 2)
  }

  @Test("A front-end that leaves takes its running rings along")
  func leaving() throws {
    let peer = try FrontEnd()
    let guest = try Guest()
    try peer.handshake()
    try peer.start(guest)
    peer.device.diary = []
    try peer.disconnect()
    #expect(peer.device.diary == ["stopped 0", "disconnected"])
  }
}
