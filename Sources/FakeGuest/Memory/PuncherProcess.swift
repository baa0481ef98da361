import CLinux
import Glibc
import Linux

/// The life of the process behind ``Puncher``.
package final class PuncherProcess {
  private static let removeAdvice: CInt = 9  // MADV_REMOVE
  private let file: CInt
  private let socket: CInt
  private let memory: Mapping
  private var pages: [UInt64] = []
  private var unit: UInt64 = 4096
  private var random = SeededRandom(seed: 0)

  /// - Parameters:
  ///   - file: the guest's memory, 3 where ``Puncher`` started us.
  ///   - socket: where orders come from, 4.
  package init(file: CInt = 3, socket: CInt = 4) throws(GuestError) {
    self.file = file
    self.socket = socket
    let facts = try doing("the guest's memory on descriptor \(file)") { () throws(Errno) in
      try FileFacts(of: file)
    }
    memory = try doing("the guest's memory") { () throws(Errno) in
      try Mapping(fd: file, offset: 0, count: Int(clamping: facts.size), writable: true)
    }
  }

  /// Serves orders until the other end closes.
  package func run() {
    while let bytes = WholeBuffer.read(socket, PuncherCommand.size) {
      guard let command = PuncherCommand(bytes) else { return }
      if command.operation == .startStorm {
        guard answer(0), let count = storm(command), answer(count) else { return }
      } else {
        guard let result = serve(command), answer(result) else { return }
      }
    }
  }

  private func answer(_ result: Int64) -> Bool {
    WholeBuffer.write(socket, WireBytes(u64: UInt64(bitPattern: result)).bytes)
  }

  /// Carries out one order; nil when the other end is gone.
  private func serve(_ command: PuncherCommand) -> Int64? {
    switch command.operation {
    case .discard: return discard(command.offset, command.count, command.refill, advise: false)
    case .remove: return discard(command.offset, command.count, command.refill, advise: true)
    case .rewrite:
      guard inside(command.offset, command.count) else { return -Int64(EINVAL) }
      fill(command.offset, command.count, command.refill, old: [])
      return 0
    case .pages:
      guard command.count < 1 << 20, command.offset > 0,
        let list = WholeBuffer.read(socket, Int(command.count) * 8)
      else { return nil }
      unit = command.offset
      pages = (0..<Int(command.count)).map { WireBytes.read(list, $0 * 8) }
      return 0
    case .storm:
      random = SeededRandom(seed: command.seed)
      for _ in 0..<command.count {
        let result = discardOne(command.refill)
        guard result >= 0 else { return result }
      }
      return Int64(command.count)
    case .startStorm, .stopStorm: return 0
    }
  }

  /// Discards until an order comes; it must be to stop.
  private func storm(_ command: PuncherCommand) -> Int64? {
    random = SeededRandom(seed: command.seed)
    var count: Int64 = 0
    while !waitReadable([socket], milliseconds: 0)[0] {
      let result = discardOne(command.refill)
      guard result >= 0 else { break }
      count += 1
      if command.count > 0 { usleep(UInt32(clamping: command.count)) }
    }
    guard let bytes = WholeBuffer.read(socket, PuncherCommand.size),
      PuncherCommand(bytes)?.operation == .stopStorm
    else { return nil }
    return count
  }

  private func discardOne(_ refill: Refill) -> Int64 {
    guard let page = pages.randomElement(using: &random) else { return -Int64(EINVAL) }
    return discard(page, unit, refill, advise: random.next() & 7 == 0)
  }

  private func inside(_ offset: UInt64, _ count: UInt64) -> Bool {
    let size = UInt64(memory.count)
    return count > 0 && offset < size && count <= size - offset
  }

  private func discard(
    _ offset: UInt64, _ count: UInt64, _ refill: Refill, advise: Bool
  ) -> Int64 {
    guard inside(offset, count) else { return -Int64(EINVAL) }
    var old: [UInt8] = []
    if refill == .same {
      old = [UInt8](UnsafeRawBufferPointer(start: memory.base + Int(offset), count: Int(count)))
    }
    do throws(Errno) {
      if advise {
        try memory.advise(Self.removeAdvice, offset: Int(offset), count: Int(count))
      } else {
        try MemFD.punchHole(file, offset: offset, count: count)
      }
    } catch { return -Int64(error.code) }
    fill(offset, count, refill, old: old)
    return 0
  }

  private func fill(_ offset: UInt64, _ count: UInt64, _ refill: Refill, old: [UInt8]) {
    let start = memory.base + Int(offset)
    switch refill {
    case .hole: break
    case .byte(let byte): memset(start, CInt(byte), Int(count))
    case .same:
      old.withUnsafeBytes {
        if let bytes = $0.baseAddress { start.copyMemory(from: bytes, byteCount: $0.count) }
      }
    case .stamp(let tag):
      for page in 0..<(count / 4096) {
        PageStamp.write(start + Int(page) * 4096, tag: tag, number: offset / 4096 + page)
      }
    }
  }
}
