import CLinux
import Glibc

/// A system call by its name and, where that matters, what its arguments must be.
///
/// Conditions of one rule hold together; several rules of the same name are alternatives.
public struct CallRule: Sendable {
  /// What an argument must be.
  public struct Condition: Sendable {
    /// Which argument, from 0.
    let argument: UInt32
    /// The bits that count.
    let mask: UInt64
    /// What they must be.
    let value: UInt64
  }

  let name: String
  let conditions: [Condition]

  /// The call with any arguments.
  static func any(_ name: String) -> CallRule { CallRule(name: name, conditions: []) }

  /// The call with one 32-bit argument from a list, such as an ioctl's request.
  static func each(_ name: String, argument: UInt32, in values: [UInt64]) -> [CallRule] {
    values.map {
      let condition = Condition(argument: argument, mask: 0xffff_ffff, value: $0 & 0xffff_ffff)
      return CallRule(name: name, conditions: [condition])
    }
  }

  /// The call with some bits of an argument as they are in a value.
  static func with(
    _ value: UInt64, masked mask: UInt64, in argument: UInt32, _ name: String
  ) -> CallRule {
    CallRule(
      name: name, conditions: [Condition(argument: argument, mask: mask, value: value & mask)])
  }

  /// The call with two 32-bit arguments.
  static func both(
    _ name: String, _ first: (UInt32, CInt), _ second: (UInt32, CInt)
  ) -> CallRule {
    CallRule(
      name: name,
      conditions: [first, second].map {
        Condition(argument: $0.0, mask: 0xffff_ffff, value: UInt64(UInt32(bitPattern: $0.1)))
      })
  }

  /// The call with some bits of an argument clear.
  static func without(_ bits: CInt, in argument: UInt32, _ name: String) -> CallRule {
    let mask = UInt64(UInt32(bitPattern: bits))
    return CallRule(name: name, conditions: [Condition(argument: argument, mask: mask, value: 0)])
  }
}

/// Which system calls a process may make; all others end it.
public struct CallPolicy: Sendable {
  /// What is permitted.
  let allowed: [CallRule]
  /// What fails with `EACCES`: calls that libc may try on its own and can do without.
  let refused: [CallRule]
  /// What fails with `ENOSYS`: calls for which libc has an older one, whose arguments a filter can
  /// see.
  var absent: [String] = []

  /// What the daemon needs once its devices are open and its sockets listen.
  ///
  /// - Parameters:
  ///   - ownPID: signals may go to this process alone.
  ///   - removesFiles: sockets' paths may be removed at the end; only where Landlock says which.
  public static func serving(
    ownPID: CInt = getpid(), removesFiles: Bool = Landlock.abi != nil
  ) -> CallPolicy {
    CallPolicy(
      allowed: eventLoop + sockets + memory + files + devices + ending(ownPID)
        + removing(removesFiles),
      refused: guesses + removing(!removesFiles))
  }

  /// What `pinhole share` needs: no device, and no guest memory.
  public static func sharing(
    ownPID: CInt = getpid(), removesFiles: Bool = Landlock.abi != nil
  ) -> CallPolicy {
    CallPolicy(
      allowed: eventLoop + sockets + memory + files + ending(ownPID) + removing(removesFiles)
        + CallRule.each("ioctl", argument: 1, in: [ph_REQUEST_SIOCOUTQ]),
      refused: guesses + removing(!removesFiles))
  }

  /// What `pinhole input` needs: it has guest memory and sockets, and no device of the host's.
  ///
  /// - Parameters:
  ///   - ownPID: signals may go to this process alone.
  ///   - removesFiles: sockets' paths may be removed at the end; only where Landlock says which.
  public static func input(
    ownPID: CInt = getpid(), removesFiles: Bool = Landlock.abi != nil
  ) -> CallPolicy {
    CallPolicy(
      allowed: eventLoop + sockets + memory + files + ending(ownPID) + removing(removesFiles),
      refused: guesses + removing(!removesFiles))
  }

  /// What a bridge from frames to other programs needs, which has its sockets: those of the
  /// producer are connected anew when it starts again.
  ///
  /// - Parameters:
  ///   - ownPID: signals may go to this process alone.
  ///   - removesFiles: sockets' paths may be removed at the end; only where Landlock says which.
  public static func bridge(
    ownPID: CInt = getpid(), removesFiles: Bool = Landlock.abi != nil
  ) -> CallPolicy {
    CallPolicy(
      allowed: eventLoop + sockets + memory + files + reconnecting + ending(ownPID)
        + removing(removesFiles),
      refused: guesses + removing(!removesFiles))
  }

