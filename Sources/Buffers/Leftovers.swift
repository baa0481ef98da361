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

/// Guest pages that nobody is shown any more, and that others may still hold: they count as pinned
/// until our own descriptor of their dma-buf is the last.
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
    let pin: Pin
    let name: String
    let size: UInt64
    let since: UInt64
    let recipients: [Recipient]
    var isNamed = false
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
  func take(_ fd: SharedFD, _ pin: Pin, name: String, size: UInt64, from recipients: [Recipient]) {
    guard let holders, let others = holders.others(of: fd.raw), others > 0 else { return }
    items.append(
      Item(fd: fd, pin: pin, name: name, size: size, since: Clock.now, recipients: recipients))
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
        if item.isNamed { for each in item.recipients { each.keptBytes -= item.size } }
        continue
      }
      if !item.isNamed, now &- item.since > Self.patience {
        item.isNamed = true
        name(item)
      }
      left.append(item)
    }
    items += left
    if items.isEmpty { timer?.disarm() }
  }

  private func name(_ item: Item) {
    for each in item.recipients { each.keptBytes += item.size }
    let who = item.recipients.map(\.label).joined(separator: " or ")
    log.warning(
      """
      \(item.size) bytes of guest memory stay pinned: \(who.isEmpty ? "somebody" : who) still has \
      buffer \(item.name), which was taken back, and gets copies until it lets go
      """)
  }
}
