import FakeGuest
import Glibc
import Linux
import Sandbox
import Testing

/// What a guest that has taken over a renderer can do.
@Suite(.enabled(if: Sandbox.hasCallFilters, "this kernel has no seccomp"))
struct RenderingSandboxTests {
  private func outcome(_ call: String, _ paths: String..., steps: String = "rendering") throws
    -> CInt?
  {
    let program = Puncher.defaultProgram.split(separator: "/").dropLast().joined(separator: "/")
    let child = try ChildProcess(
      ["/\(program)/sandbox-probe", steps, call] + paths, fds: [(2, 1), (2, 2)])
    return child.waitForEnd(milliseconds: 20_000)
  }

  @Test(arguments: [
    "inet", "connect-unix", "fork", "exec", "ptrace", "kill-parent", "setuid", "io-uring",
    "userfaultfd", "ioctl-terminal", "ioctl-high-bits", "ioctl-drm", "ioctl-syncobj-wait",
    "unlink", "rename", "dup-onto", "scan", "punch-hole",
  ])
  func killsTheProcessFor(_ call: String) throws {
    #expect(try outcome(call) == 128 + SIGSYS)
  }

  /// Also for the library's threads, which are older than the filter.
  @Test(arguments: ["open", "thread-open", "list", "create", "write-existing"])
  func deniesFiles(_ call: String) throws {
    #expect(try outcome(call, "/etc/passwd") == EACCES)
  }

  @Test(arguments: ["capabilities", "privileges"])
  func givesUp(_ what: String) throws {
    #expect(try outcome(what, steps: "loading") == 0)
  }

  /// llvmpipe compiles shaders and starts threads.
  @Test(arguments: ["nothing", "thread", "memory", "exec-memory", "memfd", "allocate"])
  func leavesTheLibraryItsCalls(_ call: String) throws {
    #expect(try outcome(call) == 0)
  }

  @Test(.enabled(if: Landlock.abi != nil, "this kernel has no Landlock"))
  func libraryFilesCanBeReadAndNothingChanged() throws {
    let directory = try TemporaryDirectory()
    let file = directory.file("kept")
    try WholeFile.write([1], to: file)
    #expect(try outcome("open", steps: "loading") == 0)
    #expect(try outcome("list", steps: "loading") == 0)
    #expect(try outcome("write-existing", file, steps: "loading") == EACCES)
    #expect(try outcome("create", file, steps: "loading") == EACCES)
    #expect(try outcome("unlink", file, steps: "loading") == EACCES)
    #expect(try WholeFile.read(file) == [1])
  }
}
