import Buffers
import FakeGuest
import Linux
import Scene
import Testing

@testable import VirtioGPU

/// What a guest gets at most.
@Suite struct BudgetTests {
  private func wantingBuffers(
    _ configure: @escaping @Sendable (inout GPUConfiguration) -> Void
  ) throws -> DeviceBench {
    let bench = try DeviceBench(mode: .copy, configure: configure)
    _ = try bench.inDevice { _, recorder in recorder.wantsBuffers = true }
    return bench
  }

  private func used(_ bench: DeviceBench) throws -> UInt64 {
    try bench.inDevice { device, _ in device.hostBytes }
  }

  /// What nobody here needs is given up for what the guest asks for, and not before.
  @Test func whatLiesIdleMakesRoom() {
    let budget = HostBudget(limit: 10)
    var idle = [budget.take(3), budget.take(3)]
    budget.givers = [{ false }, { idle.popLast() != nil }]
    let first = budget.take(4)
    #expect(first != nil && idle.count == 2 && budget.used == 10)
    #expect(budget.take(11) == nil && idle.count == 2, "that is too much in any case")
    let second = budget.take(2)
    #expect(second != nil && idle.count == 1 && budget.used == 9)
    #expect(budget.take(5) == nil && idle.isEmpty && budget.used == 6)
    withExtendedLifetime((first, second)) {}
  }

  @Test func resourcesAreCounted() throws {
    let bench = try DeviceBench { $0.maxResources = 3 }
    for id in 1...3 as ClosedRange<UInt32> {
      try bench.driver.perform(.create2D(id, .b8g8r8x8, width: 1, height: 1))
    }
    let blob = GPUCommand.createBlob(4, size: 1, [MemoryEntry(address: 4096, length: 4096)])
    #expect(try bench.driver.run(blob).response == .outOfMemory)
    try bench.driver.perform(.unref(2))
    try bench.driver.perform(blob)
  }

  @Test func unlessAskedForLessAGuestMayHave4096Resources() throws {
    let bench = try DeviceBench()
    var answers: [GPUResponse] = []
    for id in 1...4097 as ClosedRange<UInt32> {
      try bench.driver.send(.create2D(id, .b8g8r8x8, width: 1, height: 1)) {
        answers.append($0.response)
      }
    }
    try bench.driver.drain()
    #expect(answers.prefix(4096).allSatisfy { $0 == .ok } && answers.last == .outOfMemory)
  }

  @Test func entriesOfOneResourceAreCounted() throws {
    let bench = try DeviceBench { $0.maxEntries = 8 }
    try bench.driver.perform(.create2D(1, .b8g8r8x8, width: 8, height: 8))
    let entries = (1...9).map { MemoryEntry(address: UInt64($0) * 8192, length: 4096) }
    #expect(try bench.driver.run(.attachBacking(1, entries)).response == .outOfMemory)
    try bench.driver.perform(.attachBacking(1, Array(entries.prefix(8))))
  }

  @Test func entriesOfAllResourcesTogetherAreBounded() throws {
    let bench = try DeviceBench { $0.hostMemory = 1 << 20 }
    let entries = (1...1000).map { MemoryEntry(address: UInt64($0) * 8192, length: 4096) }
    var answers: [GPUResponse] = []
    for id in 1...40 as ClosedRange<UInt32> {
      answers.append(try bench.driver.run(.createBlob(id, size: 4096, entries)).response)
    }
    #expect(answers.count { $0 == .ok } == 16)
    #expect(answers.last == .outOfMemory)
    for id in 1...16 as ClosedRange<UInt32> { try bench.driver.perform(.unref(id)) }
    #expect(try used(bench) == 0)
  }

  @Test func survivorsOnScreenStillCount() throws {
    let bench = try DeviceBench { $0.hostMemory = 1 << 20 }
    let first = try Framebuffer(bench.driver, resource: 1, width: 512, height: 256)
    try first.show()
    try first.flush()
    try bench.driver.perform(.unref(1))
    #expect(try used(bench) == 512 << 10)
    try bench.driver.perform(.create2D(2, .b8g8r8x8, width: 512, height: 255))
    let third = GPUCommand.create2D(3, .b8g8r8x8, width: 512, height: 2)
    #expect(try bench.driver.run(third).response == .outOfMemory)
    try bench.driver.perform(.setScanout(0, resource: 0, first.bounds))
    try bench.driver.perform(third)
  }

  private func copied(_ bench: DeviceBench) throws -> UInt64 {
    try bench.inDevice { device, _ in device.scene.memory.used }
  }

  @Test func copiesForConsumersArePaidForWhenTheyAreMade() throws {
    // Room for two copies of 256 KiB, of which one is made.
    let bench = try wantingBuffers {
      $0.hostMemory = 300 << 10
      $0.copyMemory = 600 << 10
    }
    let buffer = try Framebuffer(bench.driver, resource: 1, width: 256, height: 256)
    try buffer.show()
    for _ in 0..<3 { try buffer.flush() }
    #expect(bench.seen.last?.memory == "copy")
    #expect(try copied(bench) == 256 << 10)
    try bench.driver.perform(.setScanout(0, resource: 0, buffer.bounds))
    try bench.driver.perform(.unref(1))
    #expect(try used(bench) == 0)
    #expect(try copied(bench) == 256 << 10, "whoever was given it may have it")
  }

  @Test func consumersDoNotHaveTheGuestRunOut() throws {
    let bench = try wantingBuffers {
      $0.hostMemory = 1 << 20
      $0.copyMemory = 1 << 20
    }
    let buffer = try Framebuffer(bench.driver, resource: 1, width: 256, height: 256)
    // Each output has a copy of its own: more than there is memory for.
    for output in 0..<8 as Range<UInt32> { try buffer.show(on: output) }
    try buffer.flush()
    #expect(try copied(bench) == 1 << 20)
    #expect(bench.seen.frames.contains { $0.memory == "none" })
    for id in 2...3 as ClosedRange<UInt32> {
      try bench.driver.perform(.create2D(id, .b8g8r8x8, width: 256, height: 256))
    }
    #expect(try used(bench) >= 768 << 10)
  }

  @Test func withoutMemoryForACopyDisplaysStillSeeThePicture() throws {
    let bench = try wantingBuffers { $0.copyMemory = 100 << 10 }
    let buffer = try Framebuffer(bench.driver, resource: 1, width: 256, height: 256)
    buffer.draw(TestPicture.smpte.render(width: 256, height: 256))
    try buffer.show()
    try buffer.flush()
    #expect(bench.seen.last?.memory == "none")
    #expect(bench.seen.last?.picture.difference(from: buffer.contents) == nil)
  }

  @Test func sixteenScanoutsOfOneLargePictureStayWithinTheBudget() throws {
    let bench = try wantingBuffers { $0.copyMemory = 8 << 20 }
    let buffer = try Framebuffer(bench.driver, resource: 1, width: 1024, height: 512)
    for output in 0..<16 as Range<UInt32> { try buffer.show(on: output) }
    try buffer.flush()
    #expect(Set(bench.seen.frames.map(\.output)).count == 16)
    #expect(try copied(bench) <= 8 << 20)
  }

  @Test func aBlobsSurvivingPictureCounts() throws {
    let bench = try DeviceBench { $0.hostMemory = 100 << 10 }
    let buffer = try Framebuffer(bench.driver, resource: 1, width: 256, height: 256, kind: .blob)
    try buffer.show()
    try buffer.flush()
    try bench.driver.perform(.unref(1))
    #expect(try used(bench) <= 100 << 10)
    try bench.driver.perform(.getDisplayInfo)
  }
}
