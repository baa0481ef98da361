import Buffers
import FakeGuest
import Glibc
import GuestMemory
import Linux
import Pixels
import Testing

@testable import VirtioGPU

/// Guest memory that its owner truncates or takes out under live resources.
@Suite struct LostMemoryTests {
  private static let megabyte: UInt64 = 1 << 20

  private func truncate(_ ram: GuestRAM, to bytes: UInt64) {
    #expect(ftruncate(ram.fd.raw, off_t(bytes)) == 0)
  }

  /// The connection ends with its reason, and nothing of the guest is left.
  private func expectTheEnd(of bench: DeviceBench) throws {
    let deadline = Clock.now + 10_000_000_000
    while bench.seen.log.withLock({ $0.ended }) == nil, Clock.now < deadline { usleep(1000) }
    #expect(bench.seen.log.withLock { $0.ended }?.contains("truncated") == true)
    #expect(bench.seen.log.withLock { $0.failure } == nil)
    #expect(try bench.inDevice { device, _ in device.hostBytes } == 0)
    #expect(try bench.inDevice { device, _ in device.memory.entries.count } == 0)
  }

  @Test func truncatedRingsEndTheConnection() throws {
    let ram = try GuestRAM(size: 64 << 20, seals: [])
    let bench = try DeviceBench(ram: ram)
    try bench.driver.perform(.getDisplayInfo)
    truncate(ram, to: 0)
    #expect(throws: GuestError.self) { try bench.driver.perform(.getDisplayInfo) }
    // The driver's view of the ring may be gone too, so that it does not kick.
    try bench.front.kick(0)
    try expectTheEnd(of: bench)
  }

  @Test(arguments: [ScanoutMode.copy, .direct], [Framebuffer.Kind.twoD, .blob])
  func truncatedPicturesEndTheConnection(_ mode: ScanoutMode, _ kind: Framebuffer.Kind) throws {
    let ram = try GuestRAM(size: 64 << 20, seals: [])
    let bench = try DeviceBench(mode: mode, ram: ram)
    _ = try bench.inDevice { _, recorder in recorder.wantsBuffers = true }
    // Commands stay below what will be gone.
    try bench.driver.perform(.getDisplayInfo)
    _ = try ram.allocate(bytes: 32 << 20)
    let buffer = try Framebuffer(bench.driver, resource: 1, width: 256, height: 256, kind: kind)
    try buffer.show()
    try buffer.flush()
    truncate(ram, to: 32 * Self.megabyte)
    try? buffer.flush()
    try expectTheEnd(of: bench)
  }

  @Test func truncatedCursorsEndTheConnection() throws {
    let ram = try GuestRAM(size: 64 << 20, seals: [])
    let bench = try DeviceBench(mode: .direct, ram: ram)
    // Commands stay below what will be gone.
    try bench.driver.perform(.moveCursor(0, x: 1, y: 1))
    try bench.driver.perform(.getDisplayInfo)
    _ = try ram.allocate(bytes: 32 << 20)
    let cursor = try Framebuffer(bench.driver, resource: 1, width: 64, height: 64, kind: .blob)
    truncate(ram, to: 32 * Self.megabyte)
    _ = try? bench.driver.run(.updateCursor(0, resource: cursor.resource, x: 1, y: 1))
    try expectTheEnd(of: bench)
  }

  @Test func truncationAtAnyMomentCostsTheConnectionOnly() throws {
    let seed = UInt64.random(in: 0 ... .max)
    print("truncationAtAnyMomentCostsTheConnectionOnly: seed \(seed)")
    var random = SeededRandom(seed: seed)
    for _ in 0..<12 {
      let ram = try GuestRAM(size: 16 << 20, seals: [])
      let bench = try DeviceBench(mode: .direct, ram: ram)
      let buffer = try Framebuffer(bench.driver, resource: 1, width: 256, height: 256)
      try buffer.show()
      let moment = Int.random(in: 0..<40, using: &random)
      let size = UInt64.random(in: 0..<256, using: &random) * 4096
      do throws(GuestError) {
        for step in 0..<80 {
          if step == moment { truncate(ram, to: size) }
          for command in buffer.flushCommands() { try bench.driver.send(command) }
          try bench.driver.kick()
        }
        try bench.driver.drain()
        Issue.record("commands went through without memory")
      } catch {}
      try bench.front.kick(0)
      try expectTheEnd(of: bench)
    }
  }

