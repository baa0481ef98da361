import FakeGuest
import Glibc
import Linux
import Pixels
import Testing

@testable import VirtioGPU

/// A guest without sense, in a process of its own so that descriptors and mappings can be counted.
@Suite struct RandomSessionTests {
  /// Descriptors, and mappings of files, of this process.
  struct Possessions: Equatable, CustomStringConvertible {
    var descriptors = 0
    var mappings = 0
    var description: String { "\(descriptors) descriptors, \(mappings) mapped files" }

    static func now() -> Possessions {
      var all = Possessions()
      all.descriptors = (0..<4096 as Range<CInt>).count { fcntl($0, F_GETFD) >= 0 }
      guard let file = fopen("/proc/self/maps", "r") else { return all }
      defer { fclose(file) }
      var line = [CChar](repeating: 0, count: 8192)
      while fgets(&line, CInt(line.count), file) != nil {
        if strstr(line, "/memfd:") != nil { all.mappings += 1 }
      }
      all.descriptors -= 1
      return all
    }
  }

  @Test func aHundredThousandCommandsLeaveNothingBehind() async throws {
    let seed = UInt64.random(in: 0 ... .max)
    print("aHundredThousandCommandsLeaveNothingBehind: seed \(seed)")
    await #expect(processExitsWith: .success) { [seed = seed as UInt64] in
      var guest = SenselessGuest(seed: seed)
      try guest.session(commands: 500, rounds: 2)
      let before = Possessions.now()
      while guest.sent < 100_000 { try guest.session(commands: 1000, rounds: 10) }
      let after = Possessions.now()
      #expect(after == before, "\(after), before \(before)")
    }
  }
}

/// Sends commands that nearly make sense, and now and then overwrites its rings.
struct SenselessGuest {
  private var random: SeededRandom
  private(set) var sent = 0
  private static let types: [UInt32] = Array(0x100...0x10d) + [0x300, 0x301, 0x200, 0]
  private static let values: [UInt32] = [
    0, 1, 2, 3, 4, 5, 15, 16, 64, 67, 256, 1024, 4096, 65536, .max, 1 << 31,
  ]

  init(seed: UInt64) { random = SeededRandom(seed: seed) }

  /// One connection; each round ends with a reset, after which nothing of the guest is left.
  mutating func session(commands: Int, rounds: Int) throws {
    let mode = ScanoutMode.allCases.randomElement(using: &random) ?? .auto
    let consumers = Bool.random(using: &random)
    let bench = try DeviceBench(
      mode: mode, configure: { $0.hostMemory = 16 << 20 }, ram: GuestRAM(size: 16 << 20))
    _ = try bench.inDevice { _, recorder in
      recorder.isForgetful = true
      recorder.wantsBuffers = consumers
    }
    for round in 0..<rounds {
      let spoils = round % 2 == 1
      do throws(GuestError) {
        for _ in 0..<commands {
          try bench.driver.send(command())
          sent += 1
          if spoils, Int.random(in: 0..<200, using: &random) == 0 {
            try spoil(bench)
            break
          }
        }
        if !spoils { try bench.driver.drain() }
      } catch {
        // A ring that was spoiled may say anything; an honest one may not.
        if !spoils { throw error }
      }
      _ = try bench.inDevice { _, recorder in recorder.releaseAll() }
      try bench.driver.restart()
      try bench.driver.perform(.getDisplayInfo)
      sent += 1
      let left = try bench.inDevice { device, _ in
        [Int(device.hostBytes), device.resources.count, device.exporting.count]
      }
      #expect(left == [0, 0, 0])
    }
    #expect(bench.seen.log.withLock { $0.failure } == nil)
  }

  private mutating func command() -> GPUCommand {
    switch Int.random(in: 0..<8, using: &random) {
    case 0: return .create2D(id, .b8g8r8x8, width: side, height: side)
    case 1: return .attachBacking(id, entries)
    case 2: return .createBlob(id, size: 4096, entries)
    case 3: return .setScanout(id, resource: id, Rect(width: side, height: side))
    case 4:
      let flush = GPUCommand.flush(id, Rect(width: side, height: side))
      return Bool.random(using: &random) ? flush : flush.fenced(random.next())
    default: return noise()
    }
  }

  private var id: UInt32 { mutating get { .random(in: 0..<6, using: &random) } }
  private var side: UInt32 { mutating get { .random(in: 0..<80, using: &random) } }

  private var entries: [MemoryEntry] {
    mutating get {
      (0..<Int.random(in: 0..<6, using: &random)).map { _ in
        MemoryEntry(
          address: .random(in: 0..<17 << 20, using: &random) & ~0xff,
          length: .random(in: 0..<3, using: &random) * 4096)
      }
    }
  }

  private mutating func noise() -> GPUCommand {
    let type = Self.types.randomElement(using: &random) ?? 0
    var command = GPUCommand(raw: [UInt8](repeating: 0, count: 24), name: "noise")
    command.put(type, at: 0)
    command.put(UInt32.random(in: 0..<4, using: &random), at: 4)
    command.queue = type >= 0x300 ? .cursor : .control
    command.bytes += [UInt8](repeating: 0, count: Int.random(in: 0...120, using: &random))
    command.pieces = .random(in: 1...4, using: &random)
    for at in stride(from: 24, to: command.bytes.count - 4, by: 4) {
      command.put(Self.values.randomElement(using: &random) ?? 0, at: at)
    }
    return command
  }

  /// Random descriptors, heads and indices on both rings.
  private mutating func spoil(_ bench: DeviceBench) throws(GuestError) {
    for queue in [GPUCommand.Queue.control, .cursor] {
      let ring = bench.driver.ring(queue)
      for _ in 0..<Int.random(in: 1..<40, using: &random) {
        let index = UInt16.random(in: 0..<ring.size, using: &random)
        ring.poke(
          index, address: .random(in: 0..<17 << 20, using: &random),
          length: Self.values.randomElement(using: &random) ?? 0,
          flags: .random(in: 0..<8, using: &random),
          next: .random(in: 0..<ring.size &+ 2, using: &random))
        ring.offer(.random(in: 0..<ring.size &+ 1, using: &random))
      }
      if Int.random(in: 0..<4, using: &random) == 0 {
        ring.forceAvailableIndex(.random(in: 0 ... .max, using: &random))
      } else {
        _ = ring.publish()
      }
      try bench.front.kick(queue.rawValue)
    }
  }
}
