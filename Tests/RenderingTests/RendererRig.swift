import FakeGuest
import Glibc
import Linux
import RenderWire
import Rendering
import Testing

/// A `pinhole-renderer` of this build, and the link to one renderer of it.
final class RendererRig {
  let loop: EventLoop
  let starter: RenderStarter
  private(set) var link: RenderLink?
  private(set) var greeting: RenderGreeting?
  private(set) var end: RenderLink.End?
  private(set) var pid: UInt32 = 0
  private(set) var number: UInt32 = 0
  /// Exit status of renderers by number.
  private(set) var statuses: [UInt32: UInt32] = [:]
  private let deadline: UInt64

  static var program: String {
    let folder = Puncher.defaultProgram.split(separator: "/").dropLast().joined(separator: "/")
    return "/\(folder)/pinhole-renderer"
  }

  init(
    deadline: UInt64 = 60_000_000_000, _ adjust: (inout RenderStarter.Options) -> Void = { _ in }
  ) throws {
    loop = try EventLoop()
    self.deadline = deadline
    var options = RenderStarter.Options(program: Self.program)
    options.keepsSpare = false
    // A sanitizer makes calls that the filter forbids.
    if let mode = getenv("PINHOLE_SANDBOX") { options.sandbox = String(cString: mode) }
    adjust(&options)
    starter = try RenderStarter(options, on: loop)
    starter.onNews = { [unowned self] in heard($0) }
  }

  private func heard(_ news: RenderStarter.News) {
    switch news {
    case .started(number, let pid, let socket):
      self.pid = pid
      do {
        let link = try RenderLink(try socket.duplicate(), on: loop, deadline: deadline)
        link.onReady = { [unowned self] in greeting = $0 }
        link.onEnd = { [unowned self] in end = $0 }
        self.link = link
      } catch { Issue.record("no link: \(error)") }
    case .ended(let number, let status): statuses[number] = status
    case .started, .failed, .over: Issue.record("unexpected news: \(news)")
    }
  }

  /// Starts a renderer and waits until it can work, or cannot.
  func start() throws {
    link?.leave()
    (link, greeting, end) = (nil, nil, nil)
    number = starter.start()
    try turn { greeting != nil || end != nil }
    try #require(greeting != nil, "the renderer ended: \(String(describing: end))")
  }

  /// Turns the loop until something is so; the bound is for hangs.
  func turn(until isSo: () -> Bool) throws {
    let bound = Clock.now + 120_000_000_000
    while !isSo() {
      try loop.turn(timeout: 100)
      try #require(Clock.now < bound, "nothing came for two minutes")
    }
  }

  /// What becomes of one request.
  @discardableResult
  func ask(_ request: RenderRequest, _ gift: SharedFD? = nil) throws -> RenderOutcome {
    var outcome: RenderOutcome?
    try #require(link).send(request, gift: gift) { outcome = $0 }
    try turn { outcome != nil }
    return try #require(outcome)
  }

  func submit(_ context: UInt32, _ bytes: [UInt8]) throws -> RenderOutcome {
    var outcome: RenderOutcome?
    try #require(link).submit(
      context: context, count: bytes.count, filling: { $0.copyBytes(from: bytes) },
      { outcome = $0 })
    try turn { outcome != nil }
    return try #require(outcome)
  }
}

/// Memory that is shared with a renderer.
final class SharedMemory {
  let fd: SharedFD
  private let mapping: Mapping

  init(_ size: Int) throws {
    let file = try MemFD.create("rendering-test", size: size)
    mapping = try Mapping(fd: file.raw, offset: 0, count: size, writable: true)
    fd = SharedFD(file)
  }

  var size: UInt64 { UInt64(mapping.count) }
  func pixel(_ index: Int) -> UInt32 {
    mapping.base.load(fromByteOffset: index * 4, as: UInt32.self)
  }
  func fill(_ pixel: UInt32) {
    for index in 0..<(mapping.count / 4) {
      mapping.base.storeBytes(of: pixel, toByteOffset: index * 4, as: UInt32.self)
    }
  }
}

/// Whether libvirglrenderer can be loaded here, and Mesa. Not under sanitizers, which see these
/// libraries' threads and take more memory than a renderer may.
let hasRenderer: Bool = {
  guard getenv("PINHOLE_SANDBOX") == nil else { return false }
  guard let rig = try? RendererRig() else { return false }
  return (try? rig.start()) != nil
}()

/// What a file says; nothing if it cannot be read.
func wholeText(_ path: String) -> String {
  WholeFile.text(path) ?? ""
}
