import Buffers
import Glibc
import Linux
import Pixels
import Scene
import Testing

@testable import FrameServer

/// The C example against the server: it knows nothing but the C header.
@Suite struct FrameExampleTests {
  /// Starts a program with its output in a file.
  private func start(_ arguments: [String], output: String) throws -> pid_t {
    var actions = posix_spawn_file_actions_t()
    posix_spawn_file_actions_init(&actions)
    defer { posix_spawn_file_actions_destroy(&actions) }
    for stream in [1, 2] as [CInt] {
      posix_spawn_file_actions_addopen(
        &actions, stream, output, O_CREAT | O_WRONLY | O_APPEND, 0o644)
    }
    var words: [UnsafeMutablePointer<CChar>?] = arguments.map { strdup($0) } + [nil]
    defer { for word in words { free(word) } }
    var process: pid_t = 0
    let result = posix_spawnp(&process, arguments[0], &actions, nil, &words, environ)
    guard result == 0 else { throw Errno(result, "posix_spawnp") }
    return process
  }

  private func exitStatus(_ status: CInt) -> CInt { status & 0x7f == 0 ? status >> 8 & 0xff : -1 }

  private func read(_ path: String) throws -> [UInt8] {
    let file = try OwnedFD.open(path, O_RDONLY)
    let size = Int(lseek(file.raw, 0, SEEK_END))
    var bytes = [UInt8](repeating: 0, count: max(size, 0))
    #expect(pread(file.raw, &bytes, size, 0) == size)
    return bytes
  }

  @Test func theExampleSeesWhatIsShown() throws {
    let folder = "/tmp/pinhole-example-\(getpid())-\(Clock.now)"
    try #require(mkdir(folder, 0o700) == 0)
    defer {
      for name in ["consumer", "log", "picture.ppm", "frames"] { unlink("\(folder)/\(name)") }
      rmdir(folder)
    }
    let root = #filePath.split(separator: "/").dropLast(3).map { "/" + $0 }.joined()
    let compiler = try start(
      [
        "cc", "-std=c11", "-D_GNU_SOURCE", "-Wall", "-Wextra", "-Werror",
        "-I\(root)/Protocol/include", "-o", "\(folder)/consumer", "\(root)/Examples/consumer.c",
      ], output: "\(folder)/log")
    var status: CInt = 0
    waitpid(compiler, &status, 0)
    let complaint = String(decoding: try read("\(folder)/log"), as: UTF8.self)
    try #require(exitStatus(status) == 0, "\(complaint)")
    unlink("\(folder)/log")

    let bench = try FrameBench()
    bench.enable()
    let old = try FakeBuffer(5, 1, fill: 0x11)
    try bench.show(old)
    try bench.server.listen("\(folder)/frames")
    let consumer = try start(
      ["\(folder)/consumer", "\(folder)/frames", "\(folder)/picture.ppm", "3"],
      output: "\(folder)/log")
    let server = bench.server
    try bench.turn { server.counters.framesDone == 1 }
    try bench.show(old, damage: Rect(x: 3, y: 4, width: 5, height: 6))
    try bench.turn { server.counters.framesDone == 2 }
    var released = false
    server.revoke(old.offered, reason: .discarded) { released = true }
    try bench.turn { released }
    try bench.show(try FakeBuffer(5, 2, fill: 0x22))
    try bench.turn { server.counters.framesDone == 3 && server.clients.isEmpty }
    waitpid(consumer, &status, 0)
    #expect(exitStatus(status) == 0)
    #expect(
      String(decoding: try read("\(folder)/log"), as: UTF8.self) == """
        output 0 64x32
        buffer 5.1 add 64x32 XR24 stride 256 copy
        frame 0 serial 1 buffer 5.1 damage 0,0 64x32
        frame 0 serial 2 buffer 5.1 damage 3,4 5x6
        buffer 5.1 remove 2
        buffer 5.2 add 64x32 XR24 stride 256 copy
        frame 0 serial 3 buffer 5.2 damage 0,0 64x32

        """)
    let picture = try read("\(folder)/picture.ppm")
    #expect(
      picture == Array("P6\n64 32\n255\n".utf8) + [UInt8](repeating: 0x11, count: 64 * 32 * 3))
  }
}
