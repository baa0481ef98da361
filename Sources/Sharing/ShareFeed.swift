import Buffers
import FrameProtocol
import FrameServer
import Glibc
import Linux
import Logging
import PinholeFrames
import Pixels
import Scene

/// Shows strangers what a producer shows its consumers.
///
/// Each frame is copied once, into a memfd of this process; the producer has its own back at once,
/// whatever strangers do.
package final class ShareFeed {
  /// What happened since the start.
  package struct Counters {
    /// Frames of the producer.
    package var frames: UInt64 = 0
    /// Frames that had to wait until strangers gave a copy back.
    package var waits: UInt64 = 0
    /// Frames that were not shown, because there was no memory for any copy of them.
    package var starved: UInt64 = 0
    /// Bytes copied.
    package var copiedBytes: UInt64 = 0
  }

  /// Told when the producer's connection ends.
  package var ended: ((String) -> Void)?
  /// What happened since the start.
  package private(set) var counters = Counters()
  private let consumer: FrameConsumer
  private let scene: Scene
  private let server: FrameServer
  private let loop: EventLoop
  private let log: Logger
  private var outputs: [UInt32: ShareOutput] = [:]
  private var token: EventLoop.Token?
  private var retry: LoopTimer?
  private var memoryRetry: LoopTimer?
  private var cursorSerial: UInt64 = 0
  /// Nanoseconds between looks whether there is memory again.
  private static let memoryPause: UInt64 = 250_000_000
  /// Nanoseconds that strangers may read a copy in any case, even when there is no other for the
  /// next frame.
  private static let grace: UInt64 = 25_000_000

  /// Starts to show what `consumer` gets to those who connect to `server`, which shows `scene`.
  package init(
    _ consumer: FrameConsumer, _ scene: Scene, _ server: FrameServer, on loop: EventLoop,
    log: Logger
  ) throws(Errno) {
    self.consumer = consumer
    self.scene = scene
    self.server = server
    self.loop = loop
    self.log = log
    retry = LoopTimer(on: loop) { [unowned self] in
      for output in outputs.values { show(output) }
    }
    memoryRetry = LoopTimer(on: loop) { [unowned self] in showStarved() }
    token = try loop.watch(consumer.fd, for: .readable) { [unowned self] _ in receive() }
    scene.add(server)
    loop.everyTurn { [unowned scene] in scene.finishTurn() }
  }

  /// Takes a few events; the loop comes back for more.
  private func receive() {
    do throws(FramesError) {
      for _ in 0..<8 {
        guard let event = try consumer.next(timeout: 0) else { return }
        try take(event)
        scene.publish()
      }
    } catch { end("\(error)") }
  }

  private func end(_ why: String) {
    if let token { loop.unwatch(token) }
    token = nil
    ended?(why)
  }

  private func take(_ event: FrameConsumer.Event) throws(FramesError) {
    switch event {
    case .connected, .bufferAdded: break
    case .output(let state): try resize(state)
    case .frame(let frame): try take(frame)
    case .bufferRemoved(let name, _):
      for output in outputs.values where output.waiting?.buffer == name { output.waiting = nil }
    case .cursor(let cursor): show(cursor)
    }
  }

  private func output(_ number: UInt32) -> ShareOutput {
    if let output = outputs[number] { return output }
    let output = ShareOutput(Int(number), scene.memory)
    outputs[number] = output
    return output
  }

  private func resize(_ state: OutputState) throws(FramesError) {
    let output = output(state.output)
    let size = state.isEnabled ? (width: state.width, height: state.height) : nil
    guard output.size?.width != size?.width || output.size?.height != size?.height else { return }
    if let waiting = output.waiting { try consumer.done(waiting) }
    let obsolete = output.reset(size)
    scene.resize(output.index, to: size)
    scene.publish()
    for buffer in obsolete { scene.revoke(buffer, .unused) }
  }

  private func take(_ frame: ReceivedFrame) throws(FramesError) {
    counters.frames &+= 1
    let output = output(frame.output)
    // Its changes are in what comes now.
    if let older = output.waiting { try consumer.done(older) }
    output.waiting = frame
    for rect in frame.damage { output.news = output.news.union(rect) }
    if frame.isFull { output.news = output.everything }
    show(output)
  }

  /// Copies the frame that waits, answers it, and shows it.
  private func show(_ output: ShareOutput) {
    guard let frame = output.waiting, let buffer = consumer.buffers[frame.buffer] else { return }
    do throws(FramesError) {
      var hasRoom = output.hasRoom
      if !hasRoom, !output.isStarved {
        server.reclaimCopies(after: Self.grace)
        hasRoom = output.hasRoom
        guard hasRoom else {
          counters.waits &+= 1
          retry?.arm(after: 4_000_000)
          return
        }
      }
      var isCopied = false
      if hasRoom {
        isCopied = try buffer.read { bytes in self.copy(frame, buffer, bytes, to: output) }
      }
      output.waiting = nil
      output.unshown = nil
      try consumer.done(frame)
      if isCopied { return }
      output.news = output.everything
      if output.isStarved { return starve(output, frame) }
      log.warning("frame \(frame.serial) of output \(frame.output) cannot be copied")
    } catch { end("\(error)") }
  }

  /// There is no memory for any copy of an output's picture, so that no stranger will give one back.
  /// The frame was answered, since nobody knows for how long.
  private func starve(_ output: ShareOutput, _ frame: ReceivedFrame) {
    counters.starved &+= 1
    output.unshown = frame
    if memoryRetry?.isArmed == false { memoryRetry?.arm(after: Self.memoryPause) }
    guard !output.isToldOfStarving, let size = output.size else { return }
    output.isToldOfStarving = true
    log.warning(
      """
      output \(output.index) is not shown to strangers: there is no memory for a copy of its \
      \(size.width)x\(size.height) pixels, \(scene.memory.used) of \(scene.memory.limit) bytes are \
      used; raise --max-memory
      """)
  }

  /// Other outputs may have given memory back since. The frames were answered, so what is read may
  /// be half drawn, but then a newer frame is on its way.
  private func showStarved() {
    for output in outputs.values where output.unshown != nil {
      guard let frame = output.unshown, let buffer = consumer.buffers[frame.buffer] else {
        output.unshown = nil
        continue
      }
      guard output.hasRoom else { continue }
      do throws(FramesError) {
        if try buffer.read({ bytes in self.copy(frame, buffer, bytes, to: output) }) {
          output.unshown = nil
          scene.publish()
        } else {
          output.news = output.everything
        }
      } catch { return end("\(error)") }
    }
    if outputs.values.contains(where: { $0.unshown != nil }) {
      memoryRetry?.arm(after: Self.memoryPause)
    }
  }

  private func copy(
    _ frame: ReceivedFrame, _ buffer: ReceivedBuffer, _ bytes: UnsafeRawBufferPointer,
    to output: ShareOutput
  ) -> Bool {
    let layout = PixelLayout(
      width: buffer.width, height: buffer.height, stride: buffer.stride, offset: buffer.offset,
      fourcc: buffer.fourcc)
    guard let base = bytes.baseAddress,
      let pixels = PixelSource(
        layout: layout,
        spans: [HostSpan(base: UnsafeMutableRawPointer(mutating: base), count: bytes.count)])
    else { return false }
    let crop = frame.crop
    let news = output.news
    output.news = Rect(x: 0, y: 0, width: 0, height: 0)
    let (made, obsolete) = output.update(from: pixels, crop: crop, damage: news)
    defer { for buffer in obsolete { scene.revoke(buffer, .unused) } }
    guard let made, let own = output.presentPixels else { return false }
    counters.copiedBytes &+= UInt64(news.width) * UInt64(news.height) * 4
    scene.commit(
      Commit(
        output: output.index, crop: output.everything, damage: news, pixels: own,
        owner: output.presentOwner, buffer: made, lock: nil, whyCopied: .untrusted))
    return true
  }

  private func show(_ cursor: ReceivedCursor) {
    let output = output(cursor.output)
    var state = output.cursor
    state.x = cursor.x
    state.y = cursor.y
    state.image = cursor.isVisible ? output.lastImage : nil
    if let image = cursor.image {
      cursorSerial &+= 1
      let row = Int(image.width) * 4
      var pixels = [UInt8]()
      pixels.reserveCapacity(row * Int(image.height))
      for y in 0..<Int(image.height) {
        let start = y * Int(image.stride)
        guard start + row <= image.pixels.count else { return }
        pixels += image.pixels[start..<start + row]
      }
      output.lastImage = CursorImage(
        width: image.width, height: image.height, pixels: pixels, serial: cursorSerial)
      state.hotX = image.hotX
      state.hotY = image.hotY
      state.image = cursor.isVisible ? output.lastImage : nil
    }
    output.cursor = state
    scene.set(state)
  }
}
