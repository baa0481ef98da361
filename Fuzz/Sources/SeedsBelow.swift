import GuestMemory
import VhostUser
import Virtqueue

/// Sessions of a front-end like QEMU.
enum VhostUserSeeds {
  private typealias Step = VhostUserTarget.Step
  private static let user: UInt64 = 0x7f00_0000_0000
  private static let transport =
    VirtioFeature.version1 | VirtioFeature.eventIndex | VirtioFeature.indirectDescriptors
    | VirtioFeature.protocolFeatures

  static var all: [String: [UInt8]] {
    [
      "boot": boot, "request": boot + request(0) + end, "keep": boot + keep + end,
      "reboot": boot + request(0) + reset + memory + rings + end,
      "pause": boot + stop(0) + stop(1) + rings + request(1) + end,
      "slots": slots, "config": handshake + config + end, "display": display,
      "backend": handshake + say(.setBackendRequestFD, gifts: [5]) + end,
      "stream": Array(raw(boot.count)),
    ]
  }

  private static func say(
    _ request: FrontEndRequest, _ payload: [UInt8] = [], gifts: [UInt8] = []
  ) -> [UInt8] {
    var out = Script()
    out.u8(Step.message.rawValue)
    out.u8(UInt8(request.rawValue))
    out.u8(9)
    out.u8(UInt8(gifts.count))
    out.raw(gifts)
    out.put(UInt16(payload.count))
    out.raw(payload)
    return out.bytes
  }

  private static let read = [Step.turnAndRead.rawValue, 2]
  private static var end: [UInt8] { read + [Step.leave.rawValue, 1] }
  private static var handshake: [UInt8] {
    say(.getFeatures) + say(.getProtocolFeatures)
      + say(.setProtocolFeatures, WordPayload(ProtocolFeatures.offered.rawValue).bytes)
      + say(.getQueueNum) + say(.getMaxMemorySlots) + say(.setOwner) + read
      + say(.setFeatures, WordPayload(transport).bytes)
      + say(.setStatus, WordPayload(11).bytes) + say(.getStatus)
  }
  private static let regions = [
    MemoryRegion(guestAddress: 0, size: 0x8000, userAddress: user, fileOffset: 0),
    MemoryRegion(
      guestAddress: 0x10_0000, size: 0x8000, userAddress: user + 0x10_0000, fileOffset: 0x8000),
  ]
  private static var memory: [UInt8] {
    say(.setMemoryTable, MemoryTable(regions).bytes, gifts: [0, 0])
  }
  private static func ring(_ index: UInt32) -> [UInt8] {
    let base = user + UInt64(index) * 0x3000
    let addresses = RingAddresses(
      descriptors: base, available: base + 0x1000, used: base + 0x2000)
    let fd = VringDescriptor(index: index).bytes
    return say(.setVringNum, VringState(index: index, num: 16).bytes)
      + say(.setVringBase, VringState(index: index, num: 0).bytes)
      + say(.setVringAddress, VringAddress(index: index, addresses).bytes)
      + say(.setVringCall, fd, gifts: [3]) + say(.setVringError, fd, gifts: [4])
      + say(.setVringKick, fd, gifts: [UInt8(index) + 1])
      + say(.setVringEnable, VringState(index: index, num: 1).bytes)
  }
  private static var rings: [UInt8] { ring(0) + ring(1) }
  private static var boot: [UInt8] { handshake + memory + rings }
  private static func stop(_ index: UInt32) -> [UInt8] {
    say(.getVringBase, VringState(index: index, num: 0).bytes)
  }
  private static var reset: [UInt8] { say(.resetDevice) }
  private static var keep: [UInt8] {
    [Step.answer.rawValue, 0] + request(0) + request(1) + [Step.answer.rawValue, 4]
      + [Step.answer.rawValue, 1]
  }

  private static func poke(_ offset: Int, _ bytes: [UInt8]) -> [UInt8] {
    var out = Script()
    out.u8(Step.write.rawValue)
    out.put(UInt16(offset / 4))
    out.u8(UInt8(bytes.count))
    out.raw(bytes)
    return out.bytes
  }

  private static func request(_ queue: Int) -> [UInt8] {
    let base = queue * 0x3000
    var table = Script()
    RingSeeds.descriptor(&table, 0x7000, 16, 1, 1)
    RingSeeds.descriptor(&table, 0x10_0000, 16, 2, 0)
    return poke(base, table.bytes) + poke(base + 0x1000, [0, 0, 1, 0, 0, 0])
      + [Step.kick.rawValue, UInt8(queue)]
  }

