import Buffers
import FakeGuest
import Fences
import Glibc
import Linux
import PinholeFrames
import PinholeProtocol
import Scene
import Testing

@testable import FrameServer

@Suite struct FrameRubbishTests {
  @Test(arguments: 0..<8) func rubbishDisturbsNobody(_ run: Int) throws {
    let seed = UInt64.random(in: 1...UInt64.max)
    var random = SeededRandom(seed: seed)
    let bench = try FrameBench()
    bench.enable()
    let good = try bench.consumer("good")
    let buffer = try FakeBuffer(1)
    var answers = 0
    var asked = 0
    for _ in 0..<150 {
      let socket = try bench.socket()
      let greets = random.next() % 4 != 0
      if greets { try RawConsumer.send(socket.raw, RawConsumer.hello()) }
      try bench.turn(1)
      for _ in 0..<(1 + random.next() % 6) {
        let packet = packet(&random)
        let fds = [CInt](repeating: 0, count: Int(random.next() % 3))
        do {
          _ = try packet.withUnsafeBytes {
            try UnixSocket.send(socket.raw, $0, fds: fds, dontWait: true)
          }
        } catch let error as Errno where error.code == EPIPE || error.code == ECONNRESET {
          break
        }
        let hold = Hold { answers += 1 }
        asked += 1
        try bench.show(buffer, hold: hold)
        hold.release()
        try bench.turn(1)
      }
      for frame in try bench.frames(good) { try good.done(frame) }
    }
    try bench.turn()
    for frame in try bench.frames(good) { try good.done(frame) }
    try bench.turn()
    #expect(bench.server.consumers == 1, "seed \(seed)")
    #expect(bench.server.clients.count == 1, "seed \(seed)")
    #expect(answers == asked, "seed \(seed)")
    #expect(buffer.offered.lock.readers == 0, "seed \(seed)")
    #expect(try bench.told(good).isEmpty, "seed \(seed)")
  }

  /// Bytes that are nearly right more often than not.
  private func packet(_ random: inout SeededRandom) -> [UInt8] {
    var bytes: [UInt8]
    switch random.next() % 5 {
    case 0: bytes = withUnsafeBytes(of: RawConsumer.hello()) { Array($0) }
    case 1: bytes = withUnsafeBytes(of: RawConsumer.done(random.next() % 4)) { Array($0) }
    case 2:
      bytes = withUnsafeBytes(
        of: RawConsumer.closed(UInt32(random.next() % 3), UInt32(random.next() % 3))
      ) { Array($0) }
    default:
      bytes = (0..<(1 + random.next() % 1100)).map { _ in UInt8(truncatingIfNeeded: random.next()) }
    }
    if random.next() % 3 == 0 {
      bytes[Int(random.next() % UInt64(bytes.count))] = UInt8(truncatingIfNeeded: random.next())
    }
    return bytes
  }

  enum Stage: CaseIterable {
    case connected, greeted, offered, shown, behind, revoked
  }

  @Test(arguments: Stage.allCases) func leavingAtAnyStageReleasesEverything(_ stage: Stage) throws {
    let bench = try FrameBench()
    bench.enable()
    let other = try bench.consumer("other")
    let socket = try bench.socket()
    let theirs = try #require(bench.server.clients.last).socket.raw
    let link = try #require(linkOf(theirs))
    let buffer = try FakeBuffer(1)
    var answers = 0
    var asked = 0
    var released = 0
    if stage != .connected {
      try RawConsumer.send(socket.raw, RawConsumer.hello())
      try bench.turn()
    }
    let frames: [Stage: Int] = [
      .connected: 0, .greeted: 0, .offered: 1, .shown: 2, .behind: 5, .revoked: 2,
    ]
    for _ in 0..<(frames[stage] ?? 0) {
      let hold = Hold { answers += 1 }
      asked += 1
      try bench.show(buffer, hold: hold)
      hold.release()
      for frame in try bench.frames(other) { try other.done(frame) }
    }
    if stage == .revoked {
      bench.server.revoke(buffer.offered, reason: .destroyed) { released += 1 }
      _ = try bench.events(other)
      #expect(released == 0)
    }
    leave(socket)
    try bench.turn()
    #expect(bench.server.clients.count == 1)
    #expect(answers == asked)
    #expect(buffer.offered.lock.readers == 0)
    if stage == .revoked { #expect(released == 1) }
    #expect(!openFiles().contains(link))
    // The other one goes on.
    if stage != .revoked {
      try bench.show(buffer)
      #expect(try bench.frames(other).count == 1)
    }
  }

  private func leave(_ socket: consuming OwnedFD) {}

  private func linkOf(_ fd: CInt) -> String? {
    withUnsafeTemporaryAllocation(byteCount: 64, alignment: 1) { out in
      guard let text = out.baseAddress else { return nil }
      let count = readlink("/proc/self/fd/\(fd)", text, 64)
      return count > 0 ? String(decoding: out.prefix(count), as: UTF8.self) : nil
    }
  }
}
