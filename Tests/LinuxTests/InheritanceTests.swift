import CLinux
import Glibc
import Linux
import Testing

/// What a program that is started gets of ours: nothing but what it is handed. A renderer that had a
/// guest's memory, or a consumer's socket, could do to them what it likes.
@Suite struct InheritanceTests {
  private func staysHere(_ fd: CInt) -> Bool {
    let flags = fcntl(fd, F_GETFD)
    return flags >= 0 && flags & FD_CLOEXEC != 0
  }

  private func staysHere(adopting fd: CInt) -> Bool {
    let owned = OwnedFD(adopting: fd)
    return staysHere(owned.raw)
  }

  @Test func files() throws {
    let memory = try MemFD.create("file", size: 4096)
    let opened = try OwnedFD.open("/dev/null", O_RDWR)
    let event = try EventFD()
    // Of no signal, so that this thread's mask stays as it is.
    let signals = try Signals.descriptor(for: [])
    #expect(staysHere(memory.raw) && staysHere(opened.raw))
    #expect(staysHere(event.fd.raw) && staysHere(signals.raw))
    #expect(staysHere(adopting: ph_epoll_create()) && staysHere(adopting: ph_semaphore()))
    let copy = try opened.duplicate()
    #expect(staysHere(copy.raw))
    let place = copy.raw
    #expect(ph_duplicate_onto(memory.raw, place) == place && staysHere(place))
  }

  @Test(arguments: [UnixSocket.Kind.stream, .seqpacket])
  func connections(_ kind: UnixSocket.Kind) throws {
    let path = "/tmp/pinhole-inherit-\(getpid())-\(Clock.now).sock"
    defer { unlink(path) }
    let listener = try UnixSocket.listen(path, kind: kind)
    let patient = try UnixSocket.connect(path, kind: kind)
    let hasty = try UnixSocket.connect(path, kind: kind, patience: 0)
    let accepted = try UnixSocket.accept(listener.raw)
    for fd in [listener.raw, patient.raw, hasty.raw, accepted.raw] { #expect(staysHere(fd)) }
    let (one, other) = try pair(kind)
    #expect(staysHere(one.raw) && staysHere(other.raw))
    #expect(staysHere(adopting: ph_loopback_listen("127.0.0.1", 0, 1)))
  }
}
