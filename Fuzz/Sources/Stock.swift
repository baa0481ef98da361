import Buffers
import CLinux
import Glibc
import GuestMemory
import Linux
import Logging

/// What all inputs share: descriptors that stay open, and guest memory.
enum Stock {
  /// Bytes of guest memory.
  static let guestSize = 1 << 20
  /// A sealed memfd as QEMU's guest memory.
  nonisolated(unsafe) private(set) static var guest = -1 as CInt
  /// The same, mapped.
  nonisolated(unsafe) private(set) static var memory = UnsafeMutableRawBufferPointer(
    start: nil, count: 0)
  /// Eventfds: two kicks, an interrupt, an error.
  nonisolated(unsafe) private(set) static var events: [CInt] = []
  /// Notices discards, where this machine has userfaultfd.
  nonisolated(unsafe) private(set) static var keeper: Result<WitnessKeeper, WitnessError> =
    .failure(.noUserfaultfd(Errno(ENOSYS, "userfaultfd")))
  /// Hands out the guest's memory in place of dma-bufs.
  nonisolated(unsafe) private(set) static var udmabuf: Result<UdmabufDevice, CopyReason> =
    .failure(.noDevice)

  static func prepare() {
    do {
      let file = try MemFD.create("fuzz-guest", size: guestSize, seals: [.shrink, .grow])
      guard let base = mmap(nil, guestSize, PROT_READ | PROT_WRITE, MAP_SHARED, file.raw, 0) else {
        return
      }
      memory = UnsafeMutableRawBufferPointer(start: base, count: guestSize)
      guest = file.release()
      for _ in 0..<4 { events.append(try check(ph_eventfd(0), "eventfd")) }
      keeper = Result { () throws(WitnessError) in try WitnessKeeper(detector: nil, device: nil) }
      let device = UdmabufDevice(adopting: try OwnedFD.duplicate(of: guest), limits: .usual)
      device.substitute = { _ throws(Errno) in try OwnedFD.duplicate(of: guest) }
      udmabuf = .success(device)
    } catch {
      claim(false, "cannot prepare: \(error)")
    }
  }

  /// Guest memory full of zeros and silent eventfds.
  static func clean(_ count: Int = guestSize) {
    if let base = memory.baseAddress { memset(base, 0, count) }
    for event in events { _ = ph_drain(event) }
  }

  static func write(_ bytes: [UInt8], at offset: Int) {
    guard offset >= 0, offset <= memory.count else { return }
    let room = UnsafeMutableRawBufferPointer(rebasing: memory[offset...])
    room.copyBytes(from: bytes.prefix(room.count))
  }

  static func u16(at offset: Int) -> UInt16 {
    memory.loadUnaligned(fromByteOffset: offset, as: UInt16.self)
  }

  /// A logger whose messages are made and thrown away.
  static var log: Logger { Logger(label: "fuzz") { _ in Discard() } }
}

/// Evaluates every message and keeps none.
private struct Discard: LogHandler {
  var metadata: Logger.Metadata = [:]
  var logLevel: Logger.Level = .trace
  subscript(metadataKey key: String) -> Logger.Metadata.Value? {
    get { metadata[key] }
    set { metadata[key] = newValue }
  }
  func log(event: LogEvent) { claim(!"\(event.message)".isEmpty, "an empty line in the log") }
}

/// Counts what an input may leave behind.
enum OpenFiles {
  nonisolated(unsafe) private static var polls = (0..<512).map {
    pollfd(fd: CInt($0), events: 0, revents: 0)
  }
  nonisolated(unsafe) private static var mappings: Int?

  /// How many of the first descriptors are open.
  static func count() -> Int {
    _ = poll(&polls, nfds_t(polls.count), 0)
    return polls.count { $0.revents & Int16(POLLNVAL) == 0 }
  }

  /// Mappings of memfds must not become more.
  static func checkMappings() {
    let now = countMappings()
    if let mappings { claim(now <= mappings, "\(mappings) memfds were mapped, now \(now) are") }
    mappings = mappings ?? now
  }

