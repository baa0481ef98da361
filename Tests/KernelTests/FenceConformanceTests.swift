import Conformance
import FakeGuest
import Glibc
import Linux
import PinholeFrames
import Testing

/// `pinhole conformance` against everything here that speaks the frame protocol.
@Suite(.serialized) struct FenceConformanceTests {
  /// Runs a program to its end; its standard output, and its status.
  private func run(_ arguments: [String], seconds: Int = 120) throws -> (String, CInt?) {
    let folder = try TemporaryDirectory()
    let out = try OwnedFD.open(folder.file("out"), O_WRONLY | O_CREAT | O_APPEND)
    let child = try ChildProcess(arguments, fds: [(out.raw, 1), (out.raw, 2)])
    let status = child.waitForEnd(milliseconds: seconds * 1000)
    return (String(decoding: try WholeFile.read(folder.file("out")), as: UTF8.self), status)
  }

  private var program: String { FakeGuest.Puncher.defaultProgram }

  @Test func ourProducerKeepsTheProtocol() throws {
    let pinhole = try PinholeProcess(["--log-level", "error", "--scanout", "direct"])
    let ram = try GuestRAM(size: 16 << 20)
    let driver = try GPUDriver(try VhostUserFrontEnd(path: pinhole.socket, ram: ram))
    let buffer = try Framebuffer(driver, resource: 1, width: 64, height: 64)
    buffer.draw(TestPicture.smpte.render(width: 64, height: 64))
    try buffer.show()
    try buffer.flush()
    let (text, status) = try run([program, "conformance", "--frames-socket", pinhole.framesSocket])
    #expect(status == 0, "\(text)")
    // Timelines need a DRM node; copies are compared with the guest's memory where that is shown.
    let hasMemory = access("/dev/udmabuf", R_OK | W_OK) == 0
    let skipped = (FakeTimeline.path == nil ? 1 : 0) + (hasMemory ? 0 : 1)
    #expect(text.contains("0 failed, \(skipped) skipped"), "\(text)")
    #expect(pinhole.terminate() == 0)
  }

  @Test func ourViewerKeepsTheProtocol() throws {
    let folder = try TemporaryDirectory()
    let socket = folder.file("frames")
    let (text, status) = try run([
      program, "conformance", "--listen", socket, "--", program, "view", "--frames-socket", socket,
    ])
    #expect(status == 0, "\(text)")
    #expect(text.contains("0 failed, 0 skipped"), "\(text)")
  }

  @Test(.enabled(if: access("/usr/bin/cc", X_OK) == 0, "needs a C compiler"))
  func theExampleKeepsTheProtocol() throws {
    let folder = try TemporaryDirectory()
    let root = #filePath.split(separator: "/").dropLast(3).map { "/" + $0 }.joined()
    let consumer = folder.file("consumer")
    let (complaint, compiled) = try run([
      "cc", "-std=c11", "-D_GNU_SOURCE", "-I\(root)/Protocol/include", "-o", consumer,
      "\(root)/Examples/consumer.c",
    ])
    try #require(compiled == 0, "\(complaint)")
    let socket = folder.file("frames")
    let (text, status) = try run([
      program, "conformance", "--listen", socket, "--", consumer, socket,
    ])
    #expect(status == 0, "\(text)")
    #expect(text.contains("0 failed, 0 skipped"), "\(text)")
  }

  /// Plays a consumer that releases each frame with a point; what the checks say.
  ///
  /// - Parameter signalling: otherwise it leaves after the first frame, whose point never signals.
  private func release(signalling: Bool) throws -> String {
    let folder = try TemporaryDirectory()
    let out = try OwnedFD.open(folder.file("out"), O_WRONLY | O_CREAT | O_APPEND)
    let socket = folder.file("frames")
    let checks = try ChildProcess(
      [program, "conformance", "--listen", socket], fds: [(out.raw, 1), (out.raw, 2)])
    while !PinholeProcess.isListening(on: [socket]), checks.status == nil { usleep(1000) }
    let consumer = try FrameConsumer(path: socket, options: .init(takesTimelines: true))
    let timeline = try FakeTimeline()
    var point: UInt64 = 0
    do {
      show: while let event = try consumer.next(timeout: 20_000) {
        switch event {
        case .connected:
          try consumer.addTimeline(
            output: 0, syncobj: timeline.descriptor.raw, node: timeline.node.raw)
        case .frame(let frame):
          point += 1
          try consumer.done(frame, point: point)
          guard signalling else { break show }
          try timeline.signal(point)
        default: break
        }
      }
    } catch is FramesError {}
    _ = checks.waitForEnd(milliseconds: 60_000)
    return String(decoding: try WholeFile.read(folder.file("out")), as: UTF8.self)
  }

  @Test(.enabled(if: FakeTimeline.path != nil, "needs a DRM node with timelines"))
  func aConsumerWithATimelineKeepsTheProtocol() throws {
    let text = try release(signalling: true)
    #expect(text.contains(" 0 failed"), "\(text)")
    #expect(text.contains("PASS frames in flight are all answered"), "\(text)")
  }

  @Test(.enabled(if: FakeTimeline.path != nil, "needs a DRM node with timelines"))
  func aPointThatNeverSignalsIsFound() throws {
    let text = try release(signalling: false)
    #expect(
      text.contains(
        "FAIL a frame is answered with FRAME_DONE: point 1 did not signal in 5000 ms"), "\(text)")
  }

  @Test func mistakesAreFound() throws {
    let folder = try TemporaryDirectory()
    let socket = folder.file("frames")
    // Ends after two frames, before it has answered all.
    let (text, status) = try run([
      program, "conformance", "--listen", socket, "--", program, "view", "--frames-socket", socket,
      "--count", "2",
    ])
    #expect(status == 1)
    #expect(text.contains("FAIL frames in flight are all answered"), "\(text)")
  }
}
