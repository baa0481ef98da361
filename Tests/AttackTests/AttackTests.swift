import FakeGuest
import Glibc
import Linux
import PinholeFrames
import Testing

/// Whoever may connect does its worst, while a guest draws and others look.
@Suite(.serialized) struct AttackTests {
  private struct Seen {
    var flushes = 0
    var owner = 0
    var stranger = 0
  }

  @Test(arguments: FrameAttacks.all)
  func consumers(_ attack: Attack) throws {
    let stand = try Stand()
    try stand.withstand(attack, path: stand.pinhole.framesSocket)
    stand.end()
  }

  @Test(arguments: FrameAttacks.all)
  func strangers(_ attack: Attack) throws {
    let stand = try Stand()
    try stand.withstand(attack, path: stand.copies)
    stand.end()
  }

  /// Whoever keeps every descriptor that it gets, and comes again, has no more memory for it.
  @Test(arguments: [false, true])
  func keepers(_ areStrangers: Bool) throws {
    let stand = try Stand()
    let kept = Locked<[SharedFD]>([])
    let attack = Attack("keeping what came") { path, number in
      // Its wishes differ, and its visits are short.
      let alignment = UInt32(1) << UInt32(number % 13)
      let consumer = try FrameConsumer(
        path: path, options: .init(strideAlignment: alignment, heightAlignment: alignment))
      while let event = try consumer.next(timeout: 50) {
        guard case .bufferAdded(let buffer) = event else { continue }
        let fd = SharedFD(try OwnedFD.duplicate(of: buffer.descriptor))
        kept.withLock { if $0.count < 2000 { $0.append(fd) } }
        return
      }
    }
    try stand.withstand(
      attack, path: areStrangers ? stand.copies : stand.pinhole.framesSocket)
    var files: Set<FileFacts.Identity> = []
    var bytes = 0
    for fd in kept.withLock({ $0 }) {
      guard files.insert(try FileFacts(of: fd.raw).identity).inserted else { continue }
      var facts = stat()
      #expect(fstat(fd.raw, &facts) == 0)
      bytes += Int(facts.st_blocks) * 512
    }
    #expect(!files.isEmpty)
    // Copies of 256 KB; those of wishes may have padding.
    #expect(bytes < 64 << 20, "\(bytes >> 20) MiB in \(files.count) files are kept")
    stand.end()
  }

  /// Whoever comes again and again, each time with other wishes, has each picture copied for him
  /// once more at most, and not all of them anew.
  @Test func comers() throws {
    let stand = try Stand()
    let (copies, pictures) = (try stand.counter("copied"), try stand.counter("frames"))
    let visits = Locked(0)
    let attack = Attack("coming back with other wishes") { path, number in
      let alignment = UInt32(1) << UInt32(number / 100 % 13)
      let consumer = try FrameConsumer(
        path: path, options: .init(strideAlignment: alignment, heightAlignment: alignment))
      while let event = try consumer.next(timeout: 1000) {
        guard case .frame = event else { continue }
        return visits.withLock { $0 += 1 }
      }
    }
    try stand.withstand(attack, threads: 4, path: stand.pinhole.framesSocket)
    #expect(visits.withLock { $0 } > 13, "all wishes were made")
    let made = try stand.counter("copied") - copies
    let shown = try stand.counter("frames") - pictures
    // One for who wishes nothing, and one for all others. What suits all is found once.
    #expect(made <= 2 * shown + 2 * 13, "\(made) copies of \(shown) pictures")
    stand.end()
  }

  /// A well-behaved front-end, which may have to wait for others, shows a picture and leaves; a
  /// consumer that was there before sees it.
  private func showOnce(_ pinhole: PinholeProcess, _ watcher: FrameWatcher, _ round: Int) throws {
    var options = VhostUserFrontEnd.Options()
    // Longer than any attack keeps its place.
    options.patience = 60_000
    let driver = try GPUDriver(
      try VhostUserFrontEnd(path: pinhole.socket, ram: GuestRAM(size: 16 << 20), options))
    let frame = try Framebuffer(driver, resource: 1, width: 320, height: 200)
    let picture = TestPicture.pages.render(width: 320, height: 200, frame: round)
    frame.draw(picture)
    try frame.show()
    try frame.flush(fence: 1)
    if let seen = watcher.difference(from: picture, milliseconds: 15_000) {
      Issue.record("round \(round): the consumer sees \(seen)\n\(pinhole.log)")
    }
  }

  private func descriptors(of pinhole: PinholeProcess) -> Int {
    let all = (try? Folder.descriptors(of: pinhole.child.pid)) ?? []
    return all.count { !$0.target.hasPrefix("/memfd:pinhole-copy") }
  }

