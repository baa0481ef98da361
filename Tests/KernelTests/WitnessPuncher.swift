import Glibc
import GuestMemory
import Linux

/// Another process that discards and writes pages of a memfd.
final class Puncher {
  private enum What: UInt32 {
    case punch = 1
    case fill, remove, dontNeed, hammer, move
  }

  struct Failed: Error, CustomStringConvertible {
    let description: String
  }

  private let pid: pid_t
  private let socket: OwnedFD

  /// Starts the helper that was built beside this test.
  init(_ memfd: CInt, control: CInt? = nil) throws {
    let pair = try UnixSocket.Pair(.stream)
    var path = [CChar](repeating: 0, count: 4096)
    guard readlink("/proc/self/exe", &path, path.count - 1) > 0 else {
      throw Failed(description: "cannot find this test's own file")
    }
    let own = String(decoding: path.prefix { $0 != 0 }.map(UInt8.init(bitPattern:)), as: UTF8.self)
    let helper = own.split(separator: "/").dropLast().map { "/" + $0 }.joined() + "/puncher"
    var arguments = [helper, "/proc/\(getpid())/fd/\(memfd)"]
    if let control { arguments.append("/proc/\(getpid())/fd/\(control)") }
    var actions = posix_spawn_file_actions_t()
    posix_spawn_file_actions_init(&actions)
    defer { posix_spawn_file_actions_destroy(&actions) }
    posix_spawn_file_actions_adddup2(&actions, pair.second.raw, 0)
    posix_spawn_file_actions_adddup2(&actions, pair.second.raw, 1)
    var pointers: [UnsafeMutablePointer<CChar>?] = arguments.map { strdup($0) }
    defer { for pointer in pointers { free(pointer) } }
    pointers.append(nil)
    var pid: pid_t = 0
    let code = posix_spawn(&pid, helper, &actions, nil, pointers, environ)
    guard code == 0 else { throw Failed(description: "cannot start \(helper): \(code)") }
    self.pid = pid
    socket = try pair.first.duplicate()
  }

  deinit {
    kill(pid, SIGKILL)
    waitpid(pid, nil, 0)
  }

  func punch(_ span: PageSpan) throws { try ask(.punch, span) }
  func remove(_ span: PageSpan) throws { try ask(.remove, span) }
  func dropMapping(_ span: PageSpan) throws { try ask(.dontNeed, span) }
  func fill(_ span: PageSpan, _ byte: UInt8) throws { try ask(.fill, span, byte) }
  func move(_ span: PageSpan, toNode node: UInt8) throws { try ask(.move, span, node) }

  /// Starts punching single pages at random until ``finishHammer()``.
  func beginHammer(seed: UInt64, times: UInt64) throws {
    try send(.hammer, PageSpan(offset: seed, count: times), 0)
  }

  func finishHammer() throws { try receive() }

  private func ask(_ what: What, _ span: PageSpan, _ byte: UInt8 = 0) throws {
    try send(what, span, byte)
    try receive()
  }

  private func send(_ what: What, _ span: PageSpan, _ byte: UInt8) throws {
    var words: (UInt32, UInt32, UInt64, UInt64) = (
      what.rawValue, UInt32(byte), span.offset, span.count
    )
    _ = try withUnsafeBytes(of: &words) { try UnixSocket.send(socket.raw, $0) }
  }

  private func receive() throws {
    var answer: Int32 = -1
    var fds: [CInt] = []
    let got = try withUnsafeMutableBytes(of: &answer) {
      try UnixSocket.receive(socket.raw, into: $0, fds: &fds)
    }
    guard got.count == 4 else { throw Failed(description: "the puncher is gone") }
    guard answer == 0 else { throw Failed(description: "the puncher failed: errno \(answer)") }
  }
}

/// Numbers that look random and repeat for a seed (xorshift).
struct SeededNumbers: RandomNumberGenerator {
  let seed: UInt64
  private var state: UInt64

  /// A seed of today's, or the one of `PINHOLE_SEED`.
  init() {
    let given = getenv("PINHOLE_SEED").flatMap { UInt64(String(cString: $0)) }
    seed = given ?? Clock.now
    state = seed | 1
  }

  mutating func next() -> UInt64 {
    state ^= state << 13
    state ^= state >> 7
    state ^= state << 17
    return state &* 0x2545_f491_4f6c_dd1d
  }
}

/// Guest RAM in a memfd like QEMU's, with another process that has it too.
final class SharedRAM {
  static let page: UInt64 = 4096
  let file: GuestFile
  let puncher: Puncher
  let unit: UInt64

  init(pages: UInt64, hugePageSize: UInt64 = 0, control: CInt? = nil) throws {
    unit = hugePageSize == 0 ? Self.page : hugePageSize
    let fd = try MemFD.create(
      "ram", size: Int(pages * unit), hugePageSize: hugePageSize, seals: [.shrink, .grow, .seal])
    file = try GuestFile(fd)
    puncher = try Puncher(file.fd.raw, control: control)
  }

  /// A run of pages.
  func span(_ page: UInt64, _ count: UInt64 = 1) -> PageSpan {
    PageSpan(offset: page * unit, count: count * unit)
  }

  var bytes: UnsafeMutableRawBufferPointer {
    UnsafeMutableRawBufferPointer(
      start: file.pointer(at: 0, count: file.size), count: Int(file.size))
  }

  /// Writes as the guest does.
  func write(_ span: PageSpan, _ byte: UInt8) {
    guard let start = file.pointer(at: span.offset, count: span.count) else { return }
    memset(start, Int32(byte), Int(span.count))
  }
}

/// Where the kernel tells of its pool of huge pages of 2 MiB.
let hugePageFolder = "/sys/kernel/mm/hugepages/hugepages-2048kB/"

/// A number of that pool; nil where there is none.
func hugePageCount(_ name: String) -> Int? {
  WholeFile.text(hugePageFolder + name).flatMap { Int($0.filter(\.isNumber)) }
}

/// Free huge pages of 2 MiB; `echo 64 > /proc/sys/vm/nr_hugepages` makes some.
let freeHugePages = hugePageCount("free_hugepages") ?? 0
