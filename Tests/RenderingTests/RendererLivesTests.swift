import Glibc
import Linux
import Logging
import RenderWire
import Rendering
import Testing

/// Renderers that come and go, as the daemon sees them.
@Suite(.serialized, .enabled(if: hasRenderer, "libvirglrenderer or Mesa is not installed"))
struct RendererLivesTests {
  private final class House {
    let loop: EventLoop
    let lives: RendererLives
    private(set) var deaths: [String] = []

    init(
      _ patience: RendererLives.Patience = .init(),
      _ adjust: (inout RenderStarter.Options) -> Void = { _ in }
    ) throws {
      loop = try EventLoop()
      var options = RenderStarter.Options(program: RendererRig.program)
      if let mode = getenv("PINHOLE_SANDBOX") { options.sandbox = String(cString: mode) }
      adjust(&options)
      lives = try RendererLives(
        options, patience: patience, on: loop,
        log: Logger(label: "test") { _ in SwiftLogNoOpLogHandler() })
      lives.onDeath = { [unowned self] in deaths.append($0) }
    }

    func turn(until isSo: () -> Bool) throws {
      let bound = Clock.now + 120_000_000_000
      while !isSo() {
        try loop.turn(timeout: 100)
        try #require(Clock.now < bound, "nothing came for two minutes")
      }
    }

    /// The next renderer that lives is killed, and its death heard of.
    func kill() throws {
      let before = deaths.count
      try turn { lives.pid != 0 }
      Glibc.kill(CInt(bitPattern: lives.pid), SIGKILL)
      try turn { deaths.count > before }
    }

    func ask(_ request: RenderRequest) throws -> RenderOutcome {
      var outcome: RenderOutcome?
      lives.ask { link in
        guard let link else { return outcome = .lost }
        link.send(request) { outcome = $0 }
      }
      try turn { outcome != nil }
      return try #require(outcome)
    }
  }

  private let create = RenderRequest.createContext(1, capset: 0, name: [])

  @Test func aDeadOneIsReplaced() throws {
    let house = try House()
    #expect(try house.lives.waitForFirst() == nil)
    for round in 1...3 {
      #expect(try house.ask(create) == .done)
      #expect(try house.ask(create) == .refused(UInt32(EEXIST)))
      kill(CInt(bitPattern: house.lives.pid), SIGKILL)
      try house.turn { house.deaths.count == round && house.lives.isAlive }
    }
    #expect(house.deaths == Array(repeating: "it was ended by signal 9", count: 3))
    #expect(house.lives.deaths == 3)
    #expect(try house.ask(create) == .done)
  }

  @Test func aNewLifeHasNothingOfTheOld() throws {
    let house = try House { $0.keepsSpare = false }
    #expect(try house.lives.waitForFirst() == nil)
    #expect(try house.ask(create) == .done)
    var late: RenderOutcome?
    house.lives.ask { $0?.send(.fence) { late = $0 } }
    house.lives.begin()
    #expect(late == .lost)
    // Asked before its socket is there.
    #expect(house.lives.isAlive)
    #expect(try house.ask(create) == .done)
    #expect(house.deaths.isEmpty)
  }

  @Test func oneThatHangsIsKilledAndReplaced() throws {
    var patience = RendererLives.Patience()
    patience.operation = 200_000_000
    let house = try House(patience)
    #expect(try house.lives.waitForFirst() == nil)
    #expect(try house.ask(create) == .done)
    let pid = CInt(bitPattern: house.lives.pid)
    kill(pid, SIGSTOP)
    #expect(try house.ask(.fence) == .lost)
    #expect(house.deaths == ["one request took it longer than 200 ms"])
    try house.turn { kill(pid, 0) != 0 }
  }

  @Test func whyThereIsNoneIsTold() throws {
    let missing = try House { $0.node = "/dev/null/nothing" }
    let reason = try #require(try missing.lives.waitForFirst())
    #expect(reason == "--render-node /dev/null/nothing: Not a directory")
    #expect(!missing.lives.isAlive)
    let gone = try House { $0.program = "/bin/false" }
    #expect(try gone.lives.waitForFirst()?.hasPrefix("pinhole-renderer has ended") == true)
  }

  /// What starts renderers is forgotten at once, and leaves no zombie when it ends at last.
  @Test func aStarterIsForgottenWithoutWaiting() throws {
    let loop = try EventLoop()
    let pid: CInt
    do {
      let starter = try RenderStarter(.init(program: RendererRig.program), on: loop)
      pid = starter.pid
      kill(pid, SIGSTOP)
    }
    #expect(kill(pid, 0) == 0)
    kill(pid, SIGCONT)
    let bound = Clock.now + 60_000_000_000
    while kill(pid, 0) == 0, Clock.now < bound { try loop.turn(timeout: 100) }
    #expect(kill(pid, 0) != 0)
  }

  /// One that dies again and again is not started as fast as it dies.
  @Test func deathsInARowAreSpaced() throws {
    var patience = RendererLives.Patience()
    patience.replacement = 3_600_000_000_000
    patience.longest = patience.replacement
    let house = try House(patience)
    #expect(try house.lives.waitForFirst() == nil)
    for _ in 1...2 { try house.kill() }
    #expect(!house.lives.isAlive)
    #expect(try house.ask(.fence) == .lost)
    house.lives.begin()
    #expect(try house.ask(create) == .done)
    // The deaths of the guest's last life do not count in this one.
    kill(CInt(bitPattern: house.lives.pid), SIGKILL)
    try house.turn { house.deaths.count == 3 }
    #expect(house.lives.isAlive)
  }

  /// One that has done its work for long enough is replaced at once, whatever became of others.
  @Test func aGoodLifeIsFollowedByTheNext() throws {
    var patience = RendererLives.Patience()
    patience.replacement = 3_600_000_000_000
    patience.longest = patience.replacement
    patience.goodLife = 0
    let house = try House(patience)
    #expect(try house.lives.waitForFirst() == nil)
    for round in 1...3 {
      try house.kill()
      try #require(house.lives.isAlive, "round \(round)")
    }
  }

  /// The timer is looked at, so that nobody has to wait for it.
  @Test func noPauseIsLongerThanTheLongest() throws {
    var patience = RendererLives.Patience()
    patience.replacement = 3_600_000_000_000
    patience.longest = 1_000_000
    let house = try House(patience)
    #expect(try house.lives.waitForFirst() == nil)
    for _ in 1...2 { try house.kill() }
    try #require(house.lives.isAlive || house.loop.nextDue <= Clock.now + patience.longest)
    try house.turn { house.lives.isAlive }
  }
}
