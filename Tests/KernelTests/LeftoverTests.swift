import Buffers
import CLinux
import FakeGuest
import Glibc
import GuestMemory
import Linux
import Logging
import PinholeFrames
import Pixels
import Testing

/// The kernel's own count of pages that are pinned, in the units in which it counts (folios).
private func pinnedByTheKernel() throws -> Int {
  // vm.stat_refresh collects what each processor has counted for itself.
  let refresh = try OwnedFD.open("/proc/sys/vm/stat_refresh", O_WRONLY)
  _ = write(refresh.raw, "1", 1)
  let numbers = try vmstat()
  let acquired = try #require(numbers["nr_foll_pin_acquired"])
  let released = try #require(numbers["nr_foll_pin_released"])
  return acquired - released
}

/// dma-bufs that were taken back and that others still hold, against the kernel's own counters.
@Suite(
  .serialized,
  .enabled(if: udmabufProblem == nil && getuid() == 0, "needs udmabuf and vm.stat_refresh"))
struct LeftoverTests {
  @Test func fdinfoCountsAllOthers() throws {
    let holders = try DmaBufHolders()
    let shown = try ShownPicture(.scan, pages: 8, runs: [(0, 8)])
    let buffer = try shown.make()
    let fd = try #require(buffer.current?.fd)
    #expect(holders.others(of: fd.raw) == 0)
    // What consumers ask before anything else.
    let file = try MemFD.create("test", size: 4096)
    #expect(ph_is_dmabuf(fd.raw) == 1 && ph_is_dmabuf(file.raw) == 0)
    var copy: OwnedFD? = try fd.duplicate()
    #expect(holders.others(of: fd.raw) == 1)
    let map = try #require(mmap(nil, 4096, PROT_READ, MAP_SHARED, fd.raw, 0))
    #expect(map != MAP_FAILED)
    #expect(holders.others(of: fd.raw) == 2)
    // In a message that nobody has read.
    let pair = try UnixSocket.Pair(.seqpacket)
    _ = try [UInt8(1)].withUnsafeBytes {
      try UnixSocket.send(pair.first.raw, $0, fds: [fd.raw])
    }
    #expect(holders.others(of: fd.raw) == 3)
    munmap(map, 4096)
    copy = nil
    #expect(holders.others(of: fd.raw) == 1)
    withExtendedLifetime(copy) {}
    withExtendedLifetime(pair.second.raw) {}
  }

  private func leavesWithIt(hugePageSize: UInt64) throws {
    let before = try pinnedByTheKernel()
    let loop = try EventLoop()
    let lines = Locked<[String]>([])
    let log = Logger(label: "test") { _ in LineHandler(lines) }
    let shown = try ShownPicture(.scan, pages: 8, runs: [(0, 4)], hugePageSize: hugePageSize)
    let store = shown.store
    let leftovers = Leftovers(try DmaBufHolders(), on: loop, log: log)
    store.leftovers = leftovers
    let good = Recipient("the good one")
    let bad = Recipient("the bad one")
    var kept: OwnedFD?
    do {
      let buffer = try shown.make()
      let offered = try #require(buffer.current)
      for recipient in [good, bad] { offered.given(to: recipient) }
      kept = try offered.fd.duplicate()
      offered.closed(by: good)
      _ = store.release(buffer)
    }
    // What the counters call pinned is what the kernel calls so.
    #expect(store.pinnedBytes == 4 * max(hugePageSize, 4096))
    #expect(leftovers.count == 1)
    #expect(try pinnedByTheKernel() > before)
    let late = Clock.now + 5_000_000_000
    while !bad.keepsPages, Clock.now < late { try loop.turn(timeout: 100) }
    #expect(bad.keptBytes == store.pinnedBytes && !good.keepsPages)
    #expect(lines.withLock { $0 }.contains { $0.contains("the bad one") && !$0.contains("good") })
    kept = nil
    while leftovers.count > 0, Clock.now < late { try loop.turn(timeout: 100) }
    #expect(leftovers.count == 0 && !bad.keepsPages)
    #expect(store.pinnedBytes == 0)
    #expect(try pinnedByTheKernel() == before)
    withExtendedLifetime(kept) {}
  }