  // MARK: - Regions that come and go

  /// Two regions; pictures of 12 MiB find room in the second alone.
  private func twoRegions() throws -> GuestRAM {
    let half = 32 * Self.megabyte
    let ram = try GuestRAM(size: 2 * half, regions: GuestRAM.halves(size: 2 * half))
    _ = try ram.allocate(bytes: 24 << 20)
    return ram
  }

  private func shown(
    _ bench: DeviceBench, _ kind: Framebuffer.Kind
  ) throws -> (Framebuffer, Raster) {
    let buffer = try Framebuffer(bench.driver, resource: 1, width: 2048, height: 1536, kind: kind)
    try #require(buffer.pages.start >= 1 << 32)
    let picture = TestPicture.gradient.render(width: 2048, height: 1536)
    buffer.draw(picture)
    try buffer.show()
    try buffer.flush()
    #expect(bench.seen.last?.picture.difference(from: picture) == nil)
    return (buffer, picture)
  }

  @Test(arguments: [Framebuffer.Kind.twoD, .blob])
  func removedPagesShowBlackUntilTheyReturn(_ kind: Framebuffer.Kind) throws {
    let ram = try twoRegions()
    let bench = try DeviceBench(mode: .direct, ram: ram)
    let (buffer, picture) = try shown(bench, kind)
    try bench.front.removeMemory(ram.regions[1])
    let black = try #require(bench.seen.last)
    #expect(black.picture.pixels.allSatisfy { $0 == 0 })
    #expect(black.damage.width == 2048 && black.damage.height == 1536)
    if kind == .twoD {
      let transfer = GPUCommand.transferToHost2D(1, buffer.bounds, offset: 0)
      #expect(try bench.driver.run(transfer).response == .invalidParameter)
    }
    // The same pages in two regions, as when a memory map changes during boot.
    let whole = ram.regions[1]
    let part = 16 * Self.megabyte
    try bench.front.addMemory(
      .init(guestAddress: whole.guestAddress, size: part, fileOffset: whole.fileOffset))
    try bench.front.addMemory(
      .init(
        guestAddress: whole.guestAddress + part, size: part, fileOffset: whole.fileOffset + part))
    #expect(bench.seen.last?.picture.difference(from: picture) == nil)
    try buffer.remove()
  }

  /// However many runs they have, and whichever of these are in it.
  @Test func aRegionTakesThoseWithARunInIt() throws {
    let ram = try twoRegions()
    let bench = try DeviceBench(ram: ram)
    let pages = try ram.allocate(bytes: 4 << 20)
    let far = try ram.allocate(bytes: 12 << 20)
    try #require(pages.start < 1 << 32 && far.start >= 1 << 32)
    // Every other page, so that none merge.
    let near = (0..<500).map {
      MemoryEntry(address: pages.start + UInt64($0) * 8192, length: 4096)
    }
    func over(_ index: Int) -> MemoryEntry {
      MemoryEntry(address: far.start + UInt64(index) * 8192, length: 4096)
    }
    let lists = [near, near + [over(0)], [over(1)] + near, near.dropLast() + [over(2), near[0]]]
    for (index, list) in lists.enumerated() {
      try bench.driver.perform(.createBlob(UInt32(index + 1), size: 4096, Array(list)))
    }
    func lost() throws -> Set<UInt32> {
      try bench.inDevice { device, _ in
        Set(device.resources.values.filter { $0.backing == nil }.map(\.id))
      }
    }
    let region = ram.regions[1]
    try bench.front.removeMemory(region)
    #expect(try lost() == [2, 3, 4])
    // A part of it brings back what lies there.
    let distance = far.start - region.guestAddress
    let part = (distance + 8192 + 4095) & ~4095
    try bench.front.addMemory(
      .init(guestAddress: region.guestAddress, size: part, fileOffset: region.fileOffset))
    #expect(try lost() == [3, 4])
    try bench.front.addMemory(
      .init(
        guestAddress: region.guestAddress + part, size: region.size - part,
        fileOffset: region.fileOffset + part))
    #expect(try lost() == [])
    // Seen through another region too, nothing is lost.
    try bench.front.addMemory(
      .init(guestAddress: 1 << 40, size: region.size, fileOffset: region.fileOffset))
    try bench.front.removeMemory(
      .init(guestAddress: region.guestAddress, size: part, fileOffset: region.fileOffset))
    #expect(try lost() == [])
  }

