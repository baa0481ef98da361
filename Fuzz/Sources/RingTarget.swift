import GuestMemory
import Linux
import Virtqueue

/// A driver that writes anything into its ring, its tables and its buffers.
enum RingTarget {
  /// Where things lie in guest memory, which is two regions of one file.
  enum Place {
    static let descriptors = 0
    static let available = 0x1000
    static let used = 0x2000
    static let tables = 0x3000
    static let half = 0x8000
    static let end = 0x10000
    static let secondGuestAddress: UInt64 = 0x10_0000
    static let user: UInt64 = 0x7f00_0000_0000
  }

  enum Step: UInt8, CaseIterable {
    case pop
    case popAndAnswer
    case push
    case pushTwice
    case notify
    case silence
    /// The driver publishes so many more.
    case offer
    /// Offset, byte.
    case poke
    case removeMemory
    case addMemory
  }

  static func run(_ input: consuming Input) throws {
    var input = input
    Stock.clean(Place.end)
    let bench = try Bench(&input)
    guard let bench else { return }
    for _ in 0..<512 where !input.isEmpty { try bench.step(&input) }
    bench.finish()
  }

  final class Bench {
    private let memory: GuestMemory
    private let queue: Virtqueue
    private let size: UInt16
    private var held: [DescriptorChain] = []
    private var popped = 0
    private var pushed = 0
    private let usedPlace: Int
    private let usedAtStart: UInt16

    /// Flags, size, index, a script's start; nil where the ring is refused.
    init?(_ input: inout Input) throws {
      memory = GuestMemory()
      let flags = input.u8()
      let log = UInt16(input.u8())
      size = log < 9 ? 1 << log : log
      let base = input.u16()
      let shift = flags & 8 != 0 ? Int(input.u8()) : 0
      let user = Place.user &+ UInt64(shift)
      usedPlace = Place.used + shift
      for place in [Place.descriptors, Place.available, Place.used, Place.tables] {
        Stock.write(
          Array(input.take(Int(input.u16())).prefix(Place.end - place)), at: place)
      }
      try Self.add(first: true, to: memory)
      try Self.add(first: false, to: memory)
      // A driver that starts in the middle has published up to there.
      if flags & 4 == 0 { Stock.write(Self.bytes(base), at: usedPlace + 2) }
      usedAtStart = Stock.u16(at: usedPlace + 2)
      let addresses = RingAddresses(
        descriptors: user, available: user &+ UInt64(Place.available),
        used: user &+ UInt64(Place.used))
      do throws(RingError) {
        queue = try Virtqueue(
          index: 1, size: size, addresses: addresses, memory: memory, nextAvailable: base,
          indirect: flags & 1 != 0, eventIndex: flags & 2 != 0)
      } catch {
        claim(!"\(error)".isEmpty, "an error without words")
        return nil
      }
    }

    private static func bytes(_ value: UInt16) -> [UInt8] {
      [UInt8(truncatingIfNeeded: value), UInt8(truncatingIfNeeded: value >> 8)]
    }

    private static func region(first: Bool) -> MemoryRegion {
      let half = UInt64(Place.half)
      return MemoryRegion(
        guestAddress: first ? 0 : Place.secondGuestAddress, size: half,
        userAddress: Place.user &+ (first ? 0 : half), fileOffset: first ? 0 : half)
    }

    private static func add(first: Bool, to memory: GuestMemory) throws {
      try memory.add(region(first: first), SharedFD(try OwnedFD.duplicate(of: Stock.guest)))
    }

    func step(_ input: inout Input) throws {
      switch Step(rawValue: input.u8() % UInt8(Step.allCases.count)) {
      case .pop: pop { held.append($0) }
      case .popAndAnswer: pop { answer($0, written: UInt32(input.u8())) }
      case .push:
        guard !held.isEmpty else { return }
        answer(held.remove(at: Int(input.u8()) % held.count), written: input.number())
      case .pushTwice:
        guard let chain = held.popLast() else { return }
        answer(chain, written: 4)
        queue.push(chain, written: 4)
        check()
      case .notify: _ = queue.shouldNotify()
      case .silence:
        queue.disableNotifications()
        _ = queue.enableNotifications()
      case .offer:
        let index = Stock.u16(at: Place.available + 2) &+ UInt16(input.u8())
        Stock.write(Self.bytes(index), at: Place.available + 2)
      case .poke:
        let offset = Int(input.u16())
        // The used ring is the device's; the driver's hands are off it.
        guard !(Place.used..<Place.tables).contains(offset) else { return }
        Stock.write([input.u8()], at: offset)
      case .removeMemory: try? memory.remove(Self.region(first: input.flag()))
      case .addMemory, nil: try? Self.add(first: input.flag(), to: memory)
      }
      claim(queue.inFlight == held.count, "\(queue.inFlight) in flight, \(held.count) are kept")
    }

    private func pop(_ body: (DescriptorChain) -> Void) {
      let before = queue.nextAvailable
      do throws(RingError) {
        guard let chain = try queue.pop() else { return }
        popped += 1
        claim(queue.nextAvailable == before &+ 1, "a pop took more than one")
        claim(chain.head < size, "head \(chain.head) is outside the ring")
        judge(chain.readable, chain.readableCount)
        judge(chain.writable, chain.writableCount)
        body(chain)
      } catch {
        claim(!"\(error)".isEmpty, "an error without words")
        claim(queue.nextAvailable == before, "a failed pop took one")
      }
    }

    private func judge(_ ranges: [FileRange], _ count: Int) {
      var sum = 0
      for range in ranges {
        claim(range.end <= range.file.size, "a buffer passes the end of its file")
        sum += Int(range.count)
      }
      claim(sum == count, "\(sum) bytes in \(count)")
    }

    private func answer(_ chain: DescriptorChain, written: UInt32) {
      var bytes = [UInt8](repeating: 0, count: min(chain.readableCount, 4096))
      let got = bytes.withUnsafeMutableBytes { chain.read(into: $0, offset: 1) }
      claim(got <= bytes.count, "more was read than asked for")
      _ = bytes.withUnsafeBytes { chain.write($0, offset: 3) }
      let isAlive = queue.failure == nil
      queue.push(chain, written: written)
      if isAlive, queue.failure == nil { pushed += 1 }
      check()
    }

    /// Every request is answered at most once. Answers are the last thing written, so that a
    /// buffer which lies over the ring does not hide them.
    private func check() {
      claim(pushed <= popped, "\(pushed) answers to \(popped) requests")
      guard queue.failure == nil else { return }
      let used = Stock.u16(at: usedPlace + 2)
      claim(
        used == nextUsed,
        "the used index is \(used) after \(pushed) answers from \(usedAtStart)")
    }

    private var nextUsed: UInt16 { usedAtStart &+ UInt16(truncatingIfNeeded: pushed) }

    func finish() {
      for chain in held { queue.push(chain, written: 0) }
      held = []
      claim(queue.inFlight == 0, "\(queue.inFlight) in flight at the end")
    }
  }
}
