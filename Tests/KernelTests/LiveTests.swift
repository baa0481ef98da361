import Buffers
import FakeGuest
import Glibc
import GuestMemory
import Linux
import PinholeFrames
import Pixels
import Testing

/// What follows a discard, for those who look: through the device, the store and the sockets.
@Suite(
  "Discards under a live picture", .serialized,
  .enabled(if: bufferProblem == nil, "needs userfaultfd"))
struct LiveTests {
  @Test("A lost race is taken back, copied, and forgiven")
  func lostRace() throws {
    let scene = try LiveScene()
    let diary = try Diary(scene.pinhole.framesSocket)
    try diary.read(for: "the picture") { $0.memory == .dmaBuf }
    let first = try #require(diary.frames.last).buffer

    scene.spoiler.aim(at: scene.driver.ram.fd, try scene.offset(ofPage: 3))
    try scene.discard(3, byte: 0x11)
    try scene.flush(Rect(width: 8, height: 1))
    try diary.read(for: "the old buffer's removal") { !$0.removals.isEmpty }
    #expect(diary.removals.first?.name == first && diary.removals.first?.reason == .discarded)
    try diary.read(for: "a copy") { $0.memory == .copy }
    // What was discarded last, by the spoiler, is drawn again.
    scene.spoiler.rest()
    scene.draw(1)
    try scene.flush()
    try diary.read(for: "what was drawn") { try $0.bytes() == scene.contents }
    #expect(try scene.pinhole.counters()["lost"] == 1)

    var turn = 2
    try diary.read(for: "the guest's pages again") {
      if $0.memory == .dmaBuf { return true }
      scene.draw(turn)
      turn += 1
      try scene.flush(Rect(width: 8, height: 1))
      return false
    }
    scene.draw(turn)
    #expect(try diary.bytes() == scene.contents, "these are the guest's own pages")
    #expect(diary.partialFirsts == [])
    #expect(diary.additionsTooEarly == [])
    try scene.end()
  }

  @Test("A picture that lost a race is not tried again at each flush")
  func lostRaceIsRemembered() throws {
    let scene = try LiveScene()
    let diary = try Diary(scene.pinhole.framesSocket)
    try diary.read(for: "the picture") { $0.memory == .dmaBuf }
    scene.spoiler.aim(at: scene.driver.ram.fd, try scene.offset(ofPage: 3))
    let start = Clock.now
    try scene.discard(3, byte: 0x11)
    for turn in 1...60 {
      scene.draw(turn)
      try scene.flush()
      try diary.catchUp()
    }
    let retries = try #require(try scene.pinhole.counters()["retries"])
    // Two for the race that was lost, and two each 100 ms since: as many as there was time for.
    let most = 2 + 2 * ((Clock.now - start) / 100_000_000 + 1)
    #expect(retries >= 2 && retries <= most, "\(retries) retries, \(most) had time")
    scene.spoiler.rest()
    try scene.end()
  }

  @Test("Each generation begins with a whole frame, after the last one is gone")
  func generations() throws {
    let scene = try LiveScene()
    let diary = try Diary(scene.pinhole.framesSocket)
    try diary.read(for: "the picture") { $0.memory == .dmaBuf }
    for turn in 1...40 {
      try scene.discard(turn, byte: UInt8(turn))
      // The timer may be faster than this flush, which then brings a part of the new generation.
      try scene.flush(Rect(width: 8, height: 1))
      try diary.read(for: "turn \(turn)") { try $0.bytes() == scene.contents }
    }
    #expect(diary.removals.count >= 20, "a discard may be seen together with the next one")
    #expect(diary.removals.allSatisfy { $0.reason == .discarded })
    #expect(diary.partialFirsts == [])
    #expect(diary.additionsTooEarly == [])
    try scene.end()
  }

  @Test("QEMU's display gets all of a picture whose pages were discarded")
  func wholeForQEMU() throws {
    let scene = try LiveScene()
    let display = try #require(scene.display)
    let diary = try Diary(scene.pinhole.framesSocket)
    try diary.read(for: "the picture") { $0.memory == .dmaBuf }
    for turn in 1...40 {
      try scene.discard(turn)
      // Far from what was discarded.
      try scene.flush(Rect(width: 8, height: 1))
      let wanted = scene.buffer.contents.pixels
      #expect(display.wait { $0.surfaces[0]?.pixels == wanted }, "turn \(turn)")
      try diary.catchUp()
    }
    #expect(display.now.violations == [])
    try scene.end()
  }

