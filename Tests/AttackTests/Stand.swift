import FakeGuest
import Glibc
import Linux
import Testing

/// How long each attack lasts: half a second, or `PINHOLE_ATTACK_SECONDS`.
let attackSeconds = getenv("PINHOLE_ATTACK_SECONDS").flatMap { Double(String(cString: $0)) } ?? 0.5

/// How much more of it comes in long runs.
let attackScale = attackSeconds >= 20 ? 10 : 1

/// A guest that draws, its device, the owner's consumer, and a well-behaved stranger.
final class Stand {
  let pinhole: PinholeProcess
  let share: PinholeShare
  /// Where strangers connect.
  let copies: String
  let frame: Framebuffer
  private let owner: FrameWatcher
  private let stranger: FrameWatcher
  private var round = 0

  init(_ options: [String] = []) throws {
    pinhole = try PinholeProcess(options)
    copies = pinhole.framesSocket + "-copies"
    share = try PinholeShare(of: pinhole.framesSocket, on: copies)
    let driver = try GPUDriver(
      try VhostUserFrontEnd(path: pinhole.socket, ram: GuestRAM(size: 16 << 20)))
    frame = try Framebuffer(driver, resource: 1, width: Self.width, height: Self.height)
    try frame.show()
    owner = try FrameWatcher(path: pinhole.framesSocket)
    stranger = try FrameWatcher(path: copies)
    try prove("before")
    base = (pinhole.descriptorCount, share.child.descriptorCount)
    memory = try Self.memory(of: pinhole.child.pid) + Self.memory(of: share.child.pid)
    pins = try pinned()
  }

  /// The picture that the guest draws.
  static let width = 320
  static let height = 200

  /// Copies that are made when they are first needed, and stay.
  private static let slack = 24

  private var base: (pinhole: Int, share: Int) = (0, 0)
  private var memory = 0
  private var pins = 0
  /// The longest that the guest waited for the answer to a fenced flush, in nanoseconds.
  private(set) var longest: UInt64 = 0
  /// A call that waits for somebody outside is interrupted after 2 s: nothing that is right takes
  /// half of that, on any machine.
  private static let patience: UInt64 = 1_000_000_000

  var log: String { "\(pinhole.log)\n\(share.log)" }

  /// The owner and the stranger see what the guest draws, and its fenced flush is answered.
  func prove(_ what: String) throws {
    round += 1
    let picture = TestPicture.pages.render(width: Self.width, height: Self.height, frame: round)
    frame.draw(picture)
    let before = Clock.now
    try frame.flush(fence: UInt64(round))
    let passed = Clock.now - before
    longest = max(longest, passed)
    #expect(passed < Self.patience, "\(what): a fenced flush took \(passed / 1_000_000) ms\n\(log)")
    if let seen = owner.difference(from: picture, milliseconds: 15_000) {
      Issue.record("\(what): the owner sees \(seen)\n\(log)")
    }
    if let seen = stranger.difference(from: picture, milliseconds: 15_000) {
      Issue.record("\(what): a stranger sees \(seen)\n\(log)")
    }
  }

  /// Attacks from some threads while the guest draws; everything must go on, and come back.
  func withstand(_ attack: Attack, threads: Int = 2, path: String) throws {
    let isOver = Locked(false)
    let attempts = Locked(0)
    var attackers: [Attacker] = []
    for index in 0..<threads {
      attackers.append(try Attacker(attack, path, index, isOver, attempts))
    }
    let end = Clock.now + UInt64(attackSeconds * 1e9)
    repeat { try prove("during \(attack.name)") } while Clock.now < end
    isOver.withLock { $0 = true }
    attackers = []
    #expect(attempts.withLock { $0 } > 0, "\(attack.name) did nothing")
    try prove("after \(attack.name)")
    try expectCalm(attack.name)
  }