  /// The process lives on, and between the attacks other front-ends are served, whose frames a
  /// consumer sees.
  @Test(arguments: FrontEndAttacks.all)
  func frontEnds(_ attack: Attack) throws {
    let pinhole = try PinholeProcess()
    let watcher = try FrameWatcher(path: pinhole.framesSocket)
    for round in 0..<3 { try showOnce(pinhole, watcher, round) }
    // And what the first front-ends bring about; memory of copies is kept for the next ones.
    let before = descriptors(of: pinhole) + 8
    let memory = try Stand.memory(of: pinhole.child.pid)
    let isOver = Locked(false)
    let attempts = Locked(0)
    do {
      let attacker = try Attacker(attack, pinhole.socket, 0, isOver, attempts)
      let end = Clock.now + UInt64(attackSeconds * 1e9)
      let shown = Result {
        var round = 10
        repeat {
          round += 1
          try showOnce(pinhole, watcher, round)
        } while Clock.now < end
        // At least one of its attempts is over too.
        while attempts.withLock({ $0 }) == 0 { usleep(1000) }
      }
      // Before the thread is waited for.
      isOver.withLock { $0 = true }
      withExtendedLifetime(attacker) {}
      try shown.get()
    }
    #expect(attempts.withLock { $0 } > 0)
    let deadline = Clock.now + 20_000_000_000
    // Front-ends that were not served yet come between: it has to stay so for a while.
    var looks = 0
    while looks < 10, Clock.now < deadline {
      looks = descriptors(of: pinhole) <= before ? looks + 1 : 0
      usleep(20_000)
    }
    #expect(
      looks == 10, "\(attack.name): \(descriptors(of: pinhole)), was \(before): \(pinhole.log)")
    #expect(pinhole.descriptorCount <= before + 80, "\(attack.name)")
    let more = try Stand.memory(of: pinhole.child.pid) - memory
    #expect(more < 64 << 20, "\(attack.name): \(more >> 20) MiB more than before")
    try showOnce(pinhole, watcher, 1 << 10)
    #expect(watcher.now.failure == nil, "\(pinhole.log)")
    try showOnce(pinhole, try FrameWatcher(path: pinhole.framesSocket), 1 << 11)
    #expect(pinhole.terminate() == 0, "\(pinhole.log)")
  }

  /// 31 strangers at once, in turns with and without them, so that both see the same machine.
  ///
  /// The owner's consumer gets each frame, which needs no clock; how long a flush takes and how much
  /// a stranger gets is looked at in long runs.
  @Test func aCrowdOfStrangers() throws {
    let pinhole = try PinholeProcess()
    let copies = pinhole.framesSocket + "-copies"
    let share = try PinholeShare(of: pinhole.framesSocket, on: copies)
    let driver = try GPUDriver(
      try VhostUserFrontEnd(path: pinhole.socket, ram: GuestRAM(size: 32 << 20)))
    let frame = try Framebuffer(driver, resource: 1, width: 1280, height: 720)
    try frame.show()
    let owner = try FrameWatcher(path: pinhole.framesSocket)
    let stranger = try FrameWatcher(path: copies)
    try frame.flush()
    #expect(
      owner.wait(milliseconds: 20_000) { $0.frames > 0 }
        && stranger.wait(milliseconds: 20_000) { $0.frames > 0 })
    let isQuiet = Locked(true)
    let isOver = Locked(false)
    let attempts = Locked(0)
    var crowd: [Attacker] = []
    for index in 0..<31 {
      let attack = FrameAttacks.all[index % FrameAttacks.all.count]
      let inTurns = Attack(attack.name) { path, number in
        if isQuiet.withLock({ $0 }) {
          usleep(10_000)
        } else {
          // Carriers and those that linger keep closers busy, which is told apart elsewhere.
          try attack.attempt(path, number + 200)
        }
      }
      crowd.append(try Attacker(inTurns, copies, index, isOver, attempts))
    }
    var times: [[UInt64]] = [[], []]
    var frames = [Seen(), Seen()]
    let turns = max(4, Int(attackSeconds))
    for turn in 0..<turns {
      let mode = turn & 1
      isQuiet.withLock { $0 = mode == 0 }
      usleep(200_000)
      let seen = (owner.now.frames, stranger.now.frames)
      let end = Clock.now + (attackSeconds < 20 ? 250_000_000 : 1_000_000_000)
      while Clock.now < end {
        frame.draw(TestPicture.pages.render(width: 1280, height: 720, frame: frames[mode].flushes))
        let (before, had) = (Clock.now, owner.now.frames)
        try frame.flush(fence: UInt64(frames[0].flushes + frames[1].flushes + 1))
        times[mode].append(Clock.now - before)
        frames[mode].flushes += 1
        #expect(owner.wait(milliseconds: 15_000) { $0.frames > had }, "\(pinhole.log)")
        usleep(20_000)
      }
      usleep(100_000)
      frames[mode].owner += owner.now.frames - seen.0
      frames[mode].stranger += stranger.now.frames - seen.1
    }
    isOver.withLock { $0 = true }
    crowd = []
    let medians = times.map { $0.sorted()[$0.count / 2] }
    print("flush: \(medians[0] / 1000) us alone, \(medians[1] / 1000) us with 31 strangers")
    print("frames: \(frames)")
    for mode in frames { #expect(mode.flushes > 0 && mode.owner == mode.flushes) }
    if attackSeconds >= 20 {
      #expect(Double(medians[1]) <= 1.3 * Double(medians[0]))
      let parts = frames.map { Double($0.stranger) / Double(max($0.flushes, 1)) }
      #expect(parts[1] >= 0.9 * parts[0], "of its frames a stranger gets \(parts)")
    }
    #expect(share.terminate() == 0 && pinhole.terminate() == 0)
  }
}