  /// Two were named; one of them says later that it has let go, and is believed.
  @Test func whoSaysSoLateIsNotBlamedAnyMore() throws {
    let loop = try EventLoop()
    let lines = Locked<[String]>([])
    let log = Logger(label: "test") { _ in LineHandler(lines) }
    let shown = try ShownPicture(.scan, pages: 8, runs: [(0, 4)])
    let store = shown.store
    let leftovers = Leftovers(try DmaBufHolders(), on: loop, log: log)
    store.leftovers = leftovers
    let late = Recipient("the late one")
    let bad = Recipient("the bad one")
    var kept: OwnedFD?
    var recipients: Recipients?
    do {
      let buffer = try shown.make()
      let offered = try #require(buffer.current)
      for recipient in [late, bad] { offered.given(to: recipient) }
      kept = try offered.fd.duplicate()
      recipients = offered.recipients
      _ = store.release(buffer)
    }
    let bound = Clock.now + 10_000_000_000
    while !late.keepsPages, Clock.now < bound { try loop.turn(timeout: 100) }
    #expect(late.keepsPages && bad.keepsPages)
    recipients?.closed(by: late)
    while late.keepsPages, Clock.now < bound { try loop.turn(timeout: 100) }
    #expect(!late.keepsPages && bad.keptBytes == store.pinnedBytes)
    kept = nil
    while leftovers.count > 0, Clock.now < bound { try loop.turn(timeout: 100) }
    #expect(leftovers.count == 0 && !bad.keepsPages && store.pinnedBytes == 0)
    withExtendedLifetime(kept) {}
  }

