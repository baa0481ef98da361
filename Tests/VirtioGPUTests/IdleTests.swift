import FakeGuest
import Glibc
import Linux
import Testing

@testable import VirtioGPU

/// Nothing that a guest puts on its rings keeps the device's thread busy.
@Suite struct IdleTests {
  /// Turns of the event loop over some time in which nothing new comes.
  private func turns(_ bench: DeviceBench) throws -> UInt64 {
    let before = try bench.inDevice { _, recorder in recorder.loop?.turns ?? 0 }
    usleep(60_000)
    return try bench.inDevice { _, recorder in recorder.loop?.turns ?? 0 } - before
  }

  private func expectIdle(_ bench: DeviceBench, _ what: Comment) throws {
    // One for the question, and perhaps one for a kick that was still on its way.
    #expect(try turns(bench) <= 3, what)
    #expect(bench.seen.log.withLock { $0.failure } == nil)
  }

  static let mischief: [(String, @Sendable (SplitRing) -> Void)] = [
    ("a head outside of the ring", { $0.offer(9999) }),
    ("an index far ahead", { $0.forceAvailableIndex(40_000) }),
    (
      "a loop of descriptors",
      { ring in
        ring.poke(0, address: 4096, length: 24, flags: 1, next: 1)
        ring.poke(1, address: 4096, length: 24, flags: 1, next: 0)
        ring.offer(0)
      }
    ),
    (
      "buffers outside of memory",
      { ring in
        ring.poke(0, address: 1 << 50, length: 24, flags: 0)
        ring.offer(0)
      }
    ),
    (
      "an indirect table that is none",
      { ring in
        ring.poke(0, address: 4096, length: 17, flags: 4)
        ring.offer(0)
      }
    ),
    (
      "empty chains over and over",
      { ring in
        ring.poke(0, address: 0, length: 0, flags: 0)
        for _ in 0..<64 { ring.offer(0) }
      }
    ),
  ]

  @Test(arguments: mischief.indices)
  func aBadRing(_ index: Int) throws {
    let bench = try DeviceBench()
    let (name, make) = Self.mischief[index]
    for queue in [GPUCommand.Queue.control, .cursor] {
      let ring = bench.driver.ring(queue)
      make(ring)
      _ = ring.publish()
      try bench.front.kick(queue.rawValue)
    }
    try expectIdle(bench, "\(name)")
    try bench.driver.restart()
    try bench.driver.perform(.getDisplayInfo)
    try expectIdle(bench, "after \(name)")
  }

  /// A tenth of a processor at most, wherever the guest has its pages.
  @Test func looksThatCostMuchComeLessOften() throws {
    let bench = try DeviceBench()
    let intervals = try bench.inDevice { device, _ in
      ([0, 400_000, 2_000_000, 1_000_000_000_000, 0] as [UInt64]).map { cost in
        device.looked(cost)
        return device.lookInterval
      }
    }
    #expect(intervals == [5_000_000, 5_000_000, 21_000_000, 10_000_001_000_000, 5_000_000])
  }

  /// Where each look takes all the time of a round: what is on screen has each second turn at
  /// least, and nothing waits for longer than two rounds for each buffer.
  @Test(arguments: [1, 16, 64])
  func looksGoRound(_ onScreen: Int) {
    var buffers = (0..<64).map {
      LookOrder.Candidate(lookedAt: UInt64($0), isOnScreen: $0 >= 64 - onScreen)
    }
    var order = LookOrder()
    var turns: [Int] = []
    for round in 0..<512 {
      order.begin()
      var first = 0
      for index in buffers.indices where order.comes(buffers[index], before: buffers[first]) {
        first = index
      }
      buffers[first].lookedAt = UInt64(1000 + round)
      turns.append(first)
    }
    #expect(buffers[turns[0]].isOnScreen, "what is on screen comes first")
    for index in buffers.indices {
      let mine = turns.indices.filter { turns[$0] == index }
      let waits = zip([-1] + mine, mine + [turns.count]).map { $1 - $0 }
      #expect(waits.max() ?? .max <= 128, "buffer \(index)")
      if index >= 64 - onScreen { #expect(waits.max() ?? .max <= 2 * onScreen + 1) }
    }
  }

  @Test func aRingWhoseMemoryWasTaken() throws {
    let half: UInt64 = 32 << 20
    let ram = try GuestRAM(size: 2 * half, regions: GuestRAM.halves(size: 2 * half))
    let bench = try DeviceBench(ram: ram)
    try bench.front.removeMemory(ram.regions[0])
    for _ in 0..<3 {
      try bench.front.kick(0)
      try expectIdle(bench, "a ring that is nowhere")
    }
    try bench.front.addMemory(ram.regions[0])
    try bench.driver.perform(.getDisplayInfo)
    try expectIdle(bench, "a ring that is back")
  }

  @Test func framesThatNobodyReleases() throws {
    let bench = try DeviceBench(mode: .copy)
    _ = try bench.inDevice { _, recorder in
      recorder.wantsBuffers = true
      recorder.holds = true
    }
    let buffer = try Framebuffer(bench.driver, resource: 1, width: 64, height: 64)
    try buffer.show()
    for fence in 1...8 as ClosedRange<UInt64> { try buffer.flush(fence: fence) }
    try expectIdle(bench, "all copies are held")
  }
}
