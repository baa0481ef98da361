import Buffers
import Fences
import Glibc
import Linux
import Logging
import PinholeFrames
import PinholeProtocol
import Testing
import VirtioGPU

@testable import Display

/// A memfd that looks like the device's copies; its name is unique in this process.
struct FakeBuffer {
  let offered: OfferedBuffer
  let label: String

  init(
    _ id: UInt32, _ generation: UInt32 = 1, width: UInt32 = 64, height: UInt32 = 32,
    fill: UInt8 = 0, memory: OfferedBuffer.Memory = .copy
  ) throws {
    label = "frames-test-\(id)-\(generation)-\(Clock.now)"
    let layout = PixelLayout(
      width: width, height: height, stride: width * 4, fourcc: .xrgb8888)
    let size = (Int(layout.size) + pageSize - 1) / pageSize * pageSize
    let file = try MemFD.create(label, size: size, seals: [])
    let bytes = [UInt8](repeating: fill, count: size)
    #expect(pwrite(file.raw, bytes, size, 0) == size)
    try MemFD.add([.shrink, .grow, .futureWrite, .seal], to: file.raw)
    offered = OfferedBuffer(
      id: id, generation: generation, layout: layout, size: UInt64(size), fd: SharedFD(file),
      memory: memory)
  }
}

/// What a device has on screen.
final class FakeSource: DisplaySource {
  var sizes: [Int: (width: UInt32, height: UInt32)] = [:]
  var frames: [Frame] = []
  var cursors: [CursorState] = []

  func replay(to sink: any DisplaySink) {
    for (output, size) in sizes { sink.output(output, resized: size) }
    for frame in frames { sink.present(frame) }
    for cursor in cursors { sink.cursor(cursor, imageChanged: true) }
  }
}

/// A server and its consumers in one thread.
final class FrameBench {
  let loop: EventLoop
  let server: FrameServer
  let source = FakeSource()
  private let pixel = UnsafeMutableRawPointer.allocate(byteCount: 64, alignment: 8)

  init(_ change: (inout FrameServer.Options) -> Void = { _ in }) throws {
    var options = FrameServer.Options()
    // Slow machines must not run into deadlines that a test does not mean.
    options.holdDeadline = 60_000_000_000
    options.closeDeadline = 60_000_000_000
    change(&options)
    loop = try EventLoop()
    server = try FrameServer(
      loop: loop, options: options, log: Logger(label: "test") { _ in SwiftLogNoOpLogHandler() })
    server.source = source
  }

  deinit { pixel.deallocate() }

  /// Serves whatever is ready.
  func turn(_ count: Int = 4) throws {
    for _ in 0..<count { try loop.turn(timeout: 0) }
  }

  /// Serves until something is so, or fails.
  func turn(
    until condition: () -> Bool, sourceLocation: SourceLocation = #_sourceLocation
  ) throws {
    for _ in 0..<2000 {
      if condition() { return }
      try loop.turn(timeout: 5)
    }
    Issue.record("it never happened", sourceLocation: sourceLocation)
  }

  /// A socket whose other end the server has.
  func socket(copiesOnly: Bool = false) throws -> OwnedFD {
    let pair = try UnixSocket.Pair(.seqpacket)
    var ours: OwnedFD?
    pair.split { first, second in
      server.serve(first, copiesOnly: copiesOnly)
      ours = consume second
    }
    guard let ours = ours.take() else { throw Errno(EBADF, "socketpair") }
    return ours
  }

  /// A consumer that has said hello and was answered.
  func consumer(_ name: String = "test", closes: Bool = true) throws -> FrameConsumer {
    let consumer = try FrameConsumer(
      socket: try socket(), options: .init(name: name, closesRemovedBuffers: closes))
    try turn()
    let event = try #require(try consumer.next(timeout: 0))
    guard case .connected = event else {
      Issue.record("\(event) came first")
      return consumer
    }
    return consumer
  }

  /// All that a consumer was told, as text.
  func told(_ consumer: FrameConsumer) throws -> [String] {
    try turn()
    return try events(consumer).map(\.description)
  }

  /// All that a consumer was told.
  func events(_ consumer: FrameConsumer) throws -> [FrameConsumer.Event] {
    try turn()
    var events: [FrameConsumer.Event] = []
    while let event = try consumer.next(timeout: 0) { events.append(event) }
    try turn()
    return events
  }

  /// The frames that a consumer was told of.
  func frames(_ consumer: FrameConsumer) throws -> [ReceivedFrame] {
    try events(consumer).compactMap { event in
      guard case .frame(let frame) = event else { return nil }
      return frame
    }
  }

  /// A frame of a buffer.
  func frame(
    _ buffer: FakeBuffer, output: Int = 0, crop: Rect? = nil, damage: Rect? = nil,
    hold: Hold? = nil
  ) throws -> Frame {
    let layout = buffer.offered.layout
    let crop = crop ?? Rect(x: 0, y: 0, width: layout.width, height: layout.height)
    let pixels = PixelSource(
      layout: PixelLayout(width: 1, height: 1, stride: 4, fourcc: .xrgb8888),
      spans: [HostSpan(base: pixel, count: 64)])
    return Frame(
      output: output, crop: crop,
      damage: damage ?? Rect(x: 0, y: 0, width: crop.width, height: crop.height),
      pixels: try #require(pixels), buffer: buffer.offered, hold: hold)
  }

  /// Shows a buffer on an output to everybody.
  func show(
    _ buffer: FakeBuffer, output: Int = 0, crop: Rect? = nil, damage: Rect? = nil,
    hold: Hold? = nil
  ) throws {
    server.present(
      try frame(buffer, output: output, crop: crop, damage: damage, hold: hold))
  }

  /// Switches an output to the size of the fake buffers.
  func enable(_ output: Int = 0, _ size: (UInt32, UInt32) = (64, 32)) {
    server.output(output, resized: (size.0, size.1))
    source.sizes[output] = (size.0, size.1)
  }
}

/// What a process has open, as /proc/self/fd shows it.
func openFiles() -> [String] {
  guard let folder = opendir("/proc/self/fd") else { return [] }
  defer { closedir(folder) }
  var links: [String] = []
  while let entry = readdir(folder) {
    let name = withUnsafeBytes(of: entry.pointee.d_name) { bytes in
      String(decoding: bytes.prefix { $0 != 0 }, as: UTF8.self)
    }
    let link = withUnsafeTemporaryAllocation(byteCount: 256, alignment: 1) { out in
      guard let text = out.baseAddress else { return "" }
      let count = readlink("/proc/self/fd/\(name)", text, 256)
      return String(decoding: out.prefix(max(0, count)), as: UTF8.self)
    }
    links.append(link)
  }
  return links
}

/// How many descriptors of a file with this in its name are open.
func openCount(_ name: String) -> Int { openFiles().filter { $0.contains(name) }.count }
