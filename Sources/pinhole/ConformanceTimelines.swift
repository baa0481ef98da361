import FakeGuest
import Fences
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

/// The timelines that a consumer under test has brought.
struct ConsumerTimelines {
  var areAgreedOn = false
  private var timelines: [UInt32: SyncTimeline] = [:]

  /// Takes TIMELINE_ADD and TIMELINE_REMOVE; false for another message.
  mutating func take(_ packet: ConformanceSocket.Packet) throws -> Bool {
    guard areAgreedOn else { return false }
    switch pinhole_message(rawValue: packet.type) {
    case PINHOLE_TIMELINE_ADD: try add(packet)
    case PINHOLE_TIMELINE_REMOVE:
      let body = try packet.body(pinhole_timeline_remove.self)
      guard body.reserved == 0 else { throw wrong("a reserved field is \(body.reserved)") }
      guard packet.descriptors.isEmpty else { throw wrong("descriptors came to remove a timeline") }
      guard timelines.removeValue(forKey: body.output) != nil else {
        throw wrong("output \(body.output) has no timeline to remove")
      }
    default: return false
    }
    return true
  }

  private mutating func add(_ packet: ConformanceSocket.Packet) throws {
    let body = try packet.body(pinhole_timeline_add.self)
    guard body.output < PINHOLE_MAX_OUTPUTS, timelines[body.output] == nil else {
      throw wrong("a timeline for output \(body.output)")
    }
    guard body.reserved == 0 else { throw wrong("a reserved field is \(body.reserved)") }
    guard packet.descriptors.count == 2, body.syncobj_index < 2, body.node_index < 2,
      body.syncobj_index != body.node_index
    else {
      throw wrong("\(packet.descriptors.count) descriptors came with TIMELINE_ADD")
    }
    let syncobj = try packet.descriptors[Int(body.syncobj_index)].duplicate()
    let node = try packet.descriptors[Int(body.node_index)].duplicate()
    do throws(SyncTimeline.Fault) {
      timelines[body.output] = try SyncTimeline(syncobj, node: node)
    } catch { throw wrong("TIMELINE_ADD: \(error)") }
  }

  /// Waits for what FRAME_DONE names.
  func await(_ done: pinhole_frame_done) throws {
    if done.release_kind == PINHOLE_FENCE_NONE.rawValue, done.release_point == 0 { return }
    guard done.release_kind == PINHOLE_FENCE_TIMELINE.rawValue, areAgreedOn else {
      throw wrong("a fence that was not agreed on")
    }
    guard done.release_point > 0, let timeline = timelines[done.output] else {
      throw wrong("point \(done.release_point) of an output without a timeline")
    }
    let event = try timeline.event(for: done.release_point)
    var poll = pollfd(fd: event.raw, events: Int16(POLLIN), revents: 0)
    guard try retrying("poll", { Glibc.poll(&poll, 1, 5000) }) > 0 else {
      throw wrong("point \(done.release_point) did not signal in 5000 ms")
    }
  }

  private func wrong(_ text: String) -> ConformanceResult { .wrong(text) }
}
