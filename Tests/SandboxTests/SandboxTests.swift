import FakeGuest
import Glibc
import Sandbox
import Testing

/// A process that confined itself and made one call: its exit status is the call's errno.
private func outcome(_ steps: String, _ call: String, _ paths: String...) throws -> CInt? {
  let program = Puncher.defaultProgram.split(separator: "/").dropLast().joined(separator: "/")
  let child = try ChildProcess(
    ["/\(program)/sandbox-probe", steps, call] + paths, fds: [(2, 1), (2, 2)])
  return child.waitForEnd(milliseconds: 20_000)
}

/// As `ChildProcess` tells of a process that the filter killed.
private let killed: CInt = 128 + SIGSYS

@Suite struct SandboxTests {
  /// Without this, a call that fails anyway would prove nothing.
  @Test(arguments: [
    "open", "thread-open", "list", "inet", "fork", "thread", "scan", "memory", "exec-memory",
    "memfd", "dup-onto", "exec", "kill-parent",
  ])
  func workWithoutTheSandbox(_ call: String) throws {
    #expect(try outcome("off", call) == 0)
  }

  @Test(
    .enabled(if: Sandbox.hasCallFilters, "this kernel has no seccomp"),
    arguments: [
      "inet", "fork", "thread", "exec", "ptrace", "kill-parent", "setuid", "io-uring",
      "userfaultfd", "ioctl-terminal", "ioctl-high-bits", "ioctl-syncobj-wait", "exec-memory",
      "dup-onto", "rename", "connect-unix",
    ])
  func killsTheProcessFor(_ call: String) throws {
    #expect(try outcome("on", call) == killed)
  }

  @Test(
    .enabled(if: Sandbox.hasCallFilters, "this kernel has no seccomp"),
    arguments: ["open", "thread-open", "list", "create"])
  func deniesFiles(_ call: String) throws {
    #expect(try outcome("on", call) == EACCES)
  }

  @Test(
    .enabled(if: Sandbox.hasCallFilters, "this kernel has no seccomp"),
    arguments: ["nothing", "scan", "memory", "memfd"])
  func leavesTheDaemonItsCalls(_ call: String) throws {
    #expect(try outcome("on", call) == 0)
  }

  /// The filter lets the requests through; the file is neither a dma-buf nor a DRM node.
  @Test(arguments: ["ioctl-dma-buf", "ioctl-syncobj"])
  func leavesRequestsToBuffersAndTimelines(_ call: String) throws {
    #expect(try outcome("on", call) == ENOTTY)
  }

  @Test func abortIsSeenAsSuch() throws {
    #expect(try outcome("on", "abort") == 128 + SIGABRT)
  }

  @Test(arguments: ["capabilities", "privileges"])
  func givesUp(_ what: String) throws {
    #expect(try outcome("files", what) == 0)
  }

  @Test(.enabled(if: geteuid() == 0, "only root has capabilities to lose"))
  func rootHasCapabilitiesToLose() throws {
    #expect(try outcome("off", "capabilities") == EPERM)
  }

  @Test(
    .enabled(if: Sandbox.hasCallFilters, "this kernel has no seccomp"),
    arguments: ["fork", "thread", "ioctl-dma-buf"])
  func logModeLetsThrough(_ call: String) throws {
    #expect(try outcome("log", call) == (call == "ioctl-dma-buf" ? ENOTTY : 0))
  }
}

/// Landlock alone, without the filter in front of it.
@Suite(.enabled(if: Landlock.abi != nil, "this kernel has no Landlock"))
struct LandlockTests {
  @Test(arguments: ["open", "list", "create"])
  func deniesFiles(_ call: String) throws {
    let directory = try TemporaryDirectory()
    #expect(try outcome("files", call, directory.file("x")) == EACCES)
    #expect(access(directory.file("x.new"), F_OK) != 0)
  }

  @Test func removesFilesWhereItMay() throws {
    let directory = try TemporaryDirectory()
    try WholeFile.write([1], to: directory.file("socket"))
    #expect(try outcome("on", "unlink", directory.file("socket"), directory.file("x")) == 0)
    #expect(access(directory.file("socket"), F_OK) != 0)
  }

  @Test func removesNoFilesElsewhere() throws {
    let directory = try TemporaryDirectory()
    let other = try TemporaryDirectory()
    let precious = directory.file("precious")
    try WholeFile.write([1], to: precious)
    #expect(try outcome("files", "unlink", precious, other.file("x")) == EACCES)
    #expect(try outcome("on", "unlink", precious, other.file("x")) == EACCES)
    #expect(access(precious, F_OK) == 0)
  }

  @Test func keepsFromExecuting() throws {
    #expect(try outcome("files", "exec") == EACCES)
  }

  @Test func keepsFromSignalling() throws {
    guard let abi = Landlock.abi, abi >= 6 else { return }
    #expect(try outcome("files", "kill-parent") == EPERM)
  }
}

/// What takes Landlock's place where there is none and the right to change the root.
@Suite(.enabled(if: geteuid() == 0, "only root may change the root directory"))
struct EmptyRootTests {
  @Test func hidesFiles() throws {
    #expect(try outcome("root", "open") == ENOENT)
    #expect(try outcome("root", "list") == 0)
  }

  @Test func takesNoFiles() throws {
    #expect(try outcome("root", "create") == ENOENT)
  }

  @Test func leavesNoDirectoryBehind() throws {
    #expect(try outcome("root", "nothing") == 0)
    var left = glob_t()
    defer { globfree(&left) }
    #expect(glob("/tmp/pinhole-root-*", 0, nil, &left) == GLOB_NOMATCH)
  }
}
