import FakeGuest
import Glibc
import Linux
import Testing

/// `pinhole-guest storm` does the same for longer.
@Suite(.serialized, .enabled(if: access("/dev/udmabuf", R_OK | W_OK) == 0, "needs /dev/udmabuf"))
struct StormTests {
  /// The number behind a name in the counters that pinhole logs when it ends.
  private func counter(_ name: String, in log: String) -> Int? {
    guard let line = log.split(separator: "\n").last(where: { $0.contains("counters:") }) else {
      return nil
    }
    let words = line.split(whereSeparator: { $0 == " " || $0 == "," })
    guard let place = words.lastIndex(where: { $0 == name }), place + 1 < words.count else {
      return nil
    }
    return Int(words[place + 1])
  }

  private func storm(
    _ detector: String, _ change: (inout Storm.Options) -> Void = { _ in }
  ) throws -> (result: Storm.Result, log: String) {
    var options = Storm.Options()
    options.seed = .random(in: 0 ... .max)
    print("storm(\(detector)): seed \(options.seed)")
    (options.width, options.height) = (640, 480)
    options.burstsPerFrame = 10
    change(&options)
    // Emulated consumers take longer than a real guest would wait.
    let pinhole = try PinholeProcess(["--detector", detector, "--hold-deadline", "5000"])
    let result: Storm.Result
    do {
      let storm = try Storm(
        socket: pinhole.socket, framesSocket: pinhole.framesSocket, options)
      result = try storm.run()
    }
    print("storm(\(detector)): \(result.description)")
    #expect(pinhole.terminate() == 0)
    return (result, pinhole.log)
  }

  private func expectExact(_ outcome: (result: Storm.Result, log: String)) throws {
    let (result, log) = outcome
    #expect(result.stale == 0, "\(result.consumers.compactMap(\.firstStale))")
    #expect(result.direct > result.checked / 2, "most frames are the guest's own pages")
    let pins = try #require(counter("pins", in: log), "\(log)")
    #expect(pins > 1)
    #expect(counter("unpins", in: log) == pins)
    #expect(counter("pinned-bytes", in: log) == 0)
    let builds = (counter("builds", in: log) ?? 0) + (counter("rebuilds", in: log) ?? 0)
    let lost = counter("lost", in: log) ?? 0
    let retries = try #require(counter("retries", in: log))
    #expect(retries <= 2 * (builds + lost + 1), "at most two retries a build")
  }

  @Test("Twenty thousand discarded pages", arguments: ["scan", "pagemap", "faults"])
  func storm(_ detector: String) throws {
    try expectExact(try storm(detector) { _ in })
  }

  @Test("Without a witness the same storm finds stale frames")
  func unwatched() throws {
    let outcome = try storm("none") {
      $0.enoughStale = 4
      $0.seconds = 60
    }
    #expect(outcome.result.stale >= 4, "or the storm proves nothing")
  }

  @Test(
    "On huge pages, from the middle of one",
    .enabled(if: freeHugePages >= 24, "needs 24 free huge pages"),
    arguments: ["scan", "pagemap", "faults"])
  func hugePages(_ detector: String) throws {
    try expectExact(
      try storm(detector) {
        $0.hugePages = true
        $0.inset = 300
        $0.burstsPerFrame = 2
        $0.seconds = 60
      })
  }

  @Test(
    "On transparent huge pages, whole and in part",
    .enabled(if: TransparentHugePages.canBeHad, "needs a kernel that has them"))
  func transparentHugePages() throws {
    let before = try TransparentHugePages.set("always")
    defer { _ = try? TransparentHugePages.set(before) }
    let made = TransparentHugePages.made
    try expectExact(try storm("scan") { $0.inset = 77 })
    #expect(TransparentHugePages.made > made, "the guest's memory was of small pages")
  }
}

/// /sys/kernel/mm/transparent_hugepage/shmem_enabled.
enum TransparentHugePages {
  static let path = "/sys/kernel/mm/transparent_hugepage/shmem_enabled"

  /// Whether a memfd gets some, tried once on one of 4 MiB.
  static let canBeHad: Bool = {
    guard udmabufProblem == nil, access(path, W_OK) == 0, let before = try? set("always") else {
      return false
    }
    defer { _ = try? set(before) }
    let earlier = made
    guard let ram = try? SharedRAM(pages: 1024) else { return false }
    ram.write(ram.span(0, 1024), 1)
    return made > earlier
  }()

  /// How many the kernel has made for memfds and tmpfs since it runs (/proc/vmstat).
  static var made: Int {
    let lines = WholeFile.text("/proc/vmstat")?.split(separator: "\n") ?? []
    let line = lines.first { $0.hasPrefix("thp_file_alloc ") }
    return line.flatMap { Int($0.split(separator: " ").last ?? "") } ?? 0
  }

  /// Chooses for memfds made from now on; returns the choice before.
  static func set(_ value: String) throws -> String {
    let text = String(decoding: try WholeFile.read(path), as: UTF8.self)
    try WholeFile.write(Array(value.utf8), to: path)
    guard let open = text.firstIndex(of: "["), let close = text.firstIndex(of: "]") else {
      return "never"
    }
    return String(text[text.index(after: open)..<close])
  }
}
