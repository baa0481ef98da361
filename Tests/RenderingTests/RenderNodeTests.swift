import Daemon
import FakeGuest
import Linux
import Logging
import Testing

@testable import Rendering

/// Which GPU draws, and what happens without one.
@Suite(.serialized) struct RenderNodeTests {
  @Test func nodesWithoutAGPUAreSkipped() {
    #expect(!RenderNode.draws(nil, has3D: true))
    for driver in ["vgem", "vkms"] { #expect(!RenderNode.draws(driver, has3D: true)) }
    #expect(!RenderNode.draws("virtio_gpu", has3D: false))
    #expect(RenderNode.draws("virtio_gpu", has3D: true))
    for driver in ["i915", "amdgpu", "panfrost"] { #expect(RenderNode.draws(driver, has3D: false)) }
  }

  @Test func whatIsNoDRMDeviceIsNoNode() {
    #expect(RenderNode.first(in: ["/dev/null", "/dev/missing/renderD128"]) == nil)
    #expect(RenderNode.driver(of: "/dev/null") == nil)
  }

  private func start(
    _ place: RenderingOptions.Place, found: String?, _ lines: Locked<[String]>
  ) throws(RendererHost.Failure) -> RendererHost {
    var options = RenderingOptions()
    options.place = place
    options.automaticNode = found
    options.keepsSpare = false
    let loop: EventLoop
    do throws(Errno) { loop = try EventLoop() } catch {
      throw RendererHost.Failure(description: "\(error)")
    }
    let log = Logger(label: "test") { _ in LineLog(lines) }
    return try options.start(sandbox: "on", on: loop, log: log)
  }

  /// A node that was found and does not draw costs nobody his 3D; one that was asked for does.
  @Test(.enabled(if: hasRenderer, "libvirglrenderer or Mesa is not installed"))
  func theProcessorDrawsWhereTheNodeDoesNot() throws {
    let lines = Locked<[String]>([])
    let host = try start(.automatic, found: "/dev/missing", lines)
    #expect(host.node == nil && !host.capsets.isEmpty)
    let warning = lines.withLock { $0.first ?? "" }
    #expect(warning.hasPrefix("3D is drawn by the processor, as /dev/missing does not work"))
    #expect(warning.contains("--render-node none"))
    lines.withLock { $0 = [] }
    #expect(try start(.automatic, found: nil, lines).node == nil)
    #expect(throws: RendererHost.Failure.self) {
      try self.start(.node("/dev/missing"), found: nil, lines)
    }
    #expect(lines.withLock { $0 } == [])
  }
}

/// Keeps what is logged from warnings on.
struct LineLog: LogHandler {
  private let lines: Locked<[String]>
  var metadata: Logger.Metadata = [:]
  var logLevel = Logger.Level.warning

  init(_ lines: Locked<[String]>) { self.lines = lines }

  subscript(metadataKey key: String) -> Logger.Metadata.Value? {
    get { metadata[key] }
    set { metadata[key] = newValue }
  }

  func log(event: LogEvent) { lines.withLock { $0.append("\(event.message)") } }
}
