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
  let refused: [String]

  /// What the daemon needs once its devices are open and its sockets listen.
  ///
  /// - Parameter ownPID: signals may go to this process alone.
  public static func serving(ownPID: CInt = getpid()) -> CallPolicy {
    CallPolicy(
      allowed: eventLoop + sockets + memory + files + devices + ending(ownPID), refused: guesses)
  }

  /// The event loop; its epoll and signal descriptors exist already, timers and events come with
  /// each connection.
  private static let eventLoop: [CallRule] = names(
    "epoll_wait", "epoll_pwait", "epoll_pwait2", "epoll_ctl", "poll", "ppoll", "read", "write",
    "readv", "writev", "close", "eventfd2", "timerfd_create", "timerfd_settime", "clock_gettime",
    "gettimeofday", "clock_nanosleep", "nanosleep", "sched_yield", "futex", "restart_syscall")

  /// Connections come out of the listening sockets or along with messages: no socket(2), bind(2)
  /// or connect(2). The display socket of a guest is one end of a pair that QEMU made.
  private static let sockets: [CallRule] = names(
    "accept4", "sendmsg", "recvmsg", "sendto", "recvfrom", "getsockopt", "setsockopt", "shutdown",
    "socketpair")

  /// Guest memory and the heap, never executable.
  private static let memory: [CallRule] =
    names("munmap", "mremap", "madvise", "brk", "getrandom") + [
      .without(PROT_EXEC, in: 2, "mmap"), .without(PROT_EXEC, in: 2, "mprotect"),
    ]

  /// Files that came as descriptors: guest memory, and the memfds that copies live in.
  private static let files: [CallRule] =
    names("fstat", "fstatfs", "ftruncate", "lseek", "pread64", "pwrite64", "memfd_create")
    + CallRule.each(
      "fcntl", argument: 1,
      in: [F_GETFD, F_SETFD, F_GETFL, F_SETFL, F_DUPFD_CLOEXEC, addSeals, getSeals].map {
        UInt64($0)
      })
    // lstat(2) and unlink(2) of the sockets' paths at the end; Landlock says where.
    + names("lstat", "newfstatat", "unlink", "unlinkat")

  /// Requests to udmabuf, userfaultfd, the page map, dma-bufs and their fences, and to DRM nodes
  /// that consumers bring. UFFDIO_API and the like are not among them: no second device can be
  /// set up.
  private static let devices: [CallRule] = CallRule.each(
    "ioctl", argument: 1,
    in: [
      ph_REQUEST_UDMABUF_CREATE_LIST,
      ph_REQUEST_UFFDIO_REGISTER, ph_REQUEST_UFFDIO_UNREGISTER, ph_REQUEST_UFFDIO_CONTINUE,
      ph_REQUEST_UFFDIO_ZEROPAGE, ph_REQUEST_UFFDIO_COPY, ph_REQUEST_UFFDIO_WAKE,
      ph_REQUEST_PAGEMAP_SCAN,
      ph_REQUEST_DMA_BUF_SYNC, ph_REQUEST_DMA_BUF_EXPORT_SYNC_FILE,
      ph_REQUEST_DMA_BUF_IMPORT_SYNC_FILE,
      ph_REQUEST_SYNC_FILE_INFO, ph_REQUEST_SYNC_MERGE,
      ph_REQUEST_SYNCOBJ_FD_TO_HANDLE, ph_REQUEST_SYNCOBJ_EVENTFD, ph_REQUEST_SYNCOBJ_DESTROY,
    ])

  /// Ending a thread or the process, in order or by abort(3), which must still be seen as such;
  /// handlers of SIGBUS, for guest memory that its owner truncated.
  private static func ending(_ pid: CInt) -> [CallRule] {
    names(
      // The listener's thread may still be starting when the filter comes.
      "rseq", "set_robust_list", "exit", "exit_group", "rt_sigreturn", "rt_sigprocmask",
      "rt_sigaction", "sigaltstack",
      "getpid", "gettid", "geteuid", "getuid")
      + CallRule.each("tgkill", argument: 0, in: [UInt64(pid)])
  }

  /// libc looks for files and facts on its own, for instance to word an error; it copes with a
  /// no, and nobody should lose a guest's screen for it.
  private static let guesses = [
    "open", "openat", "openat2", "access", "faccessat", "faccessat2", "stat", "statx", "readlink",
    "readlinkat", "getdents64", "getcwd", "uname", "sysinfo", "sched_getaffinity", "prlimit64",
    "prctl", "membarrier",
  ]

  private static func names(_ names: String...) -> [CallRule] { names.map { .any($0) } }

  // fcntl(2) F_LINUX_SPECIFIC_BASE + 9 and + 10, behind _GNU_SOURCE.
  private static let addSeals: CInt = 1033
  private static let getSeals: CInt = 1034
}
