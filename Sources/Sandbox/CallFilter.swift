import CSeccomp
import Glibc
import Linux

/// A seccomp filter (seccomp(2)) made with libseccomp.
enum CallFilter {
  /// What becomes of a call that no rule names.
  enum Otherwise {
    /// The process dies with SIGSYS.
    case kill
    /// The kernel logs the call and lets it through, refused ones as well.
    case log
  }

  /// Applies a policy to all threads of this process, for good.
  static func install(_ policy: CallPolicy, otherwise: Otherwise) throws(Errno) {
    let last = otherwise == .kill ? killProcess : SCMP_ACT_LOG
    guard let filter = seccomp_init(last) else { throw Errno(ENOMEM, "seccomp_init") }
    defer { seccomp_release(filter) }
    // A rule for a call is looked up in a tree instead of along a list.
    _ = seccomp_attr_set(filter, SCMP_FLTATR_CTL_OPTIMIZE, 2)
    try checked(seccomp_attr_set(filter, SCMP_FLTATR_CTL_TSYNC, 1), "seccomp_attr_set(TSYNC)")
    try checked(
      seccomp_attr_set(filter, SCMP_FLTATR_ACT_BADARCH, killProcess), "seccomp_attr_set(BADARCH)")
    for rule in policy.allowed {
      try add(rule.name, SCMP_ACT_ALLOW, rule.conditions, to: filter)
    }
    if otherwise == .kill {
      for rule in policy.refused { try add(rule.name, refuse, rule.conditions, to: filter) }
    }
    for name in policy.absent { try add(name, deny, [], to: filter) }
    try checked(seccomp_load(filter), "seccomp_load")
  }

  private static let killProcess = UInt32(0x8000_0000)  // SCMP_ACT_KILL_PROCESS
  private static let refuse = UInt32(0x0005_0000) | UInt32(EACCES)  // SCMP_ACT_ERRNO(EACCES)

  private static let deny = UInt32(0x0005_0000) | UInt32(ENOSYS)  // SCMP_ACT_ERRNO(ENOSYS)

  private static func add(
    _ name: String, _ action: UInt32, _ conditions: [CallRule.Condition],
    to filter: scmp_filter_ctx
  ) throws(Errno) {
    let number = seccomp_syscall_resolve_name(name)
    // Not every architecture has every call, nor does every libseccomp know the newest.
    guard number >= 0 else { return }
    let comparisons = conditions.map {
      scmp_arg_cmp(arg: $0.argument, op: SCMP_CMP_MASKED_EQ, datum_a: $0.mask, datum_b: $0.value)
    }
    let result = comparisons.withUnsafeBufferPointer {
      seccomp_rule_add_array(filter, action, number, UInt32($0.count), $0.baseAddress)
    }
    try checked(result, "seccomp_rule_add")
  }

  private static func checked(_ result: CInt, _ call: StaticString) throws(Errno) {
    try check(result, call)
  }
}
