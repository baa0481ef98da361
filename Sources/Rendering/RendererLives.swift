import CLinux
import Linux
import Logging
import RenderWire

/// One renderer after another: a new one for each life of the guest, and for one that died.
///
/// What is asked while a renderer starts is kept for it.
package final class RendererLives {
  /// How long renderers may take, and how soon they return.
  package struct Patience: Sendable {
    /// Nanoseconds that a request may take once all before it are answered.
    package var operation: UInt64 = 10_000_000_000
    /// Nanoseconds before the second replacement; doubled for each further one.
    package var replacement: UInt64 = 100_000_000
    /// The most that becomes of it.
    package var longest: UInt64 = 10_000_000_000
    /// A renderer that lived this long was a good one.
    package var goodLife: UInt64 = 30_000_000_000

    package init() {}
  }

  /// A renderer died, and everything in it; all that waited was answered as lost.
  package var onDeath: ((String) -> Void)?
  /// What the first renderer said of itself.
  package private(set) var greeting: RenderGreeting?
  /// Process id of the present renderer, 0 while there is none.
  package private(set) var pid: UInt32 = 0
  /// How many renderers have died, other than by ``begin()``.
  package private(set) var deaths: UInt64 = 0

  private let starter: RenderStarter
  private let loop: EventLoop
  private let patience: Patience
  private let log: Logger
  private var number: UInt32 = 0
  private var link: RenderLink?
  /// What was asked before its socket came; nil while no renderer is coming.
  private var early: [(RenderLink?) -> Void]?
  private var timer: LoopTimer?
  private var failures: UInt64 = 0
  private var bornAt: UInt64 = 0
  private var isOver = false
  /// Why the renderer that is ending was killed.
  private var why: [UInt32: String] = [:]
  /// Why there can be no renderer at all.
  package private(set) var reason: String?

  /// Starts the process that starts renderers, and the first of these.
  package init(
    _ options: RenderStarter.Options, patience: Patience = Patience(), on loop: EventLoop,
    log: Logger
  ) throws(Errno) {
    self.loop = loop
    self.patience = patience
    self.log = log
    starter = try RenderStarter(options, on: loop)
    timer = LoopTimer(on: loop) { [unowned self] in start() }
    starter.onNews = { [unowned self] in heard($0) }
    start()
  }

  /// Whether what is asked now may be answered: a renderer is there, or coming.
  package var isAlive: Bool { link != nil || early != nil }

  /// Turns the loop until the first renderer can work, or cannot.
  ///
  /// - Returns: why it cannot; nil if it can.
  package func waitForFirst() throws(Errno) -> String? {
    while greeting == nil {
      if let reason { return reason }
      try loop.turn(timeout: 1000)
    }
    return nil
  }

  /// Ends this life and begins the next with nothing in it.
  package func begin() {
    drop()
    guard !isOver else { return }
    failures = 0
    start()
  }

  /// Asks the present renderer, or the one that is coming; nil as its link if it never came.
  package func ask(_ body: @escaping (RenderLink?) -> Void) {
    if let link { return body(link) }
    guard early != nil else { return body(nil) }
    early?.append(body)
  }

  /// Asks for one thing.
  package func send(
    _ request: RenderRequest, gift: SharedFD? = nil, _ done: @escaping (RenderOutcome) -> Void
  ) {
    ask { link in
      guard let link else { return done(.lost) }
      link.send(request, gift: gift, done)
    }
  }

  /// Asks for a twin of a picture; nil where there is none.
  package func export(
    _ file: UInt32, _ picture: RenderPicture, _ done: @escaping (RenderExport?) -> Void
  ) {
    ask { link in
      guard let link else { return done(nil) }
      link.export(file, picture, done)
    }
  }

  /// The present renderer, once its socket is there.
  package var current: RenderLink? { link }

  /// Lets the present renderer go.
  private func drop() {
    timer?.disarm()
    let old = link
    link = nil
    pid = 0
    if number != 0 { starter.kill(number) }
    number = 0
    old?.leave()
    let waiting = early ?? []
    early = nil
    for body in waiting { body(nil) }
  }

  private func start() {
    guard !isOver else { return }
    early = []
    bornAt = Clock.now
    number = starter.start()
  }

  private func heard(_ news: RenderStarter.News) {
    switch news {
    case .started(let number, let pid, let socket):
      guard number == self.number else { return starter.kill(number) }
      self.pid = pid
      connect(socket)
    case .failed(let number, let error):
      if number == self.number { died("it cannot be started: \(error)") }
    case .ended(let number, let status):
      if let cause = why.removeValue(forKey: number) { return log.debug("\(cause): \(status)") }
      guard number == self.number else { return }
      // What it said last may be the reason.
      link?.drain()
      if number == self.number {
        self.number = 0
        died(Self.words(status))
      }
    case .over:
      isOver = true
      let cause = "pinhole-renderer has ended; 3D is back after a restart of pinhole"
      if number != 0 || early != nil { died(cause) }
      reason = reason ?? cause
    }
  }

  private func connect(_ socket: SharedFD) {
    do throws(Errno) {
      let made = try RenderLink(
        try socket.duplicate(), on: loop, deadline: patience.operation)
      made.onReady = { [unowned self] in greeting = greeting ?? $0 }
      made.onEnd = { [unowned self] in ended($0) }
      link = made
      let waiting = early ?? []
      early = nil
      for body in waiting { body(link) }
    } catch { died("no socket for it: \(error)") }
  }

  private func ended(_ end: RenderLink.End) {
    switch end {
    // How it ended comes from the process that started it.
    case .closed: link = nil
    case .late(let time): died("one request took it longer than \(time / 1_000_000) ms")
    case .broken(let how): died(how)
    case .unable(let cause): died(cause)
    case .left: break
    }
  }

  private func died(_ cause: String) {
    deaths += 1
    if greeting == nil { reason = reason ?? cause }
    if number != 0 { why[number] = cause }
    let lived = Clock.now &- bornAt
    drop()
    failures = lived > patience.goodLife ? 0 : failures + 1
    onDeath?(cause)
    guard !isOver, greeting != nil else { return }
    if failures <= 1 { return start() }
    let delay = patience.replacement << min(failures - 2, 16)
    timer?.arm(after: min(delay, patience.longest))
  }

  private static func words(_ status: UInt32) -> String {
    status > 128 ? "it was ended by signal \(status - 128)" : "it ended with status \(status)"
  }
}
