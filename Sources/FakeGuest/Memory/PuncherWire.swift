import Glibc
import Linux

/// What is left in a page after it was discarded.
package enum Refill: Equatable, Sendable {
  /// The hole.
  case hole
  /// A ``PageStamp`` with this tag and the page's number in the file.
  case stamp(UInt64)
  /// One byte all over.
  case byte(UInt8)
  /// What was there before.
  case same
}

/// One order to the process that discards pages; both ends are this program.
struct PuncherCommand {
  enum Operation: UInt32 {
    case discard = 1
    case remove
    case rewrite
    case pages
    case storm
    case startStorm
    case stopStorm
  }

  var operation: Operation
  var refill = Refill.hole
  var offset: UInt64 = 0
  var count: UInt64 = 0
  var seed: UInt64 = 0

  static let size = 40

  init(
    _ operation: Operation, refill: Refill = .hole, offset: UInt64 = 0, count: UInt64 = 0,
    seed: UInt64 = 0
  ) {
    self.operation = operation
    self.refill = refill
    self.offset = offset
    self.count = count
    self.seed = seed
  }

  var bytes: [UInt8] {
    let (kind, value): (UInt32, UInt64) =
      switch refill {
      case .hole: (0, 0)
      case .stamp(let tag): (1, tag)
      case .byte(let byte): (2, UInt64(byte))
      case .same: (3, 0)
      }
    return WireBytes(u32: operation.rawValue, kind).bytes
      + WireBytes(u64: value, offset, count, seed).bytes
  }

  init?(_ bytes: [UInt8]) {
    guard let operation = Operation(rawValue: WireBytes.read(bytes, 0)) else { return nil }
    let value: UInt64 = WireBytes.read(bytes, 8)
    let refill: Refill
    switch WireBytes.read(bytes, 4, as: UInt32.self) {
    case 1: refill = .stamp(value)
    case 2: refill = .byte(UInt8(truncatingIfNeeded: value))
    case 3: refill = .same
    default: refill = .hole
    }
    self.init(
      operation, refill: refill, offset: WireBytes.read(bytes, 16),
      count: WireBytes.read(bytes, 24), seed: WireBytes.read(bytes, 32))
  }
}

/// Moves whole buffers through a blocking descriptor; false at its end.
enum WholeBuffer {
  static func write(_ fd: CInt, _ bytes: [UInt8]) -> Bool {
    var done = 0
    while done < bytes.count {
      let n = bytes.withUnsafeBytes { p in
        Glibc.send(
          fd, p.baseAddress.map { $0 + done }, bytes.count - done, CInt(MSG_NOSIGNAL))
      }
      if n < 0, errno == EINTR { continue }
      guard n > 0 else { return false }
      done += n
    }
    return true
  }

  static func read(_ fd: CInt, _ count: Int) -> [UInt8]? {
    var bytes = [UInt8](repeating: 0, count: count)
    var done = 0
    while done < count {
      let n = bytes.withUnsafeMutableBytes { p in
        Glibc.read(fd, p.baseAddress.map { $0 + done }, count - done)
      }
      if n < 0, errno == EINTR { continue }
      guard n > 0 else { return nil }
      done += n
    }
    return bytes
  }
}
