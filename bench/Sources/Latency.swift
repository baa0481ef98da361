import FakeGuest
import Glibc
import Linux

/// How long a guest's picture is on its way: from the kick to the consumer's FRAME, and to the
/// guest's answer.
struct Latency {
  let pinhole: String
  let rounds: Int
  let frames: Int
  let givesRatios: Bool

  private static let shares = [0.5, 0.99, 0.999]

  func run(into directory: String) throws(GuestError) {
    let ways: [(name: String, way: any Way)] = [
      ("Pinhole", try PinholeWay(pinhole)),
      ("a bare eventfd and sendmsg", try BareWay()),
    ]
    var trips = [[Trip]](repeating: [], count: ways.count)
    try Turns(rounds: rounds, frames: frames).take("latency", ways.indices) {
      (index, counts) throws(GuestError) in
      for _ in 0..<frames {
        let trip = try ways[index].way.frame()
        if counts { trips[index].append(trip) }
        // Both ends sleep in between, as they do at a display's pace.
        usleep(1000)
      }
    }
    var table = Table(
      title: "Latency: microseconds from the guest's kick",
      columns: ["to"] + ways.flatMap { way in Self.names.map { "\(way.name), \($0)" } }
        + (givesRatios ? Self.names.map { "ratio, \($0)" } : []))
    for (name, part) in [
      ("the consumer's FRAME", \Trip.frame), ("the fenced answer", \Trip.answer),
    ] {
      let columns = trips.map { trips in percentiles(trips.map { $0[keyPath: part] }, Self.shares) }
      var cells = [name] + columns.flatMap { $0.map { decimal($0 / 1000, 1) } }
      if givesRatios {
        cells += zip(columns[0], columns[1]).map { decimal($0 / max($1, 1), 2) + "x" }
      }
      table.rows.append(cells)
    }
    let text = table.markdown(
      Machine.header + [
        "\(rounds) turns of \(frames) frames each, interleaved, 1 ms of rest after each",
        "pictures of 64x64 pixels: \(Machine.hasUdmabuf ? "the guest's own pages" : "copies, since there is no /dev/udmabuf")",
      ])
    try save(text, as: "\(directory)/latency.md")
    print(text)
  }

  private static let names = ["p50", "p99", "p99.9"]
}

/// Nanoseconds that one frame took.
struct Trip {
  var frame: Double
  var answer: Double
}

/// Something that brings a consumer a frame and the guest an answer.
protocol Way: AnyObject {
  func frame() throws(GuestError) -> Trip
}

/// When the newest frame came in, noted by the consumer's thread.
final class Arrivals: Sendable {
  private let state = Locked<(count: Int, copies: Int, last: UInt64)>((0, 0, 0))

  func note(isCopy: Bool = false) {
    let now = Clock.now
    state.withLock { $0 = ($0.count + 1, $0.copies + (isCopy ? 1 : 0), now) }
  }

  /// How many of the frames were copies of the guest's pages.
  var copies: Int { state.withLock { $0.copies } }

  /// Waits for a frame by its number and says when it came.
  func time(of number: Int) throws(GuestError) -> UInt64 {
    let deadline = Clock.now + 5_000_000_000
    while true {
      let now = state.withLock { $0 }
      if now.count >= number { return now.last }
      guard Clock.now < deadline else { throw .timedOut("frame \(number) at the consumer") }
      usleep(20)
    }
  }
}

/// Through Pinhole: a guest that flips between two blobs, and a consumer that answers at once.
private final class PinholeWay: Way {
  private let serving: Serving
  private let driver: GPUDriver
  private let buffers: [Framebuffer]
  private let reader: ConsumerThread
  private var count = 0

  init(_ pinhole: String) throws(GuestError) {
    serving = try Serving(.consumers(pinhole))
    driver = try GPUDriver(try serving.connect(try GuestRAM(size: 16 << 20)))
    var buffers: [Framebuffer] = []
    for id in [1, 2] as [UInt32] {
      buffers.append(try Framebuffer(driver, resource: id, width: 64, height: 64, kind: .blob))
    }
    self.buffers = buffers
    reader = try ConsumerThread(serving.frames)
  }

  func frame() throws(GuestError) -> Trip {
    count += 1
    let buffer = buffers[count % 2]
    let commands = [
      buffer.showCommand(),
      GPUCommand.flush(buffer.resource, buffer.bounds).fenced(UInt64(count)),
    ]
    let start = Clock.now
    try driver.perform(together: commands)
    let answered = Clock.now
    let came = try reader.arrivals.time(of: count)
    return Trip(frame: Double(came - start), answer: Double(answered - start))
  }
}