  /// What a bridge with PipeWire's library needs, whose threads run already. It has no path of its
  /// own to remove.
  ///
  /// - Parameter ownPID: signals may go to this process alone.
  public static func pipeWire(ownPID: CInt = getpid()) -> CallPolicy {
    let bridge = bridge(ownPID: ownPID, removesFiles: false)
    return CallPolicy(allowed: bridge.allowed + pipeWireCalls, refused: bridge.refused)
  }

  /// Its loops make descriptors of their own for each stream, and it asks who is at the other end.
  ///
  /// Which fcntl(2) and which options of sockets it uses differs between its versions and modules,
  /// some of which talk to D-Bus: they are not limited further than to the level of sockets. What
  /// memory may be advised is: neither the library nor the modules of a client call madvise(2).
  private static let pipeWireCalls: [CallRule] =
    names(
      "epoll_create1", "timerfd_create", "timerfd_settime", "timerfd_gettime", "getpeername",
      "getsockname", "sched_getparam",
      "sched_getscheduler", "getegid", "getgid", "mlock", "mlock2", "munlock", "fcntl")
    + ["getsockopt", "setsockopt"].map {
      .with(UInt64(SOL_SOCKET), masked: 0xffff_ffff, in: 1, $0)
    }

  /// Unix sockets only, which are made to block once they are connected.
  private static let reconnecting: [CallRule] =
    CallRule.each("socket", argument: 0, in: [UInt64(AF_UNIX)]) + names("connect")
    + [.both("fcntl", (1, F_SETFL), (2, O_RDWR))]

  /// The event loop; its epoll and signal descriptors exist already, events come with each
  /// connection.
  private static let eventLoop: [CallRule] = names(
    "epoll_wait", "epoll_pwait", "epoll_pwait2", "epoll_ctl", "poll", "ppoll", "read", "write",
    "readv", "writev", "preadv2", "close", "eventfd2",
    "clock_gettime", "gettimeofday", "clock_nanosleep", "nanosleep", "sched_yield", "futex",
    "restart_syscall")

  /// Connections come out of the listening sockets or along with messages: no socket(2), bind(2)
  /// connect(2) or socketpair(2), with which datagrams could go to other programs' sockets. The
  /// display socket of a guest is one end of a pair that QEMU made.
  private static let sockets: [CallRule] =
    names("accept4", "sendmsg", "recvmsg", "recvfrom", "shutdown", "sendfile") + [
      // No address, by which a datagram finds a socket that nobody connected.
      CallRule(name: "sendto", conditions: [.init(argument: 4, mask: .max, value: 0)]),
      .both("getsockopt", (1, SOL_SOCKET), (2, SO_PEERCRED)),
      .both("getsockopt", (1, SOL_SOCKET), (2, SO_DOMAIN)),
      .both("getsockopt", (1, SOL_SOCKET), (2, SO_TYPE)),
      .both("getsockopt", (1, SOL_SOCKET), (2, SO_SNDBUF)),
      .both("setsockopt", (1, SOL_SOCKET), (2, SO_SNDBUF)),
      .both("setsockopt", (1, SOL_SOCKET), (2, SO_LINGER)),
      .both("setsockopt", (1, SOL_SOCKET), (2, passRights)),
    ]

  /// Guest memory and the heap, never executable.
  private static let memory: [CallRule] =
    names("munmap", "mremap", "brk", "getrandom") + [
      .without(PROT_EXEC, in: 2, "mmap"), .without(PROT_EXEC, in: 2, "mprotect"),
    ]
    // What the heap, guest memory and the witness ask for.
    + CallRule.each(
      "madvise", argument: 2,
      in: [
        MADV_DONTNEED, MADV_FREE, MADV_HUGEPAGE, MADV_NOHUGEPAGE, ph_MADV_DONTDUMP,
        ph_MADV_POPULATE_READ, ph_MADV_POPULATE_WRITE,
      ].map { UInt64($0) })

  /// Files that came as descriptors: guest memory, and the memfds that copies live in.
  private static let files: [CallRule] =
    names("fstat", "fstatfs", "ftruncate", "lseek", "pread64", "pwrite64", "memfd_create")
    + CallRule.each(
      "fcntl", argument: 1,
      in: [F_GETFD, F_SETFD, F_GETFL, F_DUPFD_CLOEXEC, addSeals, getSeals].map {
        UInt64($0)
      })
    // sendfile(2) has no MSG_DONTWAIT: QEMU's display socket is made nonblocking, and no other flag
    // of an open file is changed.
    + [.both("fcntl", (1, F_SETFL), (2, O_RDWR | O_NONBLOCK))]
    // Files are only known by descriptor, and must not be asked whoever serves them.
    + [
      CallRule(
        name: "statx",
        conditions: [
          .init(
            argument: 2, mask: UInt64(atEmptyPath | atDoNotSync),
            value: UInt64(atEmptyPath | atDoNotSync))
        ])
    ]
    // lstat(2) of the sockets' paths at the end.
    + names("lstat", "newfstatat")