  /// Many resources of many runs get their pages back in their turn, and at once when the guest
  /// names them, whether their front-end has all of the memory back or a part.
  @Test func whatIsBackCanBeUsedAtOnce() throws {
    let ram = try twoRegions()
    let bench = try DeviceBench(mode: .copy, ram: ram)
    let far = try ram.allocate(bytes: 12 << 20)
    try #require(far.start >= 1 << 32)
    let entries = (0..<1500).map {
      MemoryEntry(address: far.start + UInt64($0) * 8192, length: 4096)
    }
    let count: UInt32 = 200
    for id in 1...count {
      try bench.driver.perform(.create2D(id, .b8g8r8x8, width: 64, height: 64))
      try bench.driver.perform(.attachBacking(id, entries))
    }
    func without() throws -> Int {
      try bench.inDevice { device, _ in
        device.resources.values.count { $0.backing == nil }
      }
    }
    let whole = Rect(width: 64, height: 64)
    let region = ram.regions[1]
    for _ in 0..<3 {
      try bench.front.removeMemory(region)
      #expect(try without() == Int(count))
      let gone = GPUCommand.transferToHost2D(count, whole, offset: 0)
      #expect(try bench.driver.run(gone).response == .invalidParameter)
      try bench.front.addMemory(region)
      for id in [count, count / 2, 1] {
        try bench.driver.perform(.transferToHost2D(id, whole, offset: 0))
      }
    }
    let bound = Clock.now + 20_000_000_000
    while try without() > 0, Clock.now < bound { usleep(1000) }
    #expect(try without() == 0)
    #expect(try bench.inDevice { device, _ in device.recovering.isEmpty })
    for id in 1...count { try bench.driver.perform(.unref(id)) }
    #expect(try bench.inDevice { device, _ in device.hostBytes } == 0)
  }

  @Test func aSnapshotOutlivesItsPages() throws {
    let ram = try twoRegions()
    let bench = try DeviceBench(mode: .copy, ram: ram)
    let (buffer, picture) = try shown(bench, .twoD)
    try bench.front.removeMemory(ram.regions[1])
    _ = try bench.inDevice { _, recorder in recorder.lookAgain() }
    #expect(bench.seen.last?.picture.difference(from: picture) == nil)
    try bench.driver.perform(.detachBacking(1))
    #expect(try bench.driver.run(.detachBacking(1)).response == .unspecified)
    try bench.driver.perform(.unref(1))
    _ = buffer
  }

  @Test func aFrontEndThatLeavesTakesNothingFromTheScreenFirst() throws {
    let bench = try DeviceBench(mode: .direct)
    let buffer = try Framebuffer(bench.driver, resource: 1, width: 64, height: 64)
    buffer.draw(TestPicture.smpte.render(width: 64, height: 64))
    try buffer.show()
    try buffer.flush()
    let before = bench.seen.frames.count
    #expect(shutdown(bench.front.channel.socket.raw, CInt(SHUT_RDWR)) == 0)
    let deadline = Clock.now + 10_000_000_000
    while bench.seen.log.withLock({ $0.ended }) == nil, Clock.now < deadline { usleep(1000) }
    #expect(bench.seen.frames.count == before)
    #expect(bench.seen.log.withLock { $0.sizes } == ["0 64x64", "0 off"])
  }

  @Test func resourcesOfOtherRegionsNoticeNothing() throws {
    let ram = try twoRegions()
    let bench = try DeviceBench(mode: .direct, ram: ram)
    let buffer = try Framebuffer(bench.driver, resource: 1, width: 64, height: 64)
    try #require(buffer.pages.start < 1 << 32)
    try buffer.show()
    try buffer.flush()
    let before = bench.seen.frames.count
    try bench.front.removeMemory(ram.regions[1])
    #expect(bench.seen.frames.count == before)
    try buffer.flush()
    #expect(bench.seen.frames.count == before + 1)
  }
}
