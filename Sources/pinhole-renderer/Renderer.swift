import CLinux
import CVirgl
import Glibc
import Linux
import RenderWire
import Sandbox

/// What a renderer may use.
struct RendererLimits: Sendable {
  /// Bytes of private memory (`RLIMIT_DATA`, setrlimit(2)), which does not count the guest's.
  var memory: UInt64 = 2 << 30
  /// llvmpipe's threads.
  var threads: Int = 1
  /// How far it steps back for other processes, as nice(1).
  var niceness: CInt = 5
  var sandbox: Sandbox.Mode = .on
  /// The render node's path; nil for llvmpipe.
  var node: String?
  /// Whether the libraries' messages are shown.
  var isVerbose = false
}

/// One renderer: the life of a forked process, which serves one life of a guest.
enum Renderer {
  /// Lives in a process that was just forked, until the daemon is gone.
  ///
  /// - Parameter fd: its socket; all other descriptors are closed.
  static func live(adoptingOnly fd: CInt, _ limits: RendererLimits) -> Never {
    ph_close_others(fd)
    let maker: TwinMaker?
    do throws(LibraryFailure) {
      let (greeting, twins) = try prepare(limits)
      maker = twins
      send(.ready(greeting), to: fd)
    } catch {
      send(.unable(Array(error.reason.utf8)), to: fd)
      ph_exit(1)
    }
    RenderServer(socket: fd, maker).run()
    // Not exit(3): the library's own threads need no farewell.
    ph_exit(0)
  }

  private static func send(_ answer: RenderAnswer, to fd: CInt) {
    answer.packet(id: 0).withUnsafeBytes { _ = try? UnixSocket.send(fd, $0) }
  }

  private static func prepare(
    _ limits: RendererLimits
  ) throws(LibraryFailure) -> (RenderGreeting, TwinMaker?) {
    setEnvironment(limits)
    ph_be_nice(limits.niceness)
    _ = ph_limit_core()
    let node = try open(limits.node)
    // The library closes the one that it gets.
    let second = try node.map { (raw) throws(LibraryFailure) in try duplicate(raw) }
    try confine(limits) { () throws(Sandbox.Failure) in
      // Mesa makes exportable textures of memfds where it may use this device.
      try Sandbox.confineToReading(devices: ["/dev/dri", "/dev/udmabuf"])
    }
    let greeting = try Library.start(node: node)
    try Library.warmUp()
    if !limits.isVerbose { _ = ph_silence() }
    // Mesa and what it reads are loaded for this, too.
    let maker = second.flatMap { TwinMaker($0) }
    try confine(limits) { () throws(Sandbox.Failure) in
      _ = try Sandbox.confine()
    }
    _ = ph_limit_data(limits.memory)
    _ = ph_limit_file_size(limits.memory)
    _ = ph_limit_files(256)
    try confine(limits) { () throws(Sandbox.Failure) in
      try Sandbox.restrictCalls(
        to: .rendering(drivesNode: limits.node != nil), mode: limits.sandbox)
    }
    return (greeting, maker)
  }

  private static func confine(
    _ limits: RendererLimits, _ body: () throws(Sandbox.Failure) -> Void
  ) throws(LibraryFailure) {
    guard limits.sandbox != .off else { return }
    do throws(Sandbox.Failure) { try body() } catch {
      throw LibraryFailure(reason: "no sandbox: \(error)")
    }
  }

  /// What Mesa reads when it starts (docs.mesa3d.org, envvars).
  private static func setEnvironment(_ limits: RendererLimits) {
    // Shaders of a guest's do not belong in a file of the operator's.
    setenv("MESA_SHADER_CACHE_DISABLE", "true", 1)
    setenv("LP_NUM_THREADS", "\(limits.threads)", 1)
    // Mesa's surfaceless platform would find a GPU by itself.
    if limits.node == nil { setenv("LIBGL_ALWAYS_SOFTWARE", "true", 1) }
    unsetenv("GALLIUM_DRIVER")
  }

  private static func duplicate(_ node: CInt) throws(LibraryFailure) -> SharedFD {
    do throws(Errno) { return SharedFD(try OwnedFD.duplicate(of: node)) } catch {
      throw LibraryFailure(reason: "a second descriptor of the render node: \(error)")
    }
  }

  private static func open(_ path: String?) throws(LibraryFailure) -> CInt? {
    guard let path else { return nil }
    do throws(Errno) {
      return try OwnedFD.open(path, O_RDWR).release()
    } catch { throw LibraryFailure(reason: "--render-node \(path): \(error.message)") }
  }
}
