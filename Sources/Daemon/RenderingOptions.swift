import Command
import Glibc
import Linux
import Logging
import Rendering

/// How guests get 3D: where it is drawn, and what the renderer may take.
package struct RenderingOptions {
  /// The render node; nil for the processor.
  package var node: String?
  /// Bytes that a guest's 3D resources may take.
  package var memory: UInt64 = 2 << 30
  /// Threads that draw where there is no GPU; 0: half of the processors.
  package var threads = 0
  /// Nanoseconds without any answer after which a renderer is replaced.
  package var deadline: UInt64 = 10_000_000_000
  /// Keeps one renderer ready for the next start of the guest's driver.
  package var keepsSpare = true

  /// The first node that may be used here, or the processor.
  package init() { node = Self.firstNode }

  /// Bytes that a renderer may take for itself: shaders, contexts, the libraries.
  private static let librariesMemory: UInt64 = 512 << 20

  /// The first node that may be used here.
  private static var firstNode: String? {
    (128..<192).map { "/dev/dri/renderD\($0)" }.first { access($0, R_OK | W_OK) == 0 }
  }

  /// Starts the renderer, before this process is confined.
  package func start(
    sandbox: String, on loop: EventLoop, log: Logger
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
    return try RendererHost(options, on: loop, log: log)
  }

  /// The renderer of a process that only asks whether there is one.
  package static func probe() -> Result<RendererHost, RendererHost.Failure> {
    var log = Logger(label: "pinhole") { _ in SwiftLogNoOpLogHandler() }
    log.logLevel = .critical
    var options = RenderingOptions()
    options.keepsSpare = false
    return Result { () throws(RendererHost.Failure) in
      let loop: EventLoop
      do throws(Errno) { loop = try EventLoop() } catch {
        throw RendererHost.Failure(description: "\(error)")
      }
      return try options.start(sandbox: "on", on: loop, log: log)
    }
  }
}
