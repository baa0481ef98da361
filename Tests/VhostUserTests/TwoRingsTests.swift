import CLinux
import GuestMemory
import Linux
import Testing
import VhostUser
import Virtqueue

@Suite("Two rings of one device")
struct TwoRingsTests {
  /// A second ring in the guest's first region, with the requests of the first one.
  private func startSecond(_ peer: FrontEnd, _ guest: Guest, _ other: Guest) throws {
    let user = Guest.user
    try peer.setUpRing(other, queue: 1)
    let ring = RingAddresses(
      descriptors: user, available: user + 0x9000, used: user + 0xa000)
    try peer.send(.setVringAddress, VringAddress(index: 1, ring).bytes)
    try peer.send(.setVringEnable, VringState(index: 1, num: 1).bytes)
    #expect(peer.device.diary.last == "started 1")
  }

  @Test("What becomes of one ring becomes of all")
  func allRings() throws {
    let peer = try FrontEnd()
    let guest = try Guest()
    let other = try Guest()
    try peer.handshake()
    try peer.start(guest)
    try startSecond(peer, guest, other)
    let region = SingleRegion(Guest.regions[0]).bytes
    #expect(try peer.ack(.removeMemoryRegion, region) == 0)
    guest.request(8)
    (guest.raw + 0x9002).storeBytes(of: 1, as: UInt16.self)
    _ = ph_eventfd_signal(other.kick.raw)
    try peer.spin()
    #expect(peer.device.answered == 0)
    #expect(try peer.ack(.addMemoryRegion, region, fds: [guest.file.raw]) == 0)
    #expect(peer.device.answered == 2, "both are served again")
    #expect(guest.usedIndex == 1 && (guest.raw + 0xa002).load(as: UInt16.self) == 1)

    peer.device.diary = []
    #expect(try peer.ack(.resetDevice) == 0)
    #expect(peer.device.diary == ["stopped 0", "stopped 1", "reset"])
    guest.clearRing()
    (guest.raw + 0x9000).initializeMemory(as: UInt8.self, repeating: 0, count: 0x2000)
    try peer.start(guest)
    try startSecond(peer, guest, other)
    peer.device.diary = []
    try peer.disconnect()
    #expect(peer.device.diary == ["stopped 0", "stopped 1", "disconnected"])
  }
}
