import CLinux
import CVirgl
import FakeGuest
import Glibc
import Linux
import Pixels
import RenderWire

/// Serves Mesa's virgl driver, on a socket in a folder that becomes a program's /tmp: the socket's
/// place is fixed in some versions of Mesa.
protocol VtestSide: AnyObject {
  var folder: String { get }
}

private let socketName = ".virgl_test"

private func waitForSocket(_ path: String, _ what: String) throws(GuestError) {
  let deadline = Clock.now + 60_000_000_000
  while access(path, F_OK) != 0 {
    guard Clock.now < deadline else { throw .timedOut("\(what) to listen") }
    usleep(5000)
  }
}

private func quiet(_ arguments: [String]) throws(GuestError) -> ChildProcess {
  let null: OwnedFD
  do throws(Errno) { null = try OwnedFD.open("/dev/null", O_RDWR) } catch {
    throw .system("/dev/null", error)
  }
  return try ChildProcess.start(arguments, fds: [(null.raw, 1), (null.raw, 2)])
}

/// `pinhole serve --3d`, with `pinhole-guest vtest` as its guest.
final class PinholeSide: VtestSide {
  private let directory: TemporaryDirectory
  private let processes: [ChildProcess]
  var folder: String { directory.path }

  init(_ pinhole: String, guest: String) throws(GuestError) {
    directory = try TemporaryDirectory()
    let gpu = directory.file("gpu.sock")
    let server = try quiet(
      [
        pinhole, "serve", "--3d", "--render-node", "none", "--render-threads", "1",
        "--socket-path", gpu,
      ])
    try waitForSocket(gpu, "pinhole")
    let bridge = try quiet(
      [guest, "vtest", "--socket-path", gpu, "--listen", directory.file(socketName)])
    processes = [bridge, server]
    try waitForSocket(directory.file(socketName), "pinhole-guest vtest")
  }
}

/// Debian's `virgl_test_server`.
final class ServerSide: VtestSide {
  private let directory: TemporaryDirectory
  private let server: ChildProcess
  var folder: String { directory.path }

  init() throws(GuestError) {
    directory = try TemporaryDirectory()
    server = try quiet(
      [
        "env", "LP_NUM_THREADS=1", "MESA_SHADER_CACHE_DISABLE=true", "virgl_test_server",
        "--use-egl-surfaceless", "--socket-path=\(directory.file(socketName))",
      ])
    try waitForSocket(directory.file(socketName), "virgl_test_server")
  }
}

/// `Tests/gl-surfaceless.c`, which draws and waits for each frame.
final class GLProgram {
  private let directory: TemporaryDirectory
  private let arguments: String

  init(draws: Int, frames: Int) throws(GuestError) {
    directory = try TemporaryDirectory()
    arguments = "\(frames) 1920 1080 \(draws)"
    let compiler = try ChildProcess.start(
      [
        "cc", "-O2", "Tests/gl-surfaceless.c", "-o", directory.file("gl"), "-lEGL", "-lGLESv2",
      ])
    guard compiler.waitForEnd(milliseconds: 300_000) == 0 else {
      throw .unsupported("no compiler, or no headers of EGL")
    }
  }

  /// Nanoseconds a frame, as it measures itself.
  func frameTime(in folder: String) throws(GuestError) -> Double {
    let log = "\(folder)/gl.log"
    let copy = try ChildProcess.start(["cp", directory.file("gl"), "\(folder)/gl"])
    guard copy.waitForEnd(milliseconds: 10_000) == 0 else { throw .timedOut("cp") }
    let out: OwnedFD
    do throws(Errno) { out = try OwnedFD.open(log, O_WRONLY | O_CREAT | O_TRUNC) } catch {
      throw .system(log, error)
    }
    let shell = """
      mount --bind \(folder) /tmp && exec env GALLIUM_DRIVER=virpipe LIBGL_ALWAYS_SOFTWARE=1 \
      MESA_SHADER_CACHE_DISABLE=1 /tmp/gl \(arguments)
      """
    let program = try ChildProcess.start(
      ["unshare", geteuid() == 0 ? "-m" : "-rm", "sh", "-c", shell],
      fds: [(out.raw, 1), (out.raw, 2)])
    let status = program.waitForEnd(milliseconds: 300_000)
    let text = WholeFile.text(log) ?? ""
    guard status == 0, text.contains("GL_RENDERER=virgl ("),
      let word = text.split(whereSeparator: \.isWhitespace).last(where: { $0.hasPrefix("ms=") }),
      let milliseconds = Double(word.dropFirst(3))
    else { throw .unsupported("the GL program ended with \(status ?? -1): \(text)") }
    return milliseconds * 1_000_000
  }
}

