import FrameProtocol
import Glibc
import Linux
import PinholeFrames
import PinholeProtocol
import Pixels

// What a producer shows, seen by well-behaved consumers: the library judges each message on the
// way, these checks judge what is in the pictures.
extension ProducerChecks {
  func pictures(_ report: inout ConformanceReport) {
    report.check("what is on screen is shown, in order and within limits") {
      _ = try firstFrame(.init(name: "conformance"))
    }
    report.check("no more frames than max_in_flight without an answer") {
      // One more would be an error for the library.
      let (consumer, _) = try firstFrame(.init(name: "conformance"))
      try listen(to: consumer, milliseconds: 600) { _ in }
    }
    report.check("released frames are followed by newer ones only") {
      let (consumer, first) = try firstFrame(.init(name: "conformance"))
      try consumer.done(first)
      try listen(to: consumer, milliseconds: 600) { try consumer.done($0) }
    }
    report.check("copy-only consumers get memory that they cannot write") {
      let (consumer, frame) = try firstFrame(.init(name: "conformance", copyOnly: true))
      let buffer = try self.buffer(of: frame, consumer)
      if (try? Mapping(fd: buffer.descriptor, offset: 0, count: 4096, writable: true)) != nil {
        throw wrong("the copy can be mapped for writing")
      }
      var byte: UInt8 = 0
      guard pwrite(buffer.descriptor, &byte, 1, 0) < 0 else { throw wrong("it can be written to") }
    }
    report.check("a copy does not change before its FRAME_DONE or its time") { try keepACopy() }
    report.check("outside of the damage nothing changes") { try followDamage() }
    report.check("a copy shows the same picture as the guest's memory") { try compareWithCopy() }
    report.check("rows are aligned as asked for") {
      let (consumer, _) = try firstFrame(
        .init(name: "conformance", strideAlignment: 4096, heightAlignment: 64))
      // Where it holds the library refuses other rows.
      guard (consumer.producer?.features ?? 0) & PINHOLE_FEATURE_ALIGNMENT != 0 else {
        throw ConformanceResult.skipped("the feature ALIGNMENT does not hold")
      }
    }
  }

  /// Connects and waits for a frame; everything is checked by the client library on the way.
  func firstFrame(
    _ options: FrameConsumer.Options
  ) throws -> (FrameConsumer, ReceivedFrame) {
    let consumer = try FrameConsumer(path: path, options: options)
    var first: ReceivedFrame?
    try listen(to: consumer, milliseconds: 2000, until: { first != nil }) { first = $0 }
    guard let first else { throw ConformanceResult.skipped("nothing is on screen") }
    return (consumer, first)
  }

  /// Takes events for a time, however many come.
  func listen(
    to consumer: FrameConsumer, milliseconds: UInt64, until isOver: () -> Bool = { false },
    _ body: (ReceivedFrame) throws -> Void
  ) throws {
    let end = Clock.now + milliseconds * 1_000_000
    while !isOver(), Clock.now < end {
      let left = CInt(clamping: (end - min(end, Clock.now)) / 1_000_000)
      if case .frame(let frame)? = try consumer.next(timeout: left) { try body(frame) }
    }
  }

  private func buffer(of frame: ReceivedFrame, _ consumer: FrameConsumer) throws -> ReceivedBuffer {
    guard let buffer = consumer.buffers[frame.buffer] else { throw wrong("no buffer") }
    return buffer
  }

  private func pixels(of frame: ReceivedFrame, _ consumer: FrameConsumer) throws -> [UInt8] {
    let buffer = try buffer(of: frame, consumer)
    guard buffer.layout.packed != nil else {
      throw ConformanceResult.skipped("\(buffer) cannot be read with the CPU")
    }
    return try buffer.pixels(of: frame.crop)
  }

  private func keepACopy() throws {
    let (consumer, frame) = try firstFrame(.init(name: "conformance", copyOnly: true))
    let before = try pixels(of: frame, consumer)
    let deadline = consumer.producer?.holdDeadline ?? 0
    // Others are answered meanwhile, so that the producer has reason to draw.
    let time = min(UInt64(deadline) * 10 / 1000, 2000)
    try listen(to: consumer, milliseconds: time * 3 / 4) { next in
      if next.output != frame.output || next.serial != frame.serial { try consumer.done(next) }
    }
    guard consumer.buffers[frame.buffer] != nil else { return }
    guard try pixels(of: frame, consumer) == before else {
      throw wrong("buffer \(frame.buffer) was written to while frame \(frame.serial) was shown")
    }
  }

  /// Copies only: the guest's own pages may change at any time.
  private func followDamage() throws {
    let (consumer, first) = try firstFrame(.init(name: "conformance", copyOnly: true))
    var last: [UInt32: (frame: ReceivedFrame, pixels: [UInt8])] = [:]
    func take(_ frame: ReceivedFrame) throws {
      let pixels = try pixels(of: frame, consumer)
      if let (before, old) = last[frame.output], !frame.isFull, pixels != old {
        let place = Self.difference(old, pixels, width: frame.crop.width, outside: frame.damage)
        if let (x, y) = place {
          throw wrong(
            "frame \(frame.serial) of output \(frame.output) differs from \(before.serial) at "
              + "\(x),\(y), outside of its damage")
        }
      }
      last[frame.output] = (frame, pixels)
      try consumer.done(frame)
    }
    try take(first)
    try listen(to: consumer, milliseconds: 1000) { try take($0) }
  }

  /// The first pixel that differs in colour, outside of some rectangles.
  private static func difference(
    _ old: [UInt8], _ new: [UInt8], width: UInt32, outside: [Rect]
  ) -> (UInt32, UInt32)? {
    guard old.count == new.count, width > 0 else { return nil }
    for at in stride(from: 0, to: new.count - 3, by: 4)
    where old[at] != new[at] || old[at + 1] != new[at + 1] || old[at + 2] != new[at + 2] {
      let pixel = UInt32(at / 4)
      let place = Rect(x: pixel % width, y: pixel / width, width: 1, height: 1)
      if !outside.contains(where: { $0.intersection(place) != nil }) { return (place.x, place.y) }
    }
    return nil
  }

  private func compareWithCopy() throws {
    for _ in 0..<8 {
      let (consumer, direct) = try firstFrame(.init(name: "conformance"))
      guard try buffer(of: direct, consumer).memory == .dmaBuf else {
        throw ConformanceResult.skipped("there are only copies")
      }
      let (reader, copy) = try firstFrame(.init(name: "conformance", copyOnly: true))
      let (a, b) = (try pixels(of: direct, consumer), try pixels(of: copy, reader))
      if direct.output == copy.output, direct.crop.width == copy.crop.width,
        Self.difference(a, b, width: direct.crop.width, outside: []) == nil
      {
        return
      }
      var moves = false
      try consumer.done(direct)
      try listen(to: consumer, milliseconds: 200) { _ in moves = true }
      if !moves { throw wrong("they differ, and the picture does not move") }
    }
    throw ConformanceResult.skipped("the picture moves too fast")
  }
}
