import CLinux
import Glibc
import Linux

/// Drives a virtio device of a real QEMU through qtest, virtio 1.3 §4.1, without a guest kernel.
///
/// There are no interrupts: answers are seen in the used ring.
package final class QTestPCI: DeviceTransport {
  package let ram: GuestRAM
  /// The machine.
  package let qemu: QEMUProcess
  private let slot: UInt32
  private var common: UInt64 = 0
  private var notify: UInt64 = 0
  private var notifyMultiplier: UInt64 = 0
  private var device: UInt64 = 0
  private var notifyOffsets: [UInt64] = []
  private var rings: [SplitRing] = []
  private var seen: [UInt16] = []

  /// Fields of `struct virtio_pci_common_cfg`, §4.1.4.3.
  private enum Common {
    static let deviceFeatureSelect: UInt64 = 0
    static let deviceFeature: UInt64 = 4
    static let driverFeatureSelect: UInt64 = 8
    static let driverFeature: UInt64 = 12
    static let deviceStatus: UInt64 = 20
    static let queueSelect: UInt64 = 22
    static let queueSize: UInt64 = 24
    static let queueEnable: UInt64 = 28
    static let queueNotifyOff: UInt64 = 30
    static let queueDesc: UInt64 = 32
    static let queueDriver: UInt64 = 40
    static let queueDevice: UInt64 = 48
  }

  /// Finds the first virtio device with this id on bus 0 and maps its BARs.
  ///
  /// - Parameter deviceID: the virtio device id, 16 for a GPU.
  package init(_ qemu: QEMUProcess, deviceID: UInt32 = 16) throws(GuestError) {
    self.qemu = qemu
    ram = qemu.ram
    var found: UInt32?
    for candidate in 0..<32 where found == nil {
      let id = try Self.readPCI(qemu.qtest, UInt32(candidate), 0)
      if id == (0x1040 + deviceID) << 16 | 0x1af4 { found = UInt32(candidate) }
    }
    guard let found else { throw .unsupported("QEMU has no virtio device \(deviceID) on bus 0") }
    slot = found
    try placeBARs()
    try findCapabilities()
  }

  // MARK: qtest and PCI configuration space

  private static func ask(_ socket: LineSocket, _ line: String) throws(GuestError) -> UInt64 {
    try socket.send(line)
    while true {
      let answer = try socket.line()
      if answer.hasPrefix("IRQ ") { continue }
      guard answer.hasPrefix("OK") else { throw .violation("qtest answered \(answer) to \(line)") }
      return UInt64(answer.dropFirst(3).drop { $0 == "0" }.drop { $0 == "x" }, radix: 16) ?? 0
    }
  }

  private static func address(_ slot: UInt32, _ register: UInt32) -> String {
    "0x" + String(0x8000_0000 | slot << 11 | (register & 0xfc), radix: 16)
  }

  private static func readPCI(
    _ socket: LineSocket, _ slot: UInt32, _ register: UInt32
  ) throws(GuestError) -> UInt32 {
    _ = try ask(socket, "outl 0xcf8 \(address(slot, register))")
    return UInt32(truncatingIfNeeded: try ask(socket, "inl 0xcfc"))
  }

  private func pci(_ register: UInt32) throws(GuestError) -> UInt32 {
    try Self.readPCI(qemu.qtest, slot, register)
  }

  private func setPCI(_ register: UInt32, _ value: UInt32) throws(GuestError) {
    _ = try Self.ask(qemu.qtest, "outl 0xcf8 \(Self.address(slot, register))")
    _ = try Self.ask(qemu.qtest, "outl 0xcfc 0x\(String(value, radix: 16))")
  }

  private var bars: [UInt64] = Array(repeating: 0, count: 6)

  /// Puts every memory BAR somewhere in the PCI window and switches the device on.
  private func placeBARs() throws(GuestError) {
    var next: UInt64 = 0xe000_0000
    var index = 0
    while index < 6 {
      let register = UInt32(0x10 + 4 * index)
      try setPCI(register, 0xffff_ffff)
      let mask = try pci(register)
      let wide = mask & 7 == 4
      if mask != 0, mask & 1 == 0 {
        let size = UInt64(~(mask & 0xffff_fff0) &+ 1)
        next = (next + size - 1) / size * size
        try setPCI(register, UInt32(truncatingIfNeeded: next))
        if wide { try setPCI(register + 4, 0) }
        bars[index] = next
        next += size
      }
      index += wide ? 2 : 1
    }
    try setPCI(4, 0x6)  // memory space, bus master
  }

  private func findCapabilities() throws(GuestError) {
    var at = try pci(0x34) & 0xfc
    while at != 0 {
      let header = try pci(at)
      if header & 0xff == 9 {
        let place = bars[Int(try pci(at + 4) & 0xff) % 6] + UInt64(try pci(at + 8))
        switch header >> 24 {
        case 1: common = place
        case 2:
          notify = place
          notifyMultiplier = UInt64(try pci(at + 16))
        case 4: device = place
        default: break
        }
      }
      at = header >> 8 & 0xfc
    }
    guard common != 0, notify != 0, device != 0 else {
      throw .unsupported("the device has no modern virtio capabilities")
    }
  }

  // MARK: registers

  private func get(_ address: UInt64, _ kind: Character) throws(GuestError) -> UInt64 {
    try Self.ask(qemu.qtest, "read\(kind) 0x\(String(address, radix: 16))")
  }

  private func set(_ address: UInt64, _ kind: Character, _ value: UInt64) throws(GuestError) {
    _ = try Self.ask(
      qemu.qtest, "write\(kind) 0x\(String(address, radix: 16)) 0x\(String(value, radix: 16))")
  }

  private func setStatus(_ status: UInt64) throws(GuestError) {
    try set(common + Common.deviceStatus, "b", status)
  }

  /// `device_status`, §2.1.
  package func status() throws(GuestError) -> UInt64 {
    try get(common + Common.deviceStatus, "b")
  }

  package func deviceFeatures() throws(GuestError) -> UInt64 {
    var bits: UInt64 = 0
    for half in 0..<2 as Range<UInt64> {
      try set(common + Common.deviceFeatureSelect, "l", half)
      bits |= try get(common + Common.deviceFeature, "l") << (32 * half)
    }
    return bits
  }

  package func start(features: UInt64, queues: [SplitRing]) throws(GuestError) {
    try setStatus(0)
    try setStatus(1 | 2)
    for half in 0..<2 as Range<UInt64> {
      try set(common + Common.driverFeatureSelect, "l", half)
      try set(common + Common.driverFeature, "l", features >> (32 * half) & 0xffff_ffff)
    }
    try setStatus(1 | 2 | 8)
    guard try status() & 8 != 0 else { throw .unsupported("the device refuses the features") }
    notifyOffsets = []
    for (index, ring) in queues.enumerated() { try setUp(UInt64(index), ring) }
    rings = queues
    seen = queues.map(\.usedIndex)
    try setStatus(1 | 2 | 4 | 8)
  }

  private func setUp(_ index: UInt64, _ ring: SplitRing) throws(GuestError) {
    try set(common + Common.queueSelect, "w", index)
    let most = try get(common + Common.queueSize, "w")
    guard most >= UInt64(ring.size) else {
      throw .unsupported("queue \(index) has at most \(most) descriptors, not \(ring.size)")
    }
    try set(common + Common.queueSize, "w", UInt64(ring.size))
    for (register, address) in [
      (Common.queueDesc, ring.descriptorTable), (Common.queueDriver, ring.available),
      (Common.queueDevice, ring.used),
    ] {
      try set(common + register, "l", address & 0xffff_ffff)
      try set(common + register + 4, "l", address >> 32)
    }
    notifyOffsets.append(try get(common + Common.queueNotifyOff, "w"))
    try set(common + Common.queueEnable, "w", 1)
  }

  package func kick(_ queue: Int) throws(GuestError) {
    try set(notify + notifyOffsets[queue] * notifyMultiplier, "w", UInt64(queue))
  }

  package func waitForCall(_ queue: Int, milliseconds: Int) throws(GuestError) {
    let deadline = Clock.now + UInt64(milliseconds) * 1_000_000
    while Clock.now < deadline {
      let now = rings[queue].usedIndex
      if now != seen[queue] {
        seen[queue] = now
        return
      }
      if let status = qemu.child.status { throw .closed("a command (QEMU ended: \(status))") }
      usleep(100)
    }
  }

  package func readConfig(offset: Int, count: Int) throws(GuestError) -> [UInt8] {
    var bytes: [UInt8] = []
    for i in 0..<count {
      bytes.append(UInt8(truncatingIfNeeded: try get(device + UInt64(offset + i), "b")))
    }
    return bytes
  }

  package func writeConfig(offset: Int, _ bytes: [UInt8]) throws(GuestError) {
    for (i, byte) in bytes.enumerated() { try set(device + UInt64(offset + i), "b", UInt64(byte)) }
  }

  package func reset() throws(GuestError) {
    try setStatus(0)
    guard try status() == 0 else { throw .violation("the device does not reset") }
  }
}
