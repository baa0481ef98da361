import FakeGuest
import FrameWire
import Glibc
import Linux
import PinholeFrames
import PinholeProtocol

// Consumers that bring timelines.
extension ProducerChecks {
  func timelines(_ report: inout ConformanceReport) {
    report.check("refused by name: a timeline that was not agreed on") {
      let socket = try greeted().0
      let null = try OwnedFD.open("/dev/null", O_RDWR)
      try socket.send(add(), fds: [null.raw, null.raw])
      try expectError(socket, PINHOLE_ERROR_MALFORMED, 0)
    }
    guard let answer = try? greeted({ $0.features = PINHOLE_FEATURE_TIMELINE }).1,
      answer.features & PINHOLE_FEATURE_TIMELINE != 0
    else { return }
    for mistake in Self.mistakesWithTimelines {
      report.check("refused by name: \(mistake.name)") { try make(mistake) }
    }
    report.check("refused by name: a point of an output without a timeline") {
      let socket = try greeted { $0.features = PINHOLE_FEATURE_TIMELINE }.0
      var message = done(.max)
      message.release_kind = PINHOLE_FENCE_TIMELINE.rawValue
      message.release_point = 1
      try socket.send(message)
      try expectError(socket, PINHOLE_ERROR_UNEXPECTED, 12)
    }
    report.check("refused by name: TIMELINE_REMOVE without a timeline") {
      let socket = try greeted { $0.features = PINHOLE_FEATURE_TIMELINE }.0
      try socket.send(
        pinhole_timeline_remove(
          header: ConformanceSocket.header(PINHOLE_TIMELINE_REMOVE, pinhole_timeline_remove.self),
          output: 0, reserved: 0))
      try expectError(socket, PINHOLE_ERROR_UNEXPECTED, 8)
    }
    report.check("a point is taken before it has a fence") { try bringAPoint() }
  }

  private struct Mistake: Sendable {
    let name: String
    let field: UInt32
    let change: @Sendable (inout pinhole_timeline_add) -> Void
  }

  private static let mistakesWithTimelines = [
    Mistake(name: "a timeline of no output", field: 8) { $0.output = .max },
    Mistake(name: "a reserved field", field: 12) { $0.reserved = 1 },
    Mistake(name: "syncobj_index", field: 16) { $0.syncobj_index = 2 },
    Mistake(name: "node_index", field: 20) { $0.node_index = 0 },
    Mistake(name: "a descriptor that is no DRM node", field: 20) { _ in },
  ]

  private func make(_ mistake: Mistake) throws {
    let socket = try greeted { $0.features = PINHOLE_FEATURE_TIMELINE }.0
    let null = try OwnedFD.open("/dev/null", O_RDWR)
    var message = add()
    mistake.change(&message)
    try socket.send(message, fds: [null.raw, null.raw])
    try expectError(socket, PINHOLE_ERROR_MALFORMED, mistake.field)
  }

  private func add() -> pinhole_timeline_add {
    pinhole_timeline_add(
      header: ConformanceSocket.header(PINHOLE_TIMELINE_ADD, pinhole_timeline_add.self), output: 0,
      reserved: 0, syncobj_index: 0, node_index: 1)
  }

  private func bringAPoint() throws {
    let timeline: FakeTimeline
    do throws(Errno) { timeline = try FakeTimeline() } catch {
      throw ConformanceResult.skipped("no DRM node here has timelines")
    }
    let (consumer, frame) = try firstFrame(.init(name: "conformance", takesTimelines: true))
    try consumer.addTimeline(
      output: frame.output, syncobj: timeline.descriptor.raw, node: timeline.node.raw)
    try consumer.done(frame, point: 1)
    try consumer.removeTimeline(output: frame.output)
    do throws(Errno) { try timeline.signal(1) } catch { throw wrong("\(error)") }
    // It still talks to us.
    while let event = try consumer.next(timeout: 300) {
      if case .frame(let next) = event { try consumer.done(next) }
    }
  }
}
