import Linux
import Logging
import Pixels

/// A process that buffers are given to, as far as one knows it.
///
/// Belongs to one thread.
public final class Recipient {
  /// How logs call it.
  public var label: String
  /// Bytes of guest pages that nobody is shown any more and that it may still hold: it is given no
  /// others until it has let go of these.
  public internal(set) var keptBytes: UInt64 = 0

  /// Names somebody.
  public init(_ label: String) { self.label = label }

  /// Whether it may still have what it was to let go.
  public var keepsPages: Bool { keptBytes > 0 }
}

/// Who was given a generation of a buffer, and who says that he closed it: known for longer than the
/// buffer itself, since some say so late.
///
/// Belongs to one thread.
public final class Recipients {
  /// Those who have not said that they closed it; and those who have.
  private var holders: [Recipient] = []
  private var closers: [Recipient] = []

  /// Nobody yet.
  public init() {}

  /// Whoever may still have it. Those who said that they closed it come last: who left without a
  /// word, or did not answer, is likelier to have it.
  var suspects: [Recipient] { holders.isEmpty ? closers : holders }

  /// Somebody was sent the descriptor.
  public func given(to recipient: Recipient) {
    guard !holders.contains(where: { $0 === recipient }) else { return }
    closers.removeAll { $0 === recipient }
    holders.append(recipient)
  }

  /// Somebody says that he closed it, in time or late.
  public func closed(by recipient: Recipient) {
    guard let index = holders.firstIndex(where: { $0 === recipient }) else { return }
    closers.append(holders.remove(at: index))
  }
}

/// Guest pages that nobody is shown any more, and that others may still hold: they count as pinned
/// until our own descriptor of their dma-buf is the last. The same for what a renderer draws into,
/// which is paid for with the guest's host memory.
///
/// Whoever has a dma-buf keeps its pages from the guest and the host, and no call takes it back.
/// What it cannot do is to let that go unnoticed, or to have more.
public final class Leftovers {
  /// Nanoseconds that others may take to let go, for instance a GPU, before they are named.
  public static let patience: UInt64 = 1_000_000_000
  /// Most dma-bufs; while there are so many no other is made.
  public static let most = 256
  private static let interval: UInt64 = 250_000_000
  /// Looked at in one go.
  private static let batch = 64

  private struct Item {
    let fd: SharedFD
    /// What is given back with this item's end.
    let charge: AnyObject
    let name: String
    let size: UInt64
    let since: UInt64
    let recipients: Recipients
    /// Those who were named; nil before anybody was.
    var named: [Recipient]?
  }

  private let holders: DmaBufHolders?
  private let log: Logger
  private var items: [Item] = []
  private var timer: LoopTimer?

  /// - Parameter holders: nil where nothing tells who has a dma-buf: they are let go at once.
  public init(_ holders: DmaBufHolders?, on loop: EventLoop, log: Logger) {
    self.holders = holders
    self.log = log
    timer = LoopTimer(on: loop) { [unowned self] in look() }
  }

  /// How many there are.
  public var count: Int { items.count }

  var isFull: Bool { items.count >= Self.most }

  /// Keeps what others still have.
  ///
  /// - Parameter charge: what the memory was paid with.
  func take(
    _ fd: SharedFD, _ charge: AnyObject, name: String, size: UInt64, from recipients: Recipients
  ) {
    guard let holders, let others = holders.others(of: fd.raw), others > 0 else { return }
    items.append(
      Item(
        fd: fd, charge: charge, name: name, size: size, since: Clock.now, recipients: recipients))
    if timer?.isArmed == false { timer?.arm(after: Self.interval / 8, every: Self.interval) }
  }

  private func look() {
    let now = Clock.now
    var left: [Item] = []
    // Those that were looked at go to the end of the queue.
    let turn = items.prefix(Self.batch)
    items.removeFirst(turn.count)
    for var item in turn {
      if holders?.others(of: item.fd.raw) ?? 0 == 0 {
        for each in item.named ?? [] { each.keptBytes &-= item.size }
        continue
      }
      if now &- item.since > Self.patience { name(&item) }
      left.append(item)
    }
    items += left
    if items.isEmpty { timer?.disarm() }
  }

  /// Names those who may have it, again where somebody has said since that it is not him.
  private func name(_ item: inout Item) {
    let suspects = item.recipients.suspects
    if let named = item.named {
      guard !named.elementsEqual(suspects, by: { $0 === $1 }) else { return }
      for each in named { each.keptBytes &-= item.size }
    }
    item.named = suspects
    for each in suspects { each.keptBytes &+= item.size }
    let who = suspects.map(\.label).joined(separator: " or ")
    let what = item.charge is Pin ? "guest memory stay pinned" : "host memory stay taken"
    log.warning(
      """
      \(item.size) bytes of \(what): \(who.isEmpty ? "somebody" : who) still has \
      buffer \(item.name), which was taken back, and gets copies until it lets go
      """)
  }
}