  /// Consumers may keep what a renderer drew into for longer than anybody shows it.
  @Test func aRenderedPictureIsPaidForUntilNobodyHasIt() throws {
    final class Share {}
    let loop = try EventLoop()
    let lines = Locked<[String]>([])
    let log = Logger(label: "test") { _ in LineHandler(lines) }
    let store = BufferStore(
      device: .success(try UdmabufDevice.open()),
      keeper: .failure(.noUserfaultfd(Errno(38, "test"))))
    let leftovers = Leftovers(try DmaBufHolders(), on: loop, log: log)
    store.leftovers = leftovers
    let keeper = Recipient("the keeper")
    weak var paid: Share?
    var kept: OwnedFD?
    do {
      let share = Share()
      paid = share
      let memory = SharedFD(try MemFD.create("picture", size: 8192, seals: [.shrink, .grow]))
      let mapping = try Mapping(fd: memory.raw, offset: 0, count: 8192, writable: true)
      let layout = PixelLayout(width: 64, height: 32, stride: 256, fourcc: .xrgb8888)
      let pixels = try #require(
        PixelSource(layout: layout, spans: [HostSpan(base: mapping.base, count: 8192)]))
      let host = HostBuffer(
        id: 1, width: 64, height: 32, fourcc: .xrgb8888,
        planes: [.init(fd: memory, offset: 0, stride: 256)], memory: .memfd, pixels: pixels,
        mapping: nil, charge: share)
      let offered = try #require(store.offer(host, asCopy: false))
      #expect(offered.memory == .rendered)
      offered.given(to: keeper)
      kept = try offered.fd.duplicate()
      withExtendedLifetime(host) {}
    }
    #expect(leftovers.count == 1 && paid != nil)
    let bound = Clock.now + 10_000_000_000
    while !keeper.keepsPages, Clock.now < bound { try loop.turn(timeout: 100) }
    #expect(keeper.keptBytes == 8192)
    #expect(lines.withLock { $0 }.contains { $0.contains("8192 bytes of host memory stay taken") })
    kept = nil
    while leftovers.count > 0, Clock.now < bound { try loop.turn(timeout: 100) }
    #expect(leftovers.count == 0 && paid == nil && !keeper.keepsPages)
    withExtendedLifetime(kept) {}
  }

  /// There is an end to what others may keep; and the last of very many is let go as the first is.
  @Test func manyAreKeptUpToALimitAndNoneIsForgotten() throws {
    let loop = try EventLoop()
    let lines = Locked<[String]>([])
    let log = Logger(label: "test") { _ in LineHandler(lines) }
    let shown = try ShownPicture(.scan, pages: 8, runs: [(0, 1)])
    let leftovers = Leftovers(try DmaBufHolders(), on: loop, log: log)
    shown.store.leftovers = leftovers
    var kept: [SharedFD] = []
    for _ in 0..<Leftovers.most {
      let buffer = try shown.make()
      kept.append(SharedFD(try #require(buffer.current?.fd).duplicate()))
      shown.store.drop(buffer)
    }
    #expect(leftovers.count == Leftovers.most)
    #expect(shown.store.pinnedBytes == UInt64(Leftovers.most) * 4096)
    guard
      case .failure(.notLetGo(Leftovers.most)) =
        shown.store.make(layout: shown.layout, ranges: shown.ranges)
    else {
      Issue.record("no limit")
      return
    }
    let bound = Clock.now + 20_000_000_000
    kept.removeLast(10)
    while leftovers.count > Leftovers.most - 10, Clock.now < bound { try loop.turn(timeout: 100) }
    #expect(leftovers.count == Leftovers.most - 10)
    let again = try shown.make()
    try shown.expectGuestPixels(again)
    shown.store.drop(again)
    kept = []
    while leftovers.count > 0, Clock.now < bound { try loop.turn(timeout: 100) }
    #expect(leftovers.count == 0 && shown.store.pinnedBytes == 0)
  }

  @Test func smallPages() throws { try leavesWithIt(hugePageSize: 0) }

  @Test(.enabled(if: freeHugePages >= 8, "needs 8 free huge pages"))
  func hugePages() throws { try leavesWithIt(hugePageSize: 2 << 20) }

  /// Through the daemon and its sandbox: whoever answers BUFFER_CLOSED and keeps the descriptor.
  @Test func aConsumerThatKeepsPagesIsNamedAndGetsCopies() throws {
    let before = try pinnedByTheKernel()
    let pinhole = try PinholeProcess(["--scanout", "direct"])
    let driver = try GPUDriver(
      try VhostUserFrontEnd(path: pinhole.socket, ram: GuestRAM(size: 16 << 20)))
    let watcher = try NewestFrame(pinhole.framesSocket)
    try watcher.take(milliseconds: 5000)
    let buffer = try Framebuffer(driver, resource: 1, width: 320, height: 240, kind: .blob)
    try buffer.show()
    func flush() throws -> String {
      for command in buffer.flushCommands() { try driver.send(command) }
      try watcher.follow(driver)
      let name = try #require(watcher.newest).buffer
      return "\(try #require(watcher.consumer.buffers[name]).memory)"
    }
    #expect(try flush() == "dmaBuf")
    let shown = try #require(watcher.newest).buffer
    var kept: OwnedFD? = try OwnedFD.duplicate(
      of: try #require(watcher.consumer.buffers[shown]).descriptor)
    try driver.send(.detachBacking(1))
    try watcher.follow(driver)
    #expect(try pinhole.waits { $0["kept-buffers"] == 1 })
    #expect(try pinhole.counters()["pinned-bytes"] == 320 * 240 * 4)
    let deadline = Clock.now + 20_000_000_000
    while !pinhole.log.contains("stay pinned"), Clock.now < deadline { usleep(20_000) }
    #expect(pinhole.log.contains("(process \(getpid()))"), "\(pinhole.log)")
    try driver.perform(.attachBacking(1, buffer.pages.entries()))
    #expect(try flush() == "copy")
    kept = nil
    #expect(try pinhole.waits { $0["kept-buffers"] == 0 })
    #expect(try flush() == "dmaBuf")
    try driver.restart()
    while try watcher.take(milliseconds: 300) {}
    #expect(try pinhole.waits { $0["pinned-bytes"] == 0 })
    #expect(try pinnedByTheKernel() == before)
    #expect(pinhole.terminate() == 0, "\(pinhole.log)")
    withExtendedLifetime(kept) {}
  }

  /// Nobody is left to take buffers back: consumers have the guest's pages until they let go.
  @Test func aProducerThatIsKilledLeavesNothingPinned() throws {
    let before = try pinnedByTheKernel()
    let pinhole = try PinholeProcess(["--scanout", "direct"])
    let driver = try GPUDriver(
      try VhostUserFrontEnd(path: pinhole.socket, ram: GuestRAM(size: 16 << 20)))
    let buffer = try Framebuffer(driver, resource: 1, width: 320, height: 240, kind: .blob)
    let count = 320 * 240 * 4
    do {
      let watcher = try NewestFrame(pinhole.framesSocket)
      try watcher.take(milliseconds: 5000)
      buffer.draw(TestPicture.smpte.render(width: 320, height: 240))
      try buffer.show()
      for command in buffer.flushCommands() { try driver.send(command) }
      try watcher.follow(driver)
      #expect(watcher.memories == ["dmaBuf"])
      let shown = try #require(watcher.newest).buffer
      let drawn = driver.ram.read(buffer.pages, count: count)
      pinhole.child.signal(SIGKILL)
      #expect(pinhole.child.waitForEnd(milliseconds: 10_000) == 128 + SIGKILL)
      #expect(throws: FramesError.self) {
        while try watcher.take(milliseconds: 5000) {}
      }
      // The guest's memory is as it was, the guest goes on drawing, and who has its pages sees it.
      #expect(driver.ram.read(buffer.pages, count: count) == drawn)
      let next = TestPicture.gradient.render(width: 320, height: 240)
      buffer.draw(next)
      let fd = try #require(watcher.consumer.buffers[shown]).descriptor
      #expect(try shownBytes(fd, count: count) == driver.ram.read(buffer.pages, count: count))
      #expect(try pinnedByTheKernel() > before)
    }
    let late = Clock.now + 10_000_000_000
    while try pinnedByTheKernel() != before, Clock.now < late { usleep(20_000) }
    #expect(try pinnedByTheKernel() == before)
    #expect(throws: GuestError.self) { try driver.displayInfo() }
  }
}

/// Collects lines of a log.
private struct LineHandler: LogHandler {
  let lines: Locked<[String]>
  var metadata: Logger.Metadata = [:]
  var logLevel: Logger.Level = .debug

  init(_ lines: Locked<[String]>) { self.lines = lines }

  subscript(metadataKey key: String) -> Logger.Metadata.Value? {
    get { metadata[key] }
    set { metadata[key] = newValue }
  }

  func log(event: LogEvent) { lines.withLock { $0.append("\(event.message)") } }
}