  /// unlink(2) of the sockets' paths at the end; Landlock says where. Nothing if it is not meant.
  private static func removing(_ isMeant: Bool) -> [CallRule] {
    isMeant ? names("unlink", "unlinkat") : []
  }

  /// Requests to udmabuf, userfaultfd, the page map, dma-bufs and their fences, and to DRM nodes
  /// that consumers bring. UFFDIO_API and the like are not among them: no second device can be
  /// set up.
  private static let devices: [CallRule] =
    names(
      // A dma-buf onto the number whose fdinfo is open.
      "dup3")
    + CallRule.each(
      "ioctl", argument: 1,
      in: [
        ph_REQUEST_UDMABUF_CREATE_LIST,
        ph_REQUEST_UFFDIO_REGISTER, ph_REQUEST_UFFDIO_UNREGISTER, ph_REQUEST_UFFDIO_CONTINUE,
        ph_REQUEST_UFFDIO_ZEROPAGE, ph_REQUEST_UFFDIO_COPY, ph_REQUEST_UFFDIO_WAKE,
        ph_REQUEST_PAGEMAP_SCAN,
        ph_REQUEST_DMA_BUF_EXPORT_SYNC_FILE, ph_REQUEST_DMA_BUF_IMPORT_SYNC_FILE,
        ph_REQUEST_SIOCOUTQ,
        ph_REQUEST_SYNC_FILE_INFO, ph_REQUEST_SYNC_MERGE,
        ph_REQUEST_SYNCOBJ_FD_TO_HANDLE, ph_REQUEST_SYNCOBJ_EVENTFD, ph_REQUEST_SYNCOBJ_DESTROY,
      ])

  /// Ending a thread or the process, in order or by abort(3), which must still be seen as such;
  /// handlers of SIGBUS, for guest memory that its owner truncated.
  private static func ending(_ pid: CInt) -> [CallRule] {
    names(
      // The listener's thread may still be starting when the filter comes.
      "rseq", "set_robust_list", "exit", "exit_group", "rt_sigreturn", "rt_sigprocmask",
      "rt_sigaction", "rt_sigpending", "sigaltstack",
      "getpid", "gettid", "geteuid", "getuid")
      // For a renderer's starter, with WNOHANG and nothing else: see ChildEnd.
      + [.with(1, masked: 0xffff_ffff, in: 2, "wait4")]
      + CallRule.each("tgkill", argument: 0, in: [UInt64(pid)])
      // The limit of open files of this process, around a receive.
      + [.both("prlimit64", (0, 0), (1, openFiles)), .both("prlimit64", (0, pid), (1, openFiles))]
      + CallRule.each("getrlimit", argument: 0, in: [UInt64(openFiles)])
      + CallRule.each("setrlimit", argument: 0, in: [UInt64(openFiles)])
  }

  /// libc looks for files and facts on its own, for instance to word an error; it copes with a
  /// no, and nobody should lose a guest's screen for it.
  static let guesses: [CallRule] =
    names(
      "open", "openat", "openat2", "access", "faccessat", "faccessat2", "stat", "readlink",
      "readlinkat", "getdents64", "getcwd", "uname", "sysinfo", "sched_getaffinity", "prctl",
      "membarrier")
    + [0, atEmptyPath, atDoNotSync].map {
      CallRule(
        name: "statx",
        conditions: [
          .init(argument: 2, mask: UInt64(atEmptyPath | atDoNotSync), value: UInt64($0))
        ])
    }
    + CallRule.each(
      "prlimit64", argument: 1, in: (0..<16).filter { $0 != UInt64(openFiles) })

  static func names(_ names: String...) -> [CallRule] { names.map { .any($0) } }

  // fcntl(2) F_LINUX_SPECIFIC_BASE + 9 and + 10, behind _GNU_SOURCE.
  private static let addSeals: CInt = 1033
  private static let getSeals: CInt = 1034
  private static let openFiles: CInt = 7  // RLIMIT_NOFILE
  private static let passRights: CInt = 83  // SO_PASSRIGHTS, Linux 6.16
  private static let atEmptyPath: CInt = 0x1000
  private static let atDoNotSync: CInt = 0x4000  // AT_STATX_DONT_SYNC
}