/// A guest that clears its picture and flushes it, and a consumer.
final class RenderedFrames {
  private let serving: Serving
  private let driver: GPUDriver
  private let reader: ConsumerThread
  private var count = 0
  private static let whole = Rect(x: 0, y: 0, width: 1920, height: 1080)

  init(_ pinhole: String) throws(GuestError) {
    serving = try Serving(
      BackEnd(name: "Pinhole") {
        [
          pinhole, "serve", "--3d", "--render-node", "none", "--render-threads", "1",
          "--socket-path", $0, "--frames-socket", Serving.frames(beside: $0), "--qemu-display",
          "off",
        ]
      })
    var options = GPUDriver.Options()
    options.features |= Feature.virgl
    driver = try GPUDriver(try serving.connect(try GuestRAM(size: 16 << 20)), options)
    reader = try ConsumerThread(serving.frames)
    let (width, height) = (Self.whole.width, Self.whole.height)
    try driver.perform(.createContext(1))
    try driver.perform(
      .create3D(1, target: 2, format: 2, bind: 0x14_000a, width: width, height: height))
    try driver.perform(.context(1, attach: true, resource: 1))
    try driver.perform(.setScanout(0, resource: 1, Self.whole))
    var stream = VirglStream()
    stream.target(surface: 1, resource: 1, format: 2)
    try driver.perform(.submit(1, stream.bytes))
  }

  /// Returns when the consumer has the frame.
  func play() throws(GuestError) {
    count += 1
    var stream = VirglStream()
    stream.clear((Float(count % 7) / 7, 0, 1, 1))
    try driver.perform(together: [.submit(1, stream.bytes), .flush(1, Self.whole)])
    _ = try reader.arrivals.time(of: count)
  }
}

/// The same by libvirglrenderer, in this process: what it costs at least.
final class BareReadBack {
  private let memory: Mapping
  private let width: UInt32
  private let height: UInt32
  private var count = 0

  init(width: UInt32, height: UInt32) throws(GuestError) {
    (self.width, self.height) = (width, height)
    do throws(Errno) {
      let size = Int(width * height * 4)
      let file = try MemFD.create("bench-read-back", size: size)
      memory = try Mapping(fd: file.raw, offset: 0, count: size, writable: true)
    } catch { throw .system("memory", error) }
    setenv("LP_NUM_THREADS", "1", 1)
    setenv("LIBGL_ALWAYS_SOFTWARE", "true", 1)
    setenv("MESA_SHADER_CACHE_DISABLE", "true", 1)
    var why = [CChar](repeating: 0, count: 400)
    guard ph_virgl_load(&why, why.count) == 0, ph_virgl_init(-1) == 0 else {
      throw .unsupported("libvirglrenderer cannot be used here")
    }
    var shape = ph_virgl_shape(
      handle: 1, target: 2, format: 2, bind: 0x14_000a, width: width, height: height, depth: 1,
      array_size: 1, last_level: 0, nr_samples: 0, flags: 0)
    var error = ph_virgl_create_context(1, 0, "bench", 5) | ph_virgl_create_resource(&shape)
    ph_virgl_attach(1, 1)
    var stream = VirglStream()
    stream.target(surface: 1, resource: 1, format: 2)
    error |= ph_virgl_submit(1, stream.words, UInt32(stream.words.count))
    guard error == 0 else { throw .unsupported("libvirglrenderer: error \(error)") }
  }

  func play() throws(GuestError) {
    count += 1
    var stream = VirglStream()
    stream.clear((Float(count % 7) / 7, 0, 1, 1))
    var error = ph_virgl_submit(1, stream.words, UInt32(stream.words.count))
    var vector = iovec(iov_base: memory.base, iov_len: memory.count)
    let box = ph_virgl_box(x: 0, y: 0, z: 0, w: width, h: height, d: 1)
    error |= ph_virgl_transfer(0, 1, 0, 0, width * 4, 0, box, 0, &vector, 1)
    guard error == 0 else { throw .unsupported("libvirglrenderer: error \(error)") }
  }
}
