/// Host memory that what a guest makes may take: pictures and lists of entries. Copies for
/// consumers are paid for apart, so that no consumer has the guest run out of it.
final class HostBudget {
  /// Bytes.
  let limit: UInt64
  /// Bytes that are taken at present.
  private(set) var used: UInt64 = 0
  /// Each gives up something that is paid for and that nobody here needs, the first first, before
  /// anything is refused; false where it has nothing left.
  var givers: [() -> Bool] = []
  /// Files that pictures are in at present.
  private var files = 0

  /// Most of them: each takes a descriptor.
  static let mostFiles = 64

  init(limit: UInt64) { self.limit = limit }

  /// Whether bytes could be taken now.
  func hasRoom(_ bytes: UInt64) -> Bool { used <= limit && bytes <= limit &- used }

  /// Takes bytes for as long as the share lives; nil over budget.
  func take(_ bytes: UInt64) -> HostShare? {
    guard bytes <= limit else { return nil }
    while !hasRoom(bytes) { guard givers.contains(where: { $0() }) else { return nil } }
    return takeSpare(bytes)
  }

  /// The same for what can be done without: nobody has to give anything back for it.
  func takeSpare(_ bytes: UInt64) -> HostShare? {
    guard hasRoom(bytes) else { return nil }
    used &+= bytes
    return HostShare(self, bytes)
  }

  /// The right to have a file for as long as it lives; nil when there are enough.
  func takeFile() -> HostFile? { files < Self.mostFiles ? HostFile(self) : nil }

  fileprivate func giveBack(_ bytes: UInt64) { used &-= bytes }
  fileprivate func count(_ change: Int) { files += change }
}

/// One of the files of a ``HostBudget``.
final class HostFile {
  private let budget: HostBudget

  fileprivate init(_ budget: HostBudget) {
    self.budget = budget
    budget.count(1)
  }

  deinit { budget.count(-1) }
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