  @Test("Pages are let go when the last consumer leaves, and pinned for the next one")
  func lastConsumer() throws {
    let scene = try LiveScene()
    var first: Diary? = try Diary(scene.pinhole.framesSocket)
    try first?.read(for: "the picture") { $0.memory == .dmaBuf }
    var second: Diary? = try Diary(scene.pinhole.framesSocket)
    try second?.read(for: "the picture") { $0.memory == .dmaBuf }
    withExtendedLifetime(first) {}
    first = nil
    for turn in 1...5 {
      scene.draw(turn)
      try scene.flush()
      try second?.read(for: "turn \(turn)") { try $0.bytes() == scene.contents }
    }
    #expect(try scene.pinhole.counters()["pinned-bytes"] == 63 * 4096, "one still looks")
    withExtendedLifetime(second) {}
    second = nil
    #expect(try scene.pinhole.waits { $0["pinned-bytes"] == 0 }, "nobody looks any more")
    let third = try Diary(scene.pinhole.framesSocket)
    try third.read(for: "the picture") { $0.memory == .dmaBuf }
    #expect(try third.bytes() == scene.contents)
    try scene.end()
  }

  @Test("An output that flips steadily does not hide the discards of another one")
  func twoOutputs() throws {
    let scene = try LiveScene(kind: .blob)
    let other = try Framebuffer(
      scene.driver, resource: 2, width: 64, height: 64, kind: .blob)
    try other.show(on: 1)
    try other.flush()
    let diary = try Diary(scene.pinhole.framesSocket)
    try diary.read(for: "both pictures") { Set($0.frames.map(\.output)) == [0, 1] }
    for _ in 0..<20 {
      try other.flush()
      try diary.catchUp()
      usleep(10_000)
    }
    // Each flush looks at its own picture; all looks beyond that are at both.
    let before = try scene.pinhole.counters()
    var flips = 0
    var looks = 0
    while looks < 60, flips < 400 {
      for _ in 0..<10 {
        try other.flush()
        try diary.catchUp()
        usleep(10_000)
        flips += 1
      }
      looks = (try scene.pinhole.counters()["checks"] ?? 0) - (before["checks"] ?? 0) - flips
    }
    #expect(looks >= 60, "in \(flips) flips nobody looked at the other output")
    try scene.end()
  }

  @Test("Steady flushes do not do without the timer where it is to go on")
  func looksAlways() throws {
    let scene = try LiveScene([
      "--scanout", "direct", "--hold-deadline", "10000", "--looks", "always",
    ])
    let diary = try Diary(scene.pinhole.framesSocket)
    try diary.read(for: "the picture") { $0.memory == .dmaBuf }
    func flush(_ count: Int) throws {
      for _ in 0..<count {
        try scene.flush()
        try diary.catchUp()
        usleep(16_000)
      }
    }
    try flush(20)
    let before = try scene.pinhole.counters()["checks"] ?? 0
    try flush(60)
    let looks = (try scene.pinhole.counters()["checks"] ?? 0) - before
    #expect(looks >= 120, "of which 60 were those of flushes")
    try scene.end()
  }

  @Test("Pictures at rest are not scanned where the files' times tell", arguments: [false, true])
  func gate(_ discards: Bool) throws {
    let scene = try LiveScene()
    let diary = try Diary(scene.pinhole.framesSocket)
    try diary.read(for: "the picture") { $0.memory == .dmaBuf }
    if discards { try scene.discard(1, byte: 1) }
    for _ in 0..<50 { try scene.flush() }
    let counters = try scene.pinhole.counters()
    let gated = try #require(counters["gated"])
    #expect(WitnessKeeper.timesAreExact ? gated >= 40 : gated == 0)
    #expect(counters["discards"] == (discards ? 1 : 0))
    try diary.catchUp(milliseconds: 100)
    #expect(try diary.bytes() == scene.contents)
    try scene.end()
  }

  @Test("Every hold ends, one after another and one at a time")
  func holds() throws {
    let scene = try LiveScene(["--scanout", "direct", "--hold-deadline", "150"], kind: .blob)
    let hoarder = try Diary(scene.pinhole.framesSocket)
    try hoarder.read(for: "the picture", releases: false) { $0.memory == .dmaBuf }
    var answers: [UInt64] = []
    func send(_ fence: UInt64) throws {
      for command in scene.buffer.flushCommands(fence: fence) {
        try scene.driver.send(command) { if $0.isFenced { answers.append($0.fence) } }
      }
      try scene.driver.kick()
    }
    try send(1)
    usleep(50_000)
    try send(2)
    try scene.driver.wait(for: "both answers") { answers.count == 2 }
    #expect(answers.sorted() == [1, 2])
    for fence in 3...5 as ClosedRange<UInt64> {
      // The first one is behind and gets copies, which hold nobody: this one holds.
      let next = try Diary(scene.pinhole.framesSocket)
      try next.read(for: "the picture", releases: false) { $0.memory == .dmaBuf }
      try send(fence)
      try scene.driver.wait(for: "the answer to flush \(fence)") { answers.last == fence }
      withExtendedLifetime(next) {}
    }
    try scene.end()
  }
}
