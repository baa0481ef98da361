import Buffers
import FakeGuest
import Glibc
import GuestMemory
import Linux
import PinholeFrames
import Testing

/// The kernel's pool of 2 MiB pages, which a test takes away and gives back.
private struct HugePool {
  private let size: Int

  init() throws { size = try #require(hugePageCount("nr_hugepages")) }

  /// Leaves those pages that are in use or promised to somebody.
  func takeAway() throws {
    try set(0)
    let free = try #require(hugePageCount("free_hugepages"))
    try #require(hugePageCount("resv_hugepages") == free)
  }

  func giveBack() throws { try set(size) }

  private func set(_ count: Int) throws {
    let file = try OwnedFD.open(hugePageFolder + "nr_hugepages", O_WRONLY)
    let text = "\(count)"
    #expect(write(file.raw, text, text.utf8.count) == text.utf8.count)
  }
}

/// It is the whole machine's pool, so nothing else that wants huge pages runs beside this.
@Suite(
  "A pool of huge pages that is empty", .serialized,
  .enabled(
    if: getenv("PINHOLE_HUGE_POOL") != nil && geteuid() == 0 && freeHugePages >= 24,
    "set PINHOLE_HUGE_POOL, as root, with 24 free huge pages and no other test beside it"))
struct HugePoolTests {
  static let width = 1024
  static let height = 1536
  static let hugePage = UInt64(2 << 20)

  @Test(
    "costs the guest its GPU, not the process, and the next guest is exact",
    arguments: ["direct", "copy"], Detector.allCases)
  func runsOut(scanout: String, detector: Detector) throws {
    let pool = try HugePool()
    defer { try? pool.giveBack() }
    let pinhole = try PinholeProcess(["--scanout", scanout, "--detector", "\(detector)"])
    let ram = try GuestRAM(size: 16 << 20, hugePageSize: Self.hugePage)
    let driver = try GPUDriver(try VhostUserFrontEnd(path: pinhole.socket, ram: ram))
    let watcher = try NewestFrame(pinhole.framesSocket)
    try watcher.take(milliseconds: 5000)
    let buffer = try Framebuffer(
      driver, resource: 1, width: Self.width, height: Self.height, kind: .blob)
    /// False if the daemon closed the connection in place of an answer.
    func isAnswered() throws -> Bool {
      for command in buffer.flushCommands() { try driver.send(command) }
      try driver.kick()
      let deadline = Clock.now + 30_000_000_000
      while driver.inFlight > 0 {
        if pinhole.log.contains("connection is closed") { return false }
        try driver.poll()
        try watcher.take(milliseconds: 1)
        try #require(Clock.now < deadline, Comment(rawValue: pinhole.log))
      }
      try watcher.follow(driver)
      return true
    }
    func draw(_ picture: TestPicture) {
      buffer.draw(picture.render(width: Self.width, height: Self.height))
    }
    let bytes = Self.width * Self.height * 4
    try buffer.show()
    draw(.smpte)
    #expect(try isAnswered())
    #expect(try watcher.bytes() == ram.read(buffer.pages, count: bytes))

    // A huge page in the middle of the picture goes, with the promise of another one.
    let offsets = try buffer.pages.addresses.map {
      try #require(ram.fileOffset(ofGuest: $0))
    }
    let whole = offsets.first {
      $0 % Self.hugePage == 0 && offsets.contains($0 + Self.hugePage - 4096)
    }
    let gone = try #require(whole)
    try MemFD.punchHole(ram.fd.raw, offset: gone, count: Self.hugePage)
    try pool.takeAway()
    // A guest that touched the page would end with its VM. One that does not know loses its GPU.
    #expect(try !isAnswered())
    #expect(pinhole.child.status == nil, Comment(rawValue: pinhole.log))
    let errors = pinhole.log.split(separator: "\n").filter { $0.contains("error:") }
    #expect(errors.count == 1 && errors[0].contains("has no huge pages left"), "\(errors)")

    try pool.giveBack()
    let next = try GPUDriver(
      try VhostUserFrontEnd(
        path: pinhole.socket, ram: GuestRAM(size: 16 << 20, hugePageSize: Self.hugePage)))
    let picture = try Framebuffer(
      next, resource: 1, width: Self.width, height: Self.height, kind: .blob)
    picture.draw(TestPicture.gradient.render(width: Self.width, height: Self.height))
    try picture.show()
    for command in picture.flushCommands() { try next.send(command) }
    try watcher.follow(next)
    #expect(try watcher.bytes() == next.ram.read(picture.pages, count: bytes))
    #expect(pinhole.terminate() == 0, Comment(rawValue: pinhole.log))
  }
}
