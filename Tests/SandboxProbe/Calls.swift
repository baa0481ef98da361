import CLinux
import Command
import Glibc
import Linux
import Logging
import Sandbox

/// The calls that can be tried; each returns 0 or an errno.
struct Calls {
  let all: [String: () -> CInt]

  init(_ path: String) {
    // Opened before anything is given up, as the daemon does.
    let null = open("/dev/null", O_RDWR)
    let map = open("/proc/self/pagemap", O_RDONLY)
    let parent = getppid()
    let own = getpid()
    let ends = Self.datagramPair()
    let viewer = socket(AF_INET, CInt(SOCK_STREAM.rawValue), 0)
    let mmapPage = mmap(nil, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)
    all = [
      "nothing": { 0 },
      "open": { Self.outcome(open("/etc/passwd", O_RDONLY)) },
      "thread-open": { Self.outcome(open("/etc/passwd", O_RDONLY)) },
      "list": { opendir("/") == nil ? errno : 0 },
      "create": { Self.outcome(open(path + ".new", O_RDWR | O_CREAT, 0o600)) },
      "unlink": { Self.outcome(unlink(path)) },
      "rename": { Self.outcome(rename(path, path + ".new")) },
      "inet": { Self.outcome(socket(AF_INET, CInt(SOCK_STREAM.rawValue), 0)) },
      "connect-unix": { Self.connectUnix(path) },
      "exec": { Self.exec() },
      "fork": { Self.outcome(fork()) },
      "thread": { Self.thread() },
      "ptrace": { Self.outcome(CInt(truncatingIfNeeded: Self.call(101, 0, 0, 0))) },
      "kill-parent": { Self.outcome(kill(parent, 0)) },
      "tgkill-parent": {
        Self.outcome(CInt(truncatingIfNeeded: Self.call(234, Int(parent), Int(parent), 0)))
      },
      "tgkill-self": {
        Self.outcome(CInt(truncatingIfNeeded: Self.call(234, Int(own), Int(own), 0)))
      },
      "setuid": { Self.outcome(setuid(0)) },
      "io-uring": { Self.outcome(CInt(truncatingIfNeeded: Self.call(425, 1, 0, 0))) },
      "userfaultfd": { Self.outcome(ph_uffd_from_syscall(), isNegated: true) },
      "ioctl-terminal": { Self.outcome(ph_ioctl_int(null, 0x5401, 0), isNegated: true) },
      "ioctl-high-bits": {
        // The kernel looks at the lower half of a request only.
        Self.outcome(CInt(truncatingIfNeeded: Self.call(16, Int(null), 1 << 32 | 0x5401, 0)))
      },
      "ioctl-dma-buf": {
        Self.outcome(
          ph_ioctl_int(null, UInt(ph_REQUEST_DMA_BUF_EXPORT_SYNC_FILE), 0), isNegated: true)
      },
      // For those who map dma-bufs, which the daemon does not.
      "ioctl-dma-buf-sync": {
        Self.outcome(ph_ioctl_int(null, UInt(ph_REQUEST_DMA_BUF_SYNC), 0), isNegated: true)
      },
      // The file is no DRM node: ENOTTY if the filter lets the request through.
      "ioctl-syncobj": {
        let requests = [
          ph_REQUEST_SYNCOBJ_FD_TO_HANDLE, ph_REQUEST_SYNCOBJ_EVENTFD, ph_REQUEST_SYNCOBJ_DESTROY,
        ]
        let outcomes = requests.map { ph_ioctl_int(null, UInt($0), 0) }
        return outcomes.allSatisfy { $0 == 0 - ENOTTY } ? ENOTTY : 0
      },
      // DRM_IOCTL_SYNCOBJ_WAIT, which would block.
      "ioctl-syncobj-wait": { Self.outcome(ph_ioctl_int(null, 0xc020_64c3, 0), isNegated: true) },
      // DRM_IOCTL_VERSION.
      "ioctl-drm": { Self.outcome(ph_ioctl_int(null, 0xc040_6400, 0), isNegated: true) },
      "write-existing": { Self.outcome(open(path, O_WRONLY)) },
      "scan": {
        var region = ph_page_region()
        var walked: UInt64 = 0
        let page = UInt64(UInt(bitPattern: mmapPage)) & ~4095
        return Self.outcome(
          ph_pagemap_scan_absent(map, page, page + 4096, &region, 1, &walked), isNegated: true)
      },
      "exec-memory": { Self.map(PROT_READ | PROT_EXEC) },
      "memory": { Self.map(PROT_READ | PROT_WRITE) },
      "memfd": { Self.memfd() },
      "allocate": { Self.onMemFD { posix_fallocate($0, 0, 4096) } },
      "punch-hole": {
        Self.onMemFD { file in
          do throws(Errno) {
            try MemFD.punchHole(file, offset: 0, count: 4096)
            return 0
          } catch { return error.code }
        }
      },
      "dup-onto": { Self.outcome(fcntl(null, F_DUPFD, 50)) },
      "socketpair": {
        var ends: [CInt] = [-1, -1]
        return Self.outcome(Glibc.socketpair(AF_UNIX, CInt(SOCK_DGRAM.rawValue), 0, &ends))
      },
      "send-connected": { Self.send(from: ends.0, to: nil) },
      "send-to-address": { Self.send(from: ends.0, to: path) },
      "linger": { Self.setOption(ends.0, SO_LINGER) },
      "send-buffer": { Self.setOption(ends.0, SO_SNDBUF) },
      "attach-filter": { Self.setOption(ends.0, SO_ATTACH_FILTER) },
      "prepare-tcp": { Self.outcome(ph_tcp_prepare(viewer), isNegated: true) },
      // IPPROTO_TCP, TCP_REPAIR, for whoever has CAP_NET_ADMIN.
      "repair-tcp": {
        var off: CInt = -1
        return Self.outcome(setsockopt(viewer, 6, 19, &off, 4))
      },
      "unblock": {
        do throws(Errno) {
          try UnixSocket.setNonblocking(ends.0, true)
          return 0
        } catch { return error.code }
      },
      "peer": {
        do throws(Errno) {
          _ = try UnixSocket.peer(of: ends.0)
          return 0
        } catch { return error.code }
      },
      "facts": {
        do throws(Errno) {
          _ = try FileFacts(of: null)
          return 0
        } catch { return error.code }
      },
      "advise-populate": {
        Self.outcome(ph_madvise(mmapPage, 4096, ph_MADV_POPULATE_READ), isNegated: true)
      },
      // MADV_HWPOISON.
      "advise-poison": { Self.outcome(ph_madvise(mmapPage, 4096, 100), isNegated: true) },
      "limit-files": {
        var limit = rlimit()
        return Self.outcome(getrlimit(__rlimit_resource_t(7), &limit))
      },
      // prlimit64(2) on another process, which reads the limit and, with one argument more, sets it.
      "limit-parent": {
        Self.outcome(CInt(truncatingIfNeeded: Self.call(302, Int(parent), 7, 0)))
      },
      // wait4(2) for any child, of which there is none: ECHILD if it may ask.
      "wait-for-child": { Self.outcome(CInt(truncatingIfNeeded: Self.call(61, -1, 0, 0))) },
      "look-for-child": { Self.outcome(CInt(truncatingIfNeeded: Self.call(61, -1, 0, 1))) },
      "limit-stack": {
        var limit = rlimit()
        return Self.outcome(getrlimit(__rlimit_resource_t(3), &limit))
      },
      "block": {
        do throws(Errno) {
          try UnixSocket.setNonblocking(ends.0, false)
          return 0
        } catch { return error.code }
      },
      "late-loop": {
        var times = Watchdog.Times()
        times.interval = 20_000_000
        times.poke = 60_000_000
        let patience = times
        return Self.lateLoop { loop throws(Errno) in
          try Watchdog(over: loop, times: patience, endingFor: [SIGTERM]) {
            if case .lost = $0 { _exit(9) }
          }
        }
      },
      "late-loop-without-end": {
        Self.lateLoop { loop throws(Errno) in
          try Watchdog.endingTheProcess(over: loop, after: 0, Logger(label: "probe"))
        }
      },
      "capabilities": { Sandbox.hasCapabilities ? EPERM : 0 },
      "privileges": { Sandbox.canGainPrivileges ? EPERM : 0 },
      "abort": { abort() },
    ]
  }

