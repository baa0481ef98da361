import FakeGuest
import Glibc
import Linux
import Sandbox
import Testing

/// A process that confined itself and made one call: its exit status is the call's errno.
private func outcome(_ steps: String, _ call: String, _ paths: String...) throws -> CInt? {
  // Swift's own backtrace of what aborts would start a program, which the filter forbids.
  setenv("SWIFT_BACKTRACE", "enable=no", 1)
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
    "memfd", "dup-onto", "exec", "kill-parent", "socketpair", "block", "unblock", "prepare-tcp",
    "limit-parent",
  ])
  func workWithoutTheSandbox(_ call: String) throws {
    #expect(try outcome("off", call) == 0)
  }

  @Test(
    .enabled(if: Sandbox.hasCallFilters, "this kernel has no seccomp"),
    arguments: [
      "inet", "fork", "thread", "exec", "ptrace", "kill-parent", "setuid", "io-uring",
      "tgkill-parent", "userfaultfd", "ioctl-terminal", "ioctl-high-bits", "ioctl-syncobj-wait",
      "ioctl-dma-buf-sync",
      "exec-memory", "dup-onto", "rename", "connect-unix", "socketpair", "send-to-address",
      "attach-filter", "advise-poison", "block", "limit-parent", "wait-for-child",
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
    arguments: [
      "nothing", "scan", "memory", "memfd", "tgkill-self", "send-connected", "linger",
      "send-buffer",
      "peer", "facts", "advise-populate", "limit-files",
    ])
  func leavesTheDaemonItsCalls(_ call: String) throws {
    #expect(try outcome("on", call) == 0)
  }

  /// The filter lets the requests through; the file is neither a dma-buf nor a DRM node.
  @Test(arguments: ["ioctl-dma-buf", "ioctl-syncobj"])
  func leavesRequestsToBuffersAndTimelines(_ call: String) throws {
    #expect(try outcome("on", call) == ENOTTY)
  }

  /// As for a renderer that has ended: it may ask, and never wait.
  @Test(.enabled(if: Sandbox.hasCallFilters, "this kernel has no seccomp"))
  func childrenAreLookedForWithoutWaiting() throws {
    #expect(try outcome("on", "look-for-child") == ECHILD)
    #expect(try outcome("off", "wait-for-child") == ECHILD)
  }

  @Test(arguments: [
    ("/run/user/pinhole.sock", "/run/user"), ("/pinhole.sock", "/"), ("pinhole.sock", "."),
    ("run/pinhole.sock", "run"),
  ])
  func theDirectoryOfASocket(_ path: String, _ directory: String) {
    #expect(Sandbox.directory(of: path) == directory)
  }

  @Test func aSignalThatALateLoopDoesNotTakeEndsTheProcess() throws {
    #expect(try outcome("off", "late-loop") == 9)
    // With --watchdog 0 too, which only says that it does not end by itself.
    #expect(try outcome("off", "late-loop-without-end") == 1)
  }

  /// libc asks on its own; nobody should lose a guest's screen for it.
  @Test(.enabled(if: Sandbox.hasCallFilters, "this kernel has no seccomp"))
  func otherLimitsAreRefused() throws {
    #expect(try outcome("on", "limit-stack") == EACCES)
  }

  /// Where no Landlock says which files these are, no program may remove any.
  @Test(
    .enabled(if: Sandbox.hasCallFilters, "this kernel has no seccomp"),
    arguments: ["calls", "sharing", "input", "bridge", "viewing", "pipewire"])
  func withoutLandlockNothingIsRemoved(_ policy: String) throws {
    let directory = try TemporaryDirectory()
    try WholeFile.write([1], to: directory.file("x"))
    #expect(try outcome(policy, "unlink", directory.file("x")) == EACCES)
    #expect(access(directory.file("x"), F_OK) == 0)
  }

  /// A guest's data goes through all of them.
  @Test(
    .enabled(if: Sandbox.hasCallFilters, "this kernel has no seccomp"),
    arguments: ["sharing", "input", "bridge", "viewing", "pipewire"],
    ["exec", "inet", "fork", "thread", "exec-memory", "socketpair", "advise-poison", "repair-tcp"])
  func noProgramMay(_ policy: String, _ call: String) throws {
    #expect(try outcome(policy, call) == killed)
  }

  @Test(
    .enabled(if: Sandbox.hasCallFilters, "this kernel has no seccomp"),
    arguments: [
      ("sharing", "attach-filter"), ("input", "attach-filter"), ("bridge", "attach-filter"),
      ("viewing", "attach-filter"), ("sharing", "block"), ("input", "block"),
      ("input", "connect-unix"), ("bridge", "prepare-tcp"), ("input", "prepare-tcp"),
      ("bridge", "limit-parent"), ("bridge", "wait-for-child"),
    ])
  func someMayNot(_ policy: String, _ call: String) throws {
    #expect(try outcome(policy, call) == killed)
  }

  @Test(
    .enabled(if: Sandbox.hasCallFilters, "this kernel has no seccomp"),
    arguments: [
      ("viewing", "prepare-tcp"), ("bridge", "block"), ("viewing", "block"), ("pipewire", "block"),
      ("input", "unblock"), ("bridge", "unblock"), ("input", "linger"), ("viewing", "linger"),
      ("pipewire", "linger"), ("bridge", "advise-populate"), ("pipewire", "advise-populate"),
      ("input", "limit-files"), ("bridge", "limit-files"), ("input", "tgkill-self"),
      ("bridge", "tgkill-self"), ("viewing", "tgkill-self"), ("pipewire", "tgkill-self"),
    ])
  func theirOwnCallsAreLeft(_ policy: String, _ call: String) throws {
    #expect(try outcome(policy, call) == 0)
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

  @Test(.enabled(if: (Landlock.abi ?? 0) >= 6, "needs Landlock's scopes, Linux 6.12"))
  func keepsFromSignalling() throws {
    #expect(try outcome("files", "kill-parent") == EPERM)
  }
}

/// The daemon itself, seen from outside.
@Suite struct DaemonSandboxTests {
  /// A field of /proc/PID/task/TID/status of each thread.
  private func statuses(_ pid: CInt, _ field: String) throws -> [String] {
    var found = glob_t()
    defer { globfree(&found) }
    try #require(glob("/proc/\(pid)/task/*/status", 0, nil, &found) == 0)
    return try (0..<Int(found.gl_pathc)).map { index in
      let path = try #require(found.gl_pathv[index].map { String(cString: $0) })
      let text = String(decoding: try WholeFile.read(path), as: UTF8.self)
      let line = text.split(separator: "\n").first { $0.hasPrefix(field + ":") }
      let words = try #require(line).split(whereSeparator: \.isWhitespace)
      return words.count > 1 ? String(words[1]) : ""
    }
  }

  @Test(
    .enabled(if: Sandbox.hasCallFilters && Landlock.abi != nil, "needs seccomp and Landlock"),
    .disabled(if: getenv("PINHOLE_SANDBOX") != nil, "a sanitizer runs without"))
  func everyThreadIsConfined() throws {
    let pinhole = try PinholeProcess()
    let deadline = 200
    for _ in 0..<deadline where !pinhole.log.contains("system calls filtered") { usleep(50_000) }
    #expect(pinhole.log.contains("Landlock"), "\(pinhole.log)")
    #expect(pinhole.log.contains("system calls filtered"), "\(pinhole.log)")
    let pid = pinhole.child.pid
    let filters = try statuses(pid, "Seccomp")
    #expect(!filters.isEmpty && filters.allSatisfy { $0 == "2" }, "\(filters)")
    #expect(try statuses(pid, "NoNewPrivs").allSatisfy { $0 == "1" })
    for set in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
      #expect(try statuses(pid, set).allSatisfy { $0.allSatisfy { $0 == "0" } }, "\(set)")
    }
    #expect(pinhole.terminate() == 0)
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

  /// Nothing says which files these are there.
  @Test(.enabled(if: Sandbox.hasCallFilters, "this kernel has no seccomp"))
  func removesNoFiles() throws {
    let directory = try TemporaryDirectory()
    try WholeFile.write([1], to: directory.file("x"))
    #expect(try outcome("calls", "unlink", directory.file("x")) == EACCES)
    #expect(access(directory.file("x"), F_OK) == 0)
  }

  @Test func leavesNoDirectoryBehind() throws {
    #expect(try outcome("root", "nothing") == 0)
    var left = glob_t()
    defer { globfree(&left) }
    #expect(glob("/tmp/pinhole-root-*", 0, nil, &left) == GLOB_NOMATCH)
  }
}
