import FakeGuest
import Glibc
import Linux
import RenderWire
import Rendering

/// 3D: a GL program on Pinhole and on virglrenderer's own server; a picture's way out of the
/// renderer to a consumer, beside what the library takes for that; a command's way there and back.
struct Drawing {
  let pinhole: String
  let rounds: Int
  let frames: Int
  let givesRatios: Bool

  func run(into directory: String) throws(GuestError) {
    var table = Table(
      title: "3D: milliseconds, less is better",
      columns: ["what", "Pinhole", "beside it", "ms"] + (givesRatios ? ["ratio"] : []))
    for draws in [1, 8, 30] { try addFrames(draws, to: &table) }
    try addReadBack(to: &table)
    try addTrips(to: &table)
    let text = table.markdown(
      Machine.header + [
        "\(rounds) turns each, interleaved; medians; llvmpipe with one thread on either side"
      ])
    try save(text, as: "\(directory)/3d.md")
    print(text)
  }

  private func addFrames(_ draws: Int, to table: inout Table) throws(GuestError) {
    guard access("/usr/bin/virgl_test_server", X_OK) == 0 else {
      throw .unsupported("there is no virgl_test_server: install virgl-server")
    }
    let program = try GLProgram(draws: draws, frames: frames)
    let sides: [any VtestSide] = [
      try PinholeSide(pinhole, guest: beside("pinhole-guest")), try ServerSide(),
    ]
    try add(
      "a frame of \(draws) triangles, 1080p", "virgl_test_server", to: &table
    ) { (index) throws(GuestError) in try program.frameTime(in: sides[index].folder) }
  }

  private func addReadBack(to table: inout Table) throws(GuestError) {
    let ours = try RenderedFrames(pinhole)
    let bare = try BareReadBack(width: 1920, height: 1080)
    try add(
      "a picture drawn and at a consumer, 1080p", "the library alone", to: &table
    ) { (index) throws(GuestError) in
      let began = Clock.now
      for _ in 0..<frames { if index == 0 { try ours.play() } else { try bare.play() } }
      return Double(Clock.now - began) / Double(frames)
    }
  }

  private func addTrips(to table: inout Table) throws(GuestError) {
    let ours = try CommandTrip(renderer: beside("pinhole-renderer"))
    let bare = try BareTrip()
    try add(
      "a command to the renderer and its answer", "a bare message and its answer", places: 4,
      to: &table
    ) { (index) throws(GuestError) in
      index == 0 ? try ours.median(of: 1000) : try bare.median(of: 1000)
    }
  }

  /// - Parameter turn: nanoseconds a frame of Pinhole (0) and of the other (1).
  private func add(
    _ name: String, _ other: String, places: Int = 2, to table: inout Table,
    _ turn: (Int) throws(GuestError) -> Double
  ) throws(GuestError) {
    var samples: [[Double]] = [[], []]
    try Turns(rounds: rounds, frames: frames).take(name, 0..<2) {
      (index, counts) throws(GuestError) in
      let time = try turn(index)
      if counts { samples[index].append(time) }
    }
    let (own, others) = (median(samples[0]) ?? 0, median(samples[1]) ?? 0)
    table.rows.append(
      [name, decimal(own / 1_000_000, places), other, decimal(others / 1_000_000, places)]
        + (givesRatios ? [decimal(own / max(others, 1), 2) + "x"] : []))
  }

  /// A program of the same build.
  private func beside(_ name: String) -> String {
    let folder = pinhole.split(separator: "/", omittingEmptySubsequences: false).dropLast()
    return (folder + [Substring(name)]).joined(separator: "/")
  }
}

/// From the daemon's side to a renderer and back, without a guest.
private final class CommandTrip {
  private let loop: EventLoop
  private let starter: RenderStarter
  private var link: RenderLink?
  private var isReady = false

  init(renderer: String) throws(GuestError) {
    do throws(Errno) {
      loop = try EventLoop()
      var options = RenderStarter.Options(program: renderer)
      options.keepsSpare = false
      starter = try RenderStarter(options, on: loop)
    } catch { throw .system(renderer, error) }
    starter.onNews = { [unowned self] in
      guard case .started(_, _, let socket) = $0, let own = try? socket.duplicate() else { return }
      link = try? RenderLink(own, on: loop, deadline: 60_000_000_000)
      link?.onReady = { [unowned self] _ in isReady = true }
    }
    _ = starter.start()
    try turn("the renderer") { isReady }
    try ask(.createContext(1, capset: 2, name: []))
    try ask(.createResource(1, .picture(width: 64, height: 64)))
  }

  private func turn(_ what: String, until isSo: () -> Bool) throws(GuestError) {
    let deadline = Clock.now + 60_000_000_000
    while !isSo() {
      do throws(Errno) { try loop.turn(timeout: 1000) } catch { throw .system(what, error) }
      guard Clock.now < deadline else { throw .timedOut(what) }
    }
  }

  private func ask(_ request: RenderRequest) throws(GuestError) {
    var outcome: RenderOutcome?
    link?.send(request) { outcome = $0 }
    try turn("\(request.opcode)") { outcome != nil }
    guard outcome == .done else { throw .unsupported("the renderer has \(request) refused") }
  }

  /// Nanoseconds.
  func median(of count: Int) throws(GuestError) -> Double {
    var times: [Double] = []
    for step in 0..<count {
      let began = Clock.now
      try ask(
        step % 2 == 0 ? .attach(context: 1, resource: 1) : .detach(context: 1, resource: 1))
      times.append(Double(Clock.now - began))
    }
    return pinhole_bench.median(times) ?? 0
  }
}

/// The least that a command's way can cost: a message to another process and one back.
private final class BareTrip {
  private let child: ChildProcess
  private let socket: SharedFD

  init() throws(GuestError) {
    let pair: UnixSocket.Pair
    do throws(Errno) { pair = try UnixSocket.Pair(.seqpacket) } catch {
      throw .system("a bare trip", error)
    }
    var ends: (SharedFD?, SharedFD?) = (nil, nil)
    pair.split { ends = (SharedFD($0), SharedFD($1)) }
    guard let ours = ends.0, let theirs = ends.1 else { throw .closed("a bare trip") }
    socket = ours
    child = try ChildProcess.start(
      [ChildProcess.selfPath, "--relay"], fds: [(theirs.raw, Relay.socket)])
  }

  deinit { UnixSocket.shutDown(socket.raw) }

  /// Nanoseconds.
  func median(of count: Int) throws(GuestError) -> Double {
    var times: [Double] = []
    var message = [UInt8](repeating: 0, count: 64)
    for _ in 0..<count {
      let began = Clock.now
      guard send(socket.raw, message, message.count, 0) > 0 else { throw .closed("a bare trip") }
      var waiting = pollfd(fd: socket.raw, events: Int16(POLLIN), revents: 0)
      guard poll(&waiting, 1, 5000) == 1, recv(socket.raw, &message, message.count, 0) > 0 else {
        throw .timedOut("a bare answer")
      }
      times.append(Double(Clock.now - began))
    }
    return pinhole_bench.median(times) ?? 0
  }
}
