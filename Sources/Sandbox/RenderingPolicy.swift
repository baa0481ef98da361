import CLinux
import Glibc

extension CallPolicy {
  /// What libvirglrenderer and Mesa need once they have drawn for the first time, on llvmpipe or
  /// on the render node that is open by then.
  ///
  /// Memory may become executable: llvmpipe compiles shaders.
  ///
  /// - Parameters:
  ///   - ownPID: signals may go to this process alone.
  ///   - drivesNode: a render node is open: its requests are permitted.
  public static func rendering(ownPID: CInt = getpid(), drivesNode: Bool) -> CallPolicy {
    CallPolicy(
      allowed: messages + threads + bytes + buffers + (drivesNode ? node : [])
        + CallRule.each("tgkill", argument: 0, in: [UInt64(ownPID)]),
      refused: guesses.filter {
        !["prctl", "sched_getaffinity", "sysinfo", "statx", "prlimit64"].contains($0.name)
      }
        + names(
          "statx", "prlimit64", "setpriority", "sched_setscheduler", "getcpu", "sched_getscheduler",
          // By which Mesa compares descriptors of nodes: it can do without an answer.
          "sched_getparam", "kcmp"),
      absent: ["clone3"])
  }

  /// Its own socket, which it got, and waiting.
  private static let messages: [CallRule] = names(
    "poll", "ppoll", "sendmsg", "recvmsg", "read", "write", "close", "clock_gettime",
    "gettimeofday", "clock_nanosleep", "nanosleep", "restart_syscall")

  /// llvmpipe's workers: threads of this process and no other processes, hence clone(2) with
  /// CLONE_THREAD alone.
  private static let threads: [CallRule] =
    names(
      "futex", "rseq", "set_robust_list", "exit", "exit_group", "rt_sigreturn", "rt_sigprocmask",
      "rt_sigaction", "sigaltstack", "getpid", "gettid", "geteuid", "getuid", "sched_yield",
      "sched_getaffinity", "sched_setaffinity", "sysinfo")
    + [
      .with(0x1_0000, masked: 0x1_0000, in: 0, "clone"),
      // PR_SET_NAME and PR_SET_VMA (prctl(2)).
      .with(15, masked: 0xffff_ffff, in: 0, "prctl"),
      .with(0x5356_4d41, masked: 0xffff_ffff, in: 0, "prctl"),
    ]

  private static let bytes: [CallRule] = names(
    "mmap", "mprotect", "munmap", "mremap", "madvise", "brk", "getrandom")

  /// Memory for textures that are to be exported, made of memfds and the udmabuf device that Mesa
  /// has open, and events.
  ///
  /// ftruncate(2) could also make the guest's memory smaller, where that is not sealed: the daemon
  /// warns of such memory. fallocate(2) may take space and make no holes.
  private static let buffers: [CallRule] =
    names(
      "memfd_create", "ftruncate", "fstat", "lseek", "pread64", "pwrite64", "eventfd2")
    + CallRule.each("fallocate", argument: 1, in: [0])
    + CallRule.each(
      "fcntl", argument: 1,
      in: [F_GETFD, F_SETFD, F_GETFL, F_SETFL, F_DUPFD_CLOEXEC, 1033, 1034].map { UInt64($0) })
    + CallRule.each(
      "ioctl", argument: 1,
      in: [
        ph_REQUEST_UDMABUF_CREATE, ph_REQUEST_UDMABUF_CREATE_LIST, ph_REQUEST_DMA_BUF_SYNC,
        ph_REQUEST_DMA_BUF_EXPORT_SYNC_FILE, ph_REQUEST_DMA_BUF_IMPORT_SYNC_FILE,
        ph_REQUEST_SYNC_FILE_INFO, ph_REQUEST_SYNC_MERGE,
      ])

  /// Every request of DRM's, whose type is 'd' (drm/drm.h).
  private static let node: [CallRule] = [
    .with(UInt64(UInt8(ascii: "d")) << 8, masked: 0xff00, in: 1, "ioctl")
  ]
}
