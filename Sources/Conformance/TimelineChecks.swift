import Fences
import FrameProtocol
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
      try expectError(socket, PINHOLE_ERROR_MALFORMED, 0, of: addType)
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
      try expectError(socket, PINHOLE_ERROR_UNEXPECTED, 12, of: PINHOLE_FRAME_DONE.rawValue)
    }
    report.check("refused by name: TIMELINE_REMOVE without a timeline") {
      let socket = try greeted { $0.features = PINHOLE_FEATURE_TIMELINE }.0
      try socket.send(TimelineRemove(output: 0).wire)
      try expectError(
        socket, PINHOLE_ERROR_UNEXPECTED, 8, of: PINHOLE_TIMELINE_REMOVE.rawValue)
    }
    report.check("refused by name: point 0") {
      let socket = try greeted { $0.features = PINHOLE_FEATURE_TIMELINE }.0
      var message = done(.max)
      message.release_kind = PINHOLE_FENCE_TIMELINE.rawValue
      try socket.send(message)
      try expectError(socket, PINHOLE_ERROR_MALFORMED, 24, of: PINHOLE_FRAME_DONE.rawValue)
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
    try expectError(socket, PINHOLE_ERROR_MALFORMED, mistake.field, of: addType)
  }

  private var addType: UInt32 { PINHOLE_TIMELINE_ADD.rawValue }

  private func add() -> pinhole_timeline_add { TimelineAdd(output: 0).wire }

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
    try listen(to: consumer, milliseconds: 300) { try consumer.done($0) }
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
    case PINHOLE_TIMELINE_ADD, PINHOLE_TIMELINE_REMOVE: break
    default: return false
    }
    switch try packet.message(features: PINHOLE_FEATURE_TIMELINE) {
    case .timelineAdd(let add): try take(add, packet.descriptors)
    case .timelineRemove(let remove):
      guard timelines.removeValue(forKey: remove.output) != nil else {
        throw wrong("output \(remove.output) has no timeline to remove")
      }
    default: return false
    }
    return true
  }

  private mutating func take(_ add: TimelineAdd, _ descriptors: [SharedFD]) throws {
    guard timelines[add.output] == nil else {
      throw wrong("a second timeline for output \(add.output)")
    }
    let syncobj = try descriptors[add.syncobj].duplicate()
    let node = try descriptors[add.node].duplicate()
    do throws(SyncTimeline.Fault) {
      timelines[add.output] = try SyncTimeline(syncobj, node: node)
    } catch { throw wrong("TIMELINE_ADD: \(error)") }
  }

  /// Waits for what FRAME_DONE names.
  func await(_ done: FrameDone) throws {
    guard case .point(let point) = done.release else { return }
    guard let timeline = timelines[done.output] else {
      throw wrong("point \(point) of an output without a timeline")
    }
    let event = try timeline.event(for: point)
    var poll = pollfd(fd: event.raw, events: Int16(POLLIN), revents: 0)
    guard try retrying("poll", { Glibc.poll(&poll, 1, 5000) }) > 0 else {
      throw wrong("point \(point) did not signal in 5000 ms")
    }
  }

  private func wrong(_ text: String) -> ConformanceResult { .wrong(text) }
}
