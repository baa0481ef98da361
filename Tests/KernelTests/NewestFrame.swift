import FakeGuest
import PinholeFrames
import Pixels

/// A consumer that keeps up with a producer and looks at the newest frame.
final class NewestFrame {
  let consumer: FrameConsumer
  private(set) var newest: ReceivedFrame?
  private(set) var frames = 0
  private(set) var removed: [RemovalReason] = []
  private(set) var memories: Set<String> = []
  private(set) var generations: Set<UInt32> = []

  init(_ path: String) throws { consumer = try FrameConsumer(path: path) }

  /// Takes what there is, waiting for the first event at most so long; releases every frame.
  @discardableResult
  func take(milliseconds: CInt = 0) throws -> Bool {
    var wait = milliseconds
    var any = false
    while let event = try consumer.next(timeout: wait) {
      any = true
      wait = 0
      switch event {
      case .bufferAdded(let buffer):
        memories.insert("\(buffer.memory)")
        generations.insert(buffer.name.generation)
      case .frame(let frame):
        frames += 1
        newest = frame
        try consumer.done(frame)
      case .bufferRemoved(let name, let reason):
        removed.append(reason)
        if newest?.buffer == name { newest = nil }
      default: break
      }
    }
    return any
  }

  /// Follows the producer until the driver has its answers, then until the newest frame is here.
  func follow(_ driver: GPUDriver) throws {
    try driver.kick()
    while driver.inFlight > 0 {
      try driver.poll()
      try take(milliseconds: 1)
    }
    while try take(milliseconds: newest == nil ? 2000 : 0) {}
  }

  /// The bytes that the newest frame shows.
  func bytes() throws -> [UInt8]? {
    guard let newest, let buffer = consumer.buffers[newest.buffer] else { return nil }
    if buffer.memory == .copy || hasUdmabuf { return try buffer.pixels(of: newest.crop) }
    let all = try shownBytes(buffer.descriptor, count: Int(buffer.size))
    let (crop, row) = (newest.crop, Int(newest.crop.width) * 4)
    return (0..<Int(crop.height)).flatMap { line in
      let start =
        Int(buffer.offset) + (Int(crop.y) + line) * Int(buffer.stride) + Int(crop.x) * 4
      return all[start..<start + row]
    }
  }
}