  private static func countMappings() -> Int {
    guard let file = fopen("/proc/self/maps", "r") else { return 0 }
    defer { fclose(file) }
    var line = [CChar](repeating: 0, count: 4096)
    var count = 0
    while fgets(&line, CInt(line.count), file) != nil {
      if strstr(line, "memfd:") != nil { count += 1 }
    }
    return count
  }
}

/// A descriptor for a message, kept open until the message is out.
enum Gift {
  /// Kinds of descriptors that somebody may send.
  static let kinds = 14

  /// Adds one of a kind; what has to be closed after sending goes to `owned`.
  static func add(_ kind: UInt8, to fds: inout [CInt], owned: inout [CInt]) throws {
    func give(_ fd: consuming OwnedFD) {
      let raw = fd.release()
      fds.append(raw)
      owned.append(raw)
    }
    switch Int(kind) % kinds {
    case 0: fds.append(Stock.guest)
    case 1...4: fds.append(Stock.events[Int(kind) % kinds - 1])
    case 5: try pair(.stream, keepsBoth: true, &fds, &owned)
    case 6: try pair(.stream, keepsBoth: false, &fds, &owned)
    case 7: try pair(.seqpacket, keepsBoth: true, &fds, &owned)
    case 8: give(try OwnedFD.open("/dev/null", O_RDWR))
    case 9: give(try OwnedFD.open("/", O_RDONLY | O_DIRECTORY))
    case 10: give(try MemFD.create("fuzz-odd", size: 5000))
    case 11: give(try copy(4096))
    case 12: give(try copy(65536))
    default: give(try MemFD.create("fuzz-empty", size: 0))
    }
  }

  /// What a producer sends: sealed, and full of something.
  private static func copy(_ size: Int) throws -> OwnedFD {
    let file = try MemFD.create("fuzz-copy", size: size)
    try MemFD.add([.shrink, .grow, .write, .seal], to: file.raw)
    return file
  }

  private static func pair(
    _ kind: UnixSocket.Kind, keepsBoth: Bool, _ fds: inout [CInt], _ owned: inout [CInt]
  ) throws {
    let pair = try UnixSocket.Pair(kind)
    var ends: (CInt, CInt) = (-1, -1)
    pair.split { ends = ($0.release(), $1.release()) }
    fds.append(ends.0)
    owned.append(ends.0)
    if keepsBoth { owned.append(ends.1) } else { close(ends.1) }
  }
}

/// One end of a socket pair that the harness speaks through.
final class Peer {
  private var raw: CInt
  private var owned: [CInt] = []

  init(_ socket: consuming OwnedFD) { raw = socket.release() }
  deinit { close() }

  var isOpen: Bool { raw >= 0 }

  func close() {
    if raw >= 0 { _ = Glibc.close(raw) }
    raw = -1
    for fd in owned { _ = Glibc.close(fd) }
    owned = []
  }

  func shutWriting() { if raw >= 0 { _ = shutdown(raw, CInt(SHUT_WR)) } }

  /// Sends what the socket takes, with descriptors of these kinds.
  func send(_ bytes: [UInt8], gifts: [UInt8] = []) throws {
    guard raw >= 0, !bytes.isEmpty else { return }
    var fds: [CInt] = []
    for gift in gifts { try Gift.add(gift, to: &fds, owned: &owned) }
    bytes.withUnsafeBytes { _ = try? UnixSocket.send(raw, $0, fds: fds, dontWait: true) }
  }

  /// Receives once; nil at the end or when there is nothing. Descriptors are closed.
  func receive(limit: Int = 65536) -> (bytes: [UInt8], fds: Int)? {
    guard raw >= 0 else { return nil }
    var fds: [CInt] = []
    defer { for fd in fds { _ = Glibc.close(fd) } }
    var count = 0
    let bytes = [UInt8](unsafeUninitializedCapacity: limit) { room, used in
      let got = try? UnixSocket.receive(
        raw, into: UnsafeMutableRawBufferPointer(room), fds: &fds, maxFDs: 16, dontWait: true)
      used = got?.count ?? 0
      count = used
    }
    return count > 0 ? (bytes, fds.count) : nil
  }

  /// Up to seven kinds of descriptors out of an input.
  static func gifts(_ input: inout Input) -> [UInt8] {
    (0..<Int(input.u8() & 7)).map { _ in input.u8() }
  }
}