  private static func outcome(_ result: CInt, isNegated: Bool = false) -> CInt {
    guard result < 0 else { return 0 }
    return isNegated ? 0 &- result : errno
  }

  // Numbers of x86-64, the only architecture that the tests of these run on.
  private static func call(_ number: Int, _ a: Int, _ b: Int, _ c: Int) -> Int {
    ph_raw_call(number, a, b, c)
  }

  private static func connectUnix(_ path: String) -> CInt {
    do throws(Errno) {
      _ = try UnixSocket.connect(path, kind: .stream)
      return 0
    } catch { return error.code }
  }

  private static func exec() -> CInt {
    guard let program = strdup("/bin/true") else { return ENOMEM }
    var arguments: [UnsafeMutablePointer<CChar>?] = [program, nil]
    return outcome(execv(program, &arguments))
  }

  private static func thread() -> CInt {
    do throws(Errno) {
      _ = try Thread("probe") {}
      return 0
    } catch { return error.code }
  }

  private static func map(_ protection: CInt) -> CInt {
    let p = mmap(nil, 4096, protection, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)
    return p == MAP_FAILED ? errno : 0
  }

  private static func datagramPair() -> (CInt, CInt) {
    var ends: [CInt] = [-1, -1]
    _ = Glibc.socketpair(AF_UNIX, CInt(SOCK_DGRAM.rawValue), 0, &ends)
    return (ends[0], ends[1])
  }

