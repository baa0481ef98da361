import CLinux
import FakeGuest
import Glibc
import Linux
import PinholeFrames
import PinholeProtocol

/// What consumers and strangers do to a frame socket.
enum FrameAttacks {
  static let all = [
    Attack("a socket that lingers") { path, _ in
      let waiting = try WaitingSocket(lingering: 2)
      let end = try UnixSocket.connect(path, kind: .seqpacket)
      try send(end.raw, hello(), [waiting.raw])
      waiting.giveAway()
      usleep(20_000)
    },
    Attack("sockets that carry what lingers") { path, number in
      // Each keeps a closing thread for its time: a few, so that all comes back.
      guard number < 200 else {
        usleep(20_000)
        return
      }
      let waiting = try WaitingSocket(lingering: 2)
      let pair = try UnixSocket.Pair(.stream)
      try send(pair.second.raw, [1], [waiting.raw])
      waiting.giveAway()
      let end = try UnixSocket.connect(path, kind: .seqpacket)
      try send(end.raw, hello(), [pair.first.raw])
    },
    Attack("odd descriptors with each message") { path, number in
      let odd = Odd()
      let end = try UnixSocket.connect(path, kind: .seqpacket)
      if number % 3 > 0 { try send(end.raw, hello(features: .max >> 1)) }
      for type in 1...12 as ClosedRange<UInt32> {
        let body = [UInt8](repeating: UInt8(number & 1), count: 24)
        let count = Int(type) % (odd.all.count + 1)
        try send(end.raw, message(type, body), Array(odd.all.prefix(count)))
      }
    },
    Attack("what was sent before it was accepted") { path, _ in
      let odd = Odd()
      let end = try UnixSocket.connect(path, kind: .seqpacket)
      for _ in 0..<20 { try send(end.raw, hello(), odd.all) }
    },
    Attack("rubbish") { path, number in
      let end = try UnixSocket.connect(path, kind: .seqpacket)
      if number & 1 == 0 { try send(end.raw, hello()) }
      for _ in 0..<50 {
        let bytes = (0..<Int.random(in: 1...900)).map { _ in UInt8.random(in: 0...255) }
        try send(end.raw, bytes)
      }
    },
    Attack("half a message") { path, number in
      let end = try UnixSocket.connect(path, kind: .seqpacket)
      let whole = hello()
      try send(end.raw, Array(whole.prefix(1 + number % (whole.count - 1))))
      usleep(1000)
    },
    Attack("coming and going") { path, _ in
      _ = try FrameConsumer(path: path).next(timeout: 20)
    },
    Attack("no answers, and wishes") { path, number in
      let alignment = UInt32(1) << UInt32(number % 13)
      let consumers = try (0..<6).map { _ in
        try FrameConsumer(
          path: path, options: .init(strideAlignment: alignment, heightAlignment: alignment))
      }
      for consumer in consumers { while try consumer.next(timeout: 5) != nil {} }
      usleep(200_000)
    },
    Attack("never reading") { path, _ in
      let consumers = try (0..<6).map { _ in try FrameConsumer(path: path) }
      usleep(300_000)
      withExtendedLifetime(consumers) {}
    },
    Attack("messages without end") { path, _ in
      let end = try UnixSocket.connect(path, kind: .seqpacket)
      try send(end.raw, hello())
      // Optional messages that nobody knows are passed over.
      for _ in 0..<2000 { try send(end.raw, message(0x8000_7777, [0, 0, 0, 0])) }
    },
    Attack("a name that forges lines") { path, _ in
      let name = "x\n\u{1b}[31mpinhole: all is\u{7}\r"
      let consumer = try FrameConsumer(path: path, options: .init(name: name))
      _ = try consumer.next(timeout: 100)
      usleep(20_000)
    },
  ]

  static func message(_ type: UInt32, _ body: [UInt8]) -> [UInt8] {
    let header = pinhole_header(type: type, size: UInt32(8 + body.count))
    return withUnsafeBytes(of: header) { Array($0) } + body
  }

  static func hello(features: UInt64 = 0) -> [UInt8] {
    var hello = pinhole_consumer_hello()
    hello.header = pinhole_header(
      type: PINHOLE_CONSUMER_HELLO.rawValue,
      size: UInt32(MemoryLayout<pinhole_consumer_hello>.size))
    hello.magic = PINHOLE_MAGIC
    hello.min_version = PINHOLE_VERSION
    hello.max_version = PINHOLE_VERSION
    hello.features = features
    return withUnsafeBytes(of: hello) { Array($0) }
  }

  static func send(_ fd: CInt, _ bytes: [UInt8], _ fds: [CInt] = []) throws {
    _ = try bytes.withUnsafeBytes { try UnixSocket.send(fd, $0, fds: fds) }
  }
}

/// Descriptors of kinds that nobody asks for.
final class Odd {
  private(set) var all: [CInt] = []

  init() {
    var ends: [CInt] = [-1, -1]
    if pipe(&ends) == 0 { all += ends }
    all.append(epoll_create1(0))
    all.append(ph_eventfd(1))
    all.append(ph_memfd_create("odd", 0))
    all.append(open("/proc/self/status", O_RDONLY))
    all.append(open("/", O_RDONLY))
    all.append(open("/dev/null", O_RDWR))
    all.append(socket(AF_INET, CInt(SOCK_STREAM.rawValue), 0))
    all.append(socket(AF_UNIX, CInt(SOCK_DGRAM.rawValue), 0))
    all = all.filter { $0 >= 0 }
  }

  deinit { for fd in all { close(fd) } }
}
