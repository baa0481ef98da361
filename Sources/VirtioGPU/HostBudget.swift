/// Host memory that what a guest makes may take: pictures and lists of entries. Copies for
/// consumers are paid for apart, so that no consumer has the guest run out of it.
final class HostBudget {
  /// Bytes.
  let limit: UInt64
  /// Bytes that are taken at present.
  private(set) var used: UInt64 = 0
  /// Gives up something that is paid for and that nobody here needs; false where there is nothing.
  var onShortage: () -> Bool = { false }

  init(limit: UInt64) { self.limit = limit }

  /// Takes bytes for as long as the share lives; nil over budget.
  func take(_ bytes: UInt64) -> HostShare? {
    guard bytes <= limit else { return nil }
    while used > limit &- bytes { if !onShortage() { return nil } }
    used &+= bytes
    return HostShare(self, bytes)
  }

  fileprivate func giveBack(_ bytes: UInt64) { used &-= bytes }
}

/// A part of a ``HostBudget``, given back with its last holder.
final class HostShare {
  private let budget: HostBudget
  private let bytes: UInt64

  fileprivate init(_ budget: HostBudget, _ bytes: UInt64) {
    self.budget = budget
    self.bytes = bytes
  }

  deinit { budget.giveBack(bytes) }
}

/// What may run out.
enum Budget: String {
  case memory = "host memory (--max-host-memory)"
  case copies = "memory for copies (--max-copy-memory)"
  case resources = "resources (--max-resources)"
  case contexts = "3D contexts"
  case rendering = "memory for 3D (--render-memory)"
  case entries = "memory entries of a resource (--max-entries)"
}