  private static func send(from socket: CInt, to path: String?) -> CInt {
    var byte: UInt8 = 1
    guard let path else {
      return outcome(CInt(truncatingIfNeeded: Glibc.send(socket, &byte, 1, 0)))
    }
    var address = sockaddr_un()
    address.sun_family = sa_family_t(AF_UNIX)
    withUnsafeMutableBytes(of: &address.sun_path) { $0.copyBytes(from: path.utf8.prefix(100)) }
    let sent = withUnsafePointer(to: &address) {
      $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
        sendto(socket, &byte, 1, 0, $0, socklen_t(MemoryLayout<sockaddr_un>.size))
      }
    }
    return outcome(CInt(truncatingIfNeeded: sent))
  }

  private static func setOption(_ socket: CInt, _ option: CInt) -> CInt {
    var value: (CInt, CInt) = (1, 0)
    return outcome(setsockopt(socket, SOL_SOCKET, option, &value, 8))
  }

  /// A loop that waits for ever while a signal asks it to end: exit status 9 by the watchdog.
  /// A loop that is asked to end and does not turn.
  private static func lateLoop(_ watch: (EventLoop) throws(Errno) -> Watchdog) -> CInt {
    do throws(Errno) {
      let signals = try Signals.descriptor(for: [SIGTERM])
      let loop = try EventLoop()
      let bell = try EventFD()
      bell.signal()
      try loop.watch(bell.fd.raw, for: .readable) { _ in
        kill(getpid(), SIGTERM)
        while true { pause() }
      }
      let dog = try watch(loop)
      try loop.run()
      withExtendedLifetime((dog, signals.raw)) {}
      return 0
    } catch { return error.code }
  }

  private static func onMemFD(_ body: (CInt) -> CInt) -> CInt {
    do throws(Errno) {
      let file = try MemFD.create("probe", size: 4096)
      return body(file.raw)
    } catch { return error.code }
  }

  private static func memfd() -> CInt {
    do throws(Errno) {
      _ = try MemFD.create("probe", size: 4096, seals: [.shrink, .grow])
      return 0
    } catch { return error.code }
  }
}
