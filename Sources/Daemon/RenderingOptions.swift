import Command
import Glibc
import Linux
import Logging
import Rendering

/// How guests get 3D: where it is drawn, and what the renderer may take.
package struct RenderingOptions {
  /// Where it is drawn.
  package enum Place: Equatable, Sendable {
    /// On the first render node with a GPU that may be used here, else by the processor.
    case automatic
    /// On the GPU of this node and nowhere else.
    case node(String)
    case processor
  }

  package var place = Place.automatic
  /// What ``Place/automatic`` tries first; nil for the processor.
  package var automaticNode = RenderNode.first
  /// Bytes that a guest's 3D resources may take.
  package var memory: UInt64 = 2 << 30
  /// Threads that draw where there is no GPU; 0: half of the processors.
  package var threads = 0
  /// Nanoseconds that a renderer may take for one thing before it is replaced.
  package var deadline: UInt64 = 10_000_000_000
  /// Keeps one renderer ready for the next start of the guest's driver.
  package var keepsSpare = true
  /// Somebody may import pictures: a GPU that draws them exports them from its memory.
  package var exports = true

  package init() {}

  /// Bytes that a renderer may take for itself: shaders, contexts, the libraries.
  private static let librariesMemory: UInt64 = 512 << 20

  /// Starts the renderer, before this process is confined. Where it was not said which node to use
  /// and the one that was found does not draw, the processor does.
  ///
  /// - Throws: why there is none, with what helps.
  package func start(
    sandbox: String, on loop: EventLoop, log: Logger
  ) throws(RendererHost.Failure) -> RendererHost {
    switch place {
    case .processor: return try start(on: nil, sandbox, loop, log)
    case .node(let path): return try start(on: path, sandbox, loop, log)
    case .automatic:
      guard let found = automaticNode else { return try start(on: nil, sandbox, loop, log) }
      do throws(RendererHost.Failure) { return try start(on: found, sandbox, loop, log) } catch {
        log.warning(
          """
          3D is drawn by the processor, as \(found) does not work: \(error); --render-node none \
          chooses the processor at once
          """)
        return try start(on: nil, sandbox, loop, log)
      }
    }
  }

  private func start(
    on node: String?, _ sandbox: String, _ loop: EventLoop, _ log: Logger
  ) throws(RendererHost.Failure) -> RendererHost {
    let program: String
    do throws(Command.Failure) { program = try Programs.path(of: "renderer") } catch {
      throw RendererHost.Failure(description: error.message)
    }
    var options = RendererHost.Options(program: program)
    options.starter.node = node
    options.starter.memory = memory + Self.librariesMemory
    options.starter.threads =
      threads > 0 ? threads : max(1, Int(sysconf(CInt(_SC_NPROCESSORS_ONLN))) / 2)
    options.starter.keepsSpare = keepsSpare
    options.starter.sandbox = sandbox
    options.starter.isVerbose = log.logLevel <= .debug
    options.patience.operation = deadline
    options.exports = exports
    return try RendererHost(options, on: loop, log: log)
  }

  /// What this back-end can do, in the words of QEMU's docs/interop/vhost-user.json.
  ///
  /// libvirt gives guests with accel3d a back-end that says `virgl`. To one that says `render-node`
  /// it names this machine's first node, for guests without 3D too, and starts none of them where
  /// there is no node: only who draws on one says so.
  package static func features(_ place: Place) -> [String] {
    guard case .success(let renderer) = probe(place) else { return [] }
    return renderer.node == nil ? ["virgl"] : ["render-node", "virgl"]
  }

  /// The renderer of a process that only asks whether there is one.
  package static func probe(
    _ place: Place = .automatic
  ) -> Result<RendererHost, RendererHost.Failure> {
    var log = Logger(label: "pinhole") { _ in SwiftLogNoOpLogHandler() }
    log.logLevel = .critical
    var options = RenderingOptions()
    options.keepsSpare = false
    options.place = place
    return Result { () throws(RendererHost.Failure) in
      let loop: EventLoop
      do throws(Errno) { loop = try EventLoop() } catch {
        throw RendererHost.Failure(description: "\(error)")
      }
      return try options.start(sandbox: "on", on: loop, log: log)
    }
  }
}
