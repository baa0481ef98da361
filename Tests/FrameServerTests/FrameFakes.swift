import Buffers
import Fences
import Glibc
import Linux
import Logging
import PinholeFrames
import PinholeProtocol
import Pixels
import Scene
import Testing

@testable import FrameServer

/// Numbers up to here are the fakes' own: copies that a scene makes in the same process get others.
private let fakeNumbers: UInt32 = 100_000
private let copiesHaveOtherNumbers: Void = { while BufferID.next() < fakeNumbers {} }()

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

/// A server and its consumers in one thread.
final class FrameBench {
  let loop: EventLoop
  let scene: Scene
  let server: FrameServer
  /// Runs when a buffer is about to be sent late.
  var onLook: (OfferedBuffer) -> Void = { _ in }
  private let pixels = UnsafeMutableRawPointer.allocate(byteCount: 1 << 16, alignment: 8)

  init(copies: Int = 6, _ change: (inout FrameServer.Options) -> Void = { _ in }) throws {
    _ = copiesHaveOtherNumbers
    var options = FrameServer.Options()
    // Slow machines must not run into deadlines that a test does not mean.
    options.holdDeadline = 60_000_000_000
    options.closeDeadline = 60_000_000_000
    change(&options)
    loop = try EventLoop()
    scene = Scene(maxCopies: copies)
    server = FrameServer(
      scene, loop: loop, options: options,
      log: Logger(label: "test") { _ in SwiftLogNoOpLogHandler() })
    scene.add(server)
    pixels.initializeMemory(as: UInt8.self, repeating: 0, count: 1 << 16)
    loop.everyTurn { [unowned self] in
      scene.forEachLateBuffer { onLook($0) }
      scene.finishTurn()
    }
  }

  deinit { pixels.deallocate() }

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
    try server.socket(copiesOnly: copiesOnly)
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
  ) throws -> Commit {
    let layout = try #require(buffer.offered.layout.packed)
    let crop = crop ?? Rect(x: 0, y: 0, width: layout.width, height: layout.height)
    let source = PixelSource(layout: layout, spans: [HostSpan(base: pixels, count: 1 << 16)])
    return Commit(
      output: output, crop: crop,
      damage: damage ?? Rect(x: 0, y: 0, width: crop.width, height: crop.height),
      pixels: try #require(source), buffer: buffer.offered, lock: hold)
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
  }
}

/// What the device does, each as a command of its own.
extension FrameServer {
  func output(_ index: Int, resized size: (width: UInt32, height: UInt32)?) {
    scene.resize(index, to: size)
    scene.publish()
  }

  func present(_ commit: Commit) {
    scene.commit(commit)
    scene.publish()
  }

  func revoke(
    _ buffer: OfferedBuffer, reason: RevocationReason, released: @escaping () -> Void
  ) { scene.revoke(buffer, reason, released) }

  func cursor(_ state: CursorState, imageChanged: Bool) {
    scene.set(state)
    scene.publish()
  }
}

/// What a process has open, as /proc/self/fd shows it.
func openFiles() -> [String] {
  ((try? Folder.descriptors(of: getpid())) ?? []).map(\.target)
}

/// How many descriptors of a file with this in its name are open.
func openCount(_ name: String) -> Int { openFiles().filter { $0.contains(name) }.count }

extension FrameServer {
  /// A socket whose other end it has.
  func socket(copiesOnly: Bool) throws -> OwnedFD {
    let pair = try UnixSocket.Pair(.seqpacket)
    var ours: OwnedFD?
    pair.split { first, second in
      serve(first, copiesOnly: copiesOnly)
      ours = consume second
    }
    guard let ours = ours.take() else { throw Errno(EBADF, "socketpair") }
    return ours
  }
}