  private static var slots: [UInt8] {
    var bytes = handshake
    for region in regions {
      bytes += say(.addMemoryRegion, SingleRegion(region).bytes, gifts: [0])
    }
    bytes += rings + request(0)
    bytes += say(.removeMemoryRegion, SingleRegion(regions[1]).bytes)
    return bytes + request(0) + end
  }
  private static var config: [UInt8] {
    let read = ConfigPayload(offset: 0, contents: [UInt8](repeating: 0, count: 24))
    let write = ConfigPayload(offset: 4, contents: [1, 2, 3, 4])
    return say(.getConfig, read.bytes) + say(.setConfig, write.bytes)
  }
  private static var display: [UInt8] {
    handshake + say(.gpuSetSocket, gifts: [5]) + say(.gpuSetSocket, gifts: [6]) + end
  }
  private static func raw(_ count: Int) -> [UInt8] {
    let messages =
      VhostUserMessage(.getFeatures).encoded + VhostUserMessage(.setOwner).encoded
      + VhostUserMessage(.getProtocolFeatures).encoded
    var out = Script()
    for start in stride(from: 0, to: messages.count, by: 5) {
      let piece = Array(messages[start..<min(start + 5, messages.count)])
      out.u8(Step.raw.rawValue)
      out.u8(0)
      out.put(UInt16(piece.count))
      out.raw(piece)
      out.raw([Step.turn.rawValue, 1])
    }
    return out.bytes + read
  }
}

/// Rings of well-behaved drivers, and of one with tables.
enum RingSeeds {
  private typealias Step = RingTarget.Step

  static var all: [String: [UInt8]] {
    [
      "plain": ring(flags: 0, chain, heads: [0, 2]) + serve,
      "event-index": ring(flags: 2, chain, heads: [0, 2]) + serve,
      "indirect": ring(flags: 3, [(0x3000, 48, 4, 0)], heads: [0], tables: table) + serve,
      "two-regions": ring(flags: 3, [(0x7ff0, 16, 1, 1), (0x10_0000, 64, 2, 0)], heads: [0])
        + serve,
      "loop": ring(flags: 1, [(0x4000, 4, 1, 1), (0x4000, 4, 1, 0)], heads: [0]) + serve,
      "kept": ring(flags: 2, chain, heads: [0, 2, 0, 2]) + kept,
      "unplugged": ring(flags: 2, chain, heads: [0, 2]) + unplugged,
    ]
  }

  private static let chain: [(UInt64, UInt32, UInt16, UInt16)] = [
    (0x4000, 24, 1, 1), (0x5000, 64, 2, 0), (0x10_1000, 32, 1, 3), (0x10_2000, 128, 2, 0),
  ]
  private static var table: [UInt8] {
    var out = Script()
    descriptor(&out, 0x4000, 16, 1, 1)
    descriptor(&out, 0x4010, 16, 1, 2)
    descriptor(&out, 0x5000, 64, 2, 0)
    return out.bytes
  }
  private static var serve: [UInt8] {
    [Step.popAndAnswer, .popAndAnswer, .popAndAnswer].flatMap { [$0.rawValue, 8] }
      + [Step.notify.rawValue, Step.silence.rawValue, Step.offer.rawValue, 1, Step.pop.rawValue]
  }
  private static var kept: [UInt8] {
    [Step.pop, .pop, .pop, .pop].map(\.rawValue)
      + [Step.push.rawValue, 2, 8, Step.push.rawValue, 0, 8, Step.notify.rawValue]
      + [Step.pushTwice.rawValue, Step.pushTwice.rawValue]
  }
  private static var unplugged: [UInt8] {
    [Step.pop.rawValue, Step.removeMemory.rawValue, 1, Step.pop.rawValue, Step.push.rawValue, 0, 4]
      + [Step.addMemory.rawValue, 1, Step.pop.rawValue, Step.notify.rawValue]
  }

  static func descriptor(
    _ out: inout Script, _ address: UInt64, _ count: UInt32, _ flags: UInt16, _ next: UInt16
  ) {
    out.put(address)
    out.put(count)
    out.put(flags)
    out.put(next)
  }

  private static func ring(
    flags: UInt8, _ descriptors: [(UInt64, UInt32, UInt16, UInt16)], heads: [UInt16],
    tables: [UInt8] = []
  ) -> [UInt8] {
    var table = Script()
    for entry in descriptors { descriptor(&table, entry.0, entry.1, entry.2, entry.3) }
    var available = Script()
    available.put(0 as UInt16)
    available.put(UInt16(heads.count))
    for head in heads { available.put(head) }
    var out = Script()
    out.raw([flags, 4])
    out.put(0 as UInt16)
    for part in [table.bytes, available.bytes, [], tables] {
      out.put(UInt16(part.count))
      out.raw(part)
    }
    return out.bytes
  }
}