  /// Descriptors come back, nothing runs, and no log line is anybody else's.
  func expectCalm(_ name: String) throws {
    let deadline = Clock.now + 20_000_000_000
    var now = (0, 0)
    repeat {
      now = (pinhole.descriptorCount, share.child.descriptorCount)
      if now.0 <= base.pinhole + Self.slack, now.1 <= base.share + Self.slack { break }
      usleep(50_000)
    } while Clock.now < deadline
    #expect(
      now.0 <= base.pinhole + Self.slack && now.1 <= base.share + Self.slack,
      "\(name): descriptors \(now), were \(base)")
    // A core at rest: of a second, less than half.
    let before = Self.ticks(of: pinhole.child.pid) + Self.ticks(of: share.child.pid)
    usleep(400_000)
    let used = Self.ticks(of: pinhole.child.pid) + Self.ticks(of: share.child.pid) - before
    #expect(used < 20, "\(name): \(used) ticks of 40 at rest")
    let more = try Self.memory(of: pinhole.child.pid) + Self.memory(of: share.child.pid) - memory
    #expect(more < 64 << 20, "\(name): \(more >> 20) MiB more than before")
    #expect(try pinned() == pins, "\(name)")
    for line in log.split(separator: "\n") {
      #expect(line.hasPrefix("pinhole: "), "forged: \(line)")
      #expect(!line.unicodeScalars.contains { $0.value < 0x20 }, "control characters: \(line)")
    }
  }

  func end() {
    #expect(share.terminate() == 0, "\(share.log)")
    #expect(pinhole.terminate() == 0, "\(pinhole.log)")
  }

  /// Bytes of guest memory that are pinned, as the device's process counts them.
  private func pinned() throws -> Int { try counter("pinned-bytes") }

  /// A number that the device's process logs when it is asked.
  func counter(_ name: String) throws -> Int {
    let name = name + " "
    let before = pinhole.log.components(of: name).count
    kill(pinhole.child.pid, SIGUSR1)
    let deadline = Clock.now + 20_000_000_000
    while pinhole.log.components(of: name).count == before {
      guard Clock.now < deadline else { throw Errno(ETIMEDOUT, "SIGUSR1") }
      usleep(5000)
    }
    return pinhole.log.components(of: name).last.flatMap { Int($0) } ?? -1
  }

  /// What a process has of its own and of memfds, in bytes: proc_pid_status(5).
  static func memory(of pid: CInt) throws -> Int {
    let text = String(decoding: try WholeFile.read("/proc/\(pid)/status"), as: UTF8.self)
    let line = try #require(text.split(separator: "\n").first { $0.hasPrefix("VmRSS:") })
    return try #require(line.split(separator: " ").dropLast().last.flatMap { Int($0) }) << 10
  }

  /// Processor time in hundredths of a second, proc_pid_stat(5).
  private static func ticks(of pid: CInt) -> Int {
    guard let bytes = try? WholeFile.read("/proc/\(pid)/stat") else { return 0 }
    let fields = String(decoding: bytes, as: UTF8.self).split(separator: ")").last?.split(
      separator: " ")
    guard let fields, fields.count > 13 else { return 0 }
    return (Int(fields[11]) ?? 0) + (Int(fields[12]) ?? 0)
  }
}

extension String {
  /// The digits behind each place where a name stands.
  fileprivate func components(of name: String) -> [Substring] {
    var found: [Substring] = []
    for line in split(separator: "\n") {
      for pair in line.split(separator: ",") where pair.drop(while: { $0 == " " }).hasPrefix(name) {
        found.append(pair.drop { $0 == " " }.dropFirst(name.count).prefix { $0.isNumber })
      }
    }
    return found
  }
}

/// What somebody does over and over; one call is one attempt.
struct Attack: Sendable, CustomTestStringConvertible {
  let name: String
  /// - Parameters: the socket's path, and a number that is different for each attempt.
  let attempt: @Sendable (String, Int) throws -> Void

  init(_ name: String, _ attempt: @escaping @Sendable (String, Int) throws -> Void) {
    self.name = name
    self.attempt = attempt
  }

  var testDescription: String { name }
}

/// A thread that attacks until it is over.
final class Attacker {
  private let thread: Thread

  init(
    _ attack: Attack, _ path: String, _ index: Int, _ isOver: Locked<Bool>,
    _ attempts: Locked<Int>
  ) throws {
    thread = try Thread("attacker") {
      var number = index
      while !isOver.withLock({ $0 }) {
        // Being refused is the usual end.
        try? attack.attempt(path, number)
        attempts.withLock { $0 += 1 }
        number += 100
      }
    }
  }
}
