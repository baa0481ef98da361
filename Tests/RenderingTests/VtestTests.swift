import FakeGuest
import Glibc
import Linux
import RenderWire
import Rendering
import Testing

/// Runs a vtest client on one renderer, without a device in between.
private final class DirectBackend: VtestBackend {
  private let rig: RendererRig
  private let context: UInt32 = 1
  private var memory: [UInt32: OwnedFDBox] = [:]
  private var submitted: RenderOutcome = .done

  init() throws {
    rig = try RendererRig()
    try rig.start()
    try expect(rig.ask(.createContext(context, capset: 2, name: [])))
  }

  private func expect(_ outcome: RenderOutcome) throws {
    guard outcome == .done else { throw GuestError.unsupported("the renderer: \(outcome)") }
  }

  func capset(_ id: UInt32) throws -> [UInt8] {
    rig.greeting?.capsets.first { $0.id == id }?.data ?? []
  }

  func create(_ r: VtestResource) throws -> CInt? {
    let shape = RenderShape(
      target: r.target, format: r.format, bind: r.bind, width: r.width, height: r.height,
      depth: r.depth, arraySize: r.arraySize, lastLevel: r.lastLevel, samples: r.samples)
    try expect(rig.ask(.createResource(r.handle, shape)))
    try expect(rig.ask(.attach(context: context, resource: r.handle)))
    guard r.size > 0 else { return nil }
    let file = SharedFD(try MemFD.create("vtest", size: Int(r.size)))
    memory[r.handle] = OwnedFDBox(file)
    try expect(rig.ask(.addFile(r.handle, size: UInt64(r.size)), file))
    let run = RenderRun(file: r.handle, offset: 0, count: UInt64(r.size))
    try expect(rig.ask(.attachBacking(r.handle, [run])))
    return file.raw
  }

  func destroy(_ handle: UInt32) throws {
    try expect(rig.ask(.destroyResource(handle)))
    if memory.removeValue(forKey: handle) != nil { try expect(rig.ask(.dropFile(handle))) }
  }

  func transfer(_ t: VtestTransfer, toHost: Bool) throws {
    let box = RenderBox(
      x: t.x, y: t.y, z: t.z, width: t.width, height: t.height, depth: t.depth)
    let transfer = RenderTransfer(
      context: context, resource: t.handle, level: t.level, offset: UInt64(t.offset), box: box)
    try expect(rig.ask(toHost ? .transferToHost(transfer) : .transferFromHost(transfer)))
  }

  func submit(_ commands: [UInt8]) throws { try expect(rig.submit(context, commands)) }
  func wait() throws { try expect(rig.ask(.fence)) }
}

private final class OwnedFDBox {
  let fd: SharedFD
  init(_ fd: SharedFD) { self.fd = fd }
}

private let source = URLPath.beside("gl-surfaceless.c")
private enum URLPath {
  static func beside(_ name: String, file: StaticString = #filePath) -> String {
    "\(file)".split(separator: "/").dropLast(2).map { "/\($0)" }.joined() + "/\(name)"
  }
}

/// The program, built in a directory; nil without a compiler or the headers.
private func build(in directory: TemporaryDirectory) -> String? {
  let program = directory.file("gl-surfaceless")
  guard access("/usr/include/EGL/egl.h", F_OK) == 0, access("/usr/include/GLES2/gl2.h", F_OK) == 0
  else { return nil }
  let compiler = try? ChildProcess(["cc", "-O1", source, "-o", program, "-lEGL", "-lGLESv2"])
  return compiler?.waitForEnd(milliseconds: 120_000) == 0 ? program : nil
}

/// Runs a GL program whose driver is Mesa's virgl, with `directory` as its /tmp: the place of the
/// socket is fixed in some versions of Mesa.
private func start(_ program: String, _ arguments: [String], in directory: TemporaryDirectory)
  throws -> ChildProcess
{
  let shell = """
    mount --bind \(directory.path) /tmp && exec env GALLIUM_DRIVER=virpipe \
    LIBGL_ALWAYS_SOFTWARE=1 MESA_SHADER_CACHE_DISABLE=1 /tmp/\(program) \(arguments.joined(separator: " "))
    """
  let out = try OwnedFD.open(directory.file("out"), O_WRONLY | O_CREAT | O_TRUNC)
  return try ChildProcess(
    ["unshare", geteuid() == 0 ? "-m" : "-rm", "sh", "-c", shell],
    fds: [(out.raw, 1), (out.raw, 2)])
}

/// Real GL programs, through Mesa's virgl driver.
@Suite(.serialized, .enabled(if: hasRenderer, "libvirglrenderer or Mesa is not installed"))
struct VtestTests {
  @Test func aGLProgramDrawsExactly() throws {
    let directory = try TemporaryDirectory()
    guard build(in: directory) != nil else {
      print("no compiler or no EGL headers here: not run")
      return
    }
    let listener = try UnixSocket.listen(directory.file(".virgl_test"), kind: .stream)
    let program = try start("gl-surfaceless", ["20"], in: directory)
    let backend = try DirectBackend()
    let bound = Clock.now + 60_000_000_000
    while program.status == nil, Clock.now < bound {
      guard let client = try? UnixSocket.accept(listener.raw) else {
        usleep(1000)
        continue
      }
      try UnixSocket.setNonblocking(client.raw, false)
      try VtestSession(client, backend).run()
    }
    let text = String(decoding: try WholeFile.read(directory.file("out")), as: UTF8.self)
    #expect(text.contains("GL_RENDERER=virgl ("), "\(text)")
    #expect(text.contains("centre=ff0000 corner=000080 error=0"), "\(text)")
    #expect(program.waitForEnd(milliseconds: 10_000) == 0)
  }
}