/// The least that two hops can cost: a process that waits for an eventfd, sends a message with a
/// descriptor, and signals another eventfd.
private final class BareWay: Way {
  private let kick: SharedFD
  private let answer: SharedFD
  private let arrivals = Arrivals()
  private let child: ChildProcess
  private let socket: SharedFD
  private var thread: Thread?
  private var count = 0

  init() throws(GuestError) {
    let pair: UnixSocket.Pair
    do throws(Errno) {
      kick = SharedFD(try EventFD().fd.duplicate())
      answer = SharedFD(try EventFD().fd.duplicate())
      pair = try UnixSocket.Pair(.seqpacket)
    } catch { throw .system("a bare way", error) }
    var ends: (SharedFD?, SharedFD?) = (nil, nil)
    pair.split { ends = (SharedFD($0), SharedFD($1)) }
    guard let ours = ends.0, let theirs = ends.1 else { throw .closed("a bare way") }
    socket = ours
    child = try ChildProcess.start(
      [ChildProcess.selfPath, "--relay"],
      fds: [(kick.raw, Relay.kick), (theirs.raw, Relay.socket), (answer.raw, Relay.answer)])
    do throws(Errno) { try start() } catch { throw .system("a bare consumer", error) }
  }

  private func start() throws(Errno) {
    let reader = Reader(socket: socket, arrivals: arrivals)
    thread = try Thread("bare-consumer") { reader.consume() }
  }

  deinit {
    UnixSocket.shutDown(socket.raw)
    thread = nil
  }

  /// What the thread owns.
  private struct Reader: Sendable {
    let socket: SharedFD
    let arrivals: Arrivals

    func consume() {
      var message = [UInt8](repeating: 0, count: 256)
      while true {
        var fds: [CInt] = []
        let got = message.withUnsafeMutableBytes { bytes in
          try? UnixSocket.receive(socket.raw, into: bytes, fds: &fds)
        }
        guard let got, got.count > 0 else { return }
        arrivals.note()
        for fd in fds { close(fd) }
        _ = message.withUnsafeBytes { bytes in
          try? UnixSocket.send(socket.raw, UnsafeRawBufferPointer(rebasing: bytes.prefix(40)))
        }
      }
    }
  }

  func frame() throws(GuestError) -> Trip {
    count += 1
    let start = Clock.now
    var one: UInt64 = 1
    _ = write(kick.raw, &one, 8)
    var waiting = pollfd(fd: answer.raw, events: Int16(POLLIN), revents: 0)
    guard poll(&waiting, 1, 5000) == 1 else { throw .timedOut("the bare answer") }
    _ = read(answer.raw, &one, 8)
    let answered = Clock.now
    let came = try arrivals.time(of: count)
    return Trip(frame: Double(came - start), answer: Double(answered - start))
  }
}

/// The other process of ``BareWay``, and of a bare trip, which has no eventfds.
enum Relay {
  static let kick: CInt = 3
  static let socket: CInt = 4
  static let answer: CInt = 5

  /// Serves until the socket ends.
  static func run() {
    guard let file = try? MemFD.create("bare", size: 4096, seals: []) else { return }
    var message = [UInt8](repeating: 0, count: 128)
    var count: UInt64 = 0
    let isAlone = fcntl(kick, F_GETFD) < 0
    while true {
      var waiting = [
        pollfd(fd: isAlone ? -1 : kick, events: Int16(POLLIN), revents: 0),
        pollfd(fd: socket, events: Int16(POLLIN), revents: 0),
      ]
      guard poll(&waiting, 2, -1) > 0 else { return }
      if waiting[0].revents != 0 {
        _ = read(kick, &count, 8)
        _ = message.withUnsafeBytes { bytes in
          try? UnixSocket.send(socket, bytes, fds: [file.raw])
        }
        count = 1
        _ = write(answer, &count, 8)
      }
      if waiting[1].revents != 0 {
        guard recv(socket, &message, message.count, 0) > 0 else { return }
        if isAlone { Glibc.send(socket, message, 32, 0) }
      }
    }
  }
}

/// Values below which these shares of the samples lie.
func percentiles(_ samples: [Double], _ shares: [Double]) -> [Double] {
  let sorted = samples.sorted()
  return shares.map { share in
    sorted.isEmpty ? 0 : sorted[min(sorted.count - 1, Int(Double(sorted.count) * share))]
  }
}
