import Glibc
import Linux
import Testing

/// Other programs: what they get, how they end, and that none is left behind.
@Suite struct ChildProcessTests {
  private func shell(
    _ script: String, fds: [(ours: CInt, theirs: CInt)] = []
  ) throws -> ChildProcess {
    try ChildProcess(["sh", "-c", script], fds: fds)
  }

  @Test(arguments: [
    ("exit 0", 0), ("exit 7", 7), ("kill -KILL $$", 128 + SIGKILL),
    ("kill -TERM $$", 128 + SIGTERM), ("kill -PIPE $$", 128 + SIGPIPE),
  ])
  func itsEndIsTold(_ script: String, _ status: CInt) throws {
    // Threads of tests block most signals, as one does that has a signalfd. A child does not.
    Signals.ignoreSIGPIPE()
    let child = try shell(script)
    #expect(child.waitForEnd(milliseconds: 20_000) == status)
    #expect(child.status == status, "again")
    #expect(child.descriptorCount == 0)
    child.signal(SIGKILL)
  }

  @Test func aProgramThatIsNotThere() {
    #expect(throws: Errno(ENOENT, "posix_spawn")) { try ChildProcess(["/nonexistent/program"]) }
  }

  /// Two that take each other's number, and nothing to read that is ours.
  @Test func descriptorsGetTheirNumbers() throws {
    let files = try ["a", "b"].map { SharedFD(try MemFD.create($0, size: 0)) }
    let (a, b) = (files[0].raw, files[1].raw)
    let child = try shell(
      "printf first >/dev/fd/\(a); printf second >/dev/fd/\(b); read line && exit 3; exit 0",
      fds: [(a, b), (b, a)])
    #expect(child.waitForEnd(milliseconds: 20_000) == 0)
    func text(_ fd: CInt) -> String {
      var bytes = [UInt8](repeating: 0, count: 16)
      let count = pread(fd, &bytes, 16, 0)
      return String(decoding: bytes.prefix(max(0, count)), as: UTF8.self)
    }
    #expect(text(b) == "first" && text(a) == "second")
    withExtendedLifetime(files) {}
  }

  @Test func itDoesNotOutliveItsOwner() throws {
    let pid: CInt
    do {
      let child = try shell("exec sleep 60")
      pid = child.pid
      #expect(child.status == nil && kill(pid, 0) == 0)
      withExtendedLifetime(child) {}
    }
    // Killed, and reaped: there is no such process any more.
    #expect(kill(pid, 0) == -1 && errno == ESRCH)
  }
}
