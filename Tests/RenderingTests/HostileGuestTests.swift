import FakeGuest
import Glibc
import Linux
import PinholeFrames
import Pixels
import RenderWire
import Testing

/// `pinhole serve --3d` as a process, and a guest that wishes it ill.
private final class Site {
  let pinhole: PinholeProcess
  let driver: GPUDriver
  static let picture: UInt32 = 100_000
  static let all = GPUCommand.Box(width: 64, height: 64)

  init(_ options: [String] = []) throws {
    pinhole = try PinholeProcess(["--3d", "--render-node", "none"] + options)
    let ram = try GuestRAM(size: 64 << 20)
    var choice = GPUDriver.Options()
    choice.features |= Feature.virgl
    choice.patience = 120_000
    driver = try GPUDriver(try VhostUserFrontEnd(path: pinhole.socket, ram: ram), choice)
    try #require(driver.features & Feature.virgl != 0, "no 3D: \(pinhole.log)")
  }

  /// What starts renderers.
  var starters: [CInt] { children(pinhole.child.pid) }

  /// The renderer of this guest, which is the oldest, and perhaps a spare one.
  var renderers: [CInt] { children(starters.first ?? 0) }

  /// Bytes that `pinhole` itself keeps in memory of its own.
  var memory: Int {
    let status = wholeText("/proc/\(pinhole.child.pid)/status")
    let line = status.split(separator: "\n").first { $0.hasPrefix("RssAnon:") } ?? ""
    return (line.split(separator: " ").compactMap { Int($0) }.first ?? 0) << 10
  }

  func killRenderer() { if let pid = renderers.first { kill(pid, SIGKILL) } }

  private func children(_ pid: CInt) -> [CInt] {
    wholeText("/proc/\(pid)/task/\(pid)/children").split(separator: " ").compactMap { CInt($0) }
  }

  /// Draws a red triangle on blue, and reads it through the rings.
  func draws3D(context: UInt32 = 77, first: UInt32 = 500) throws -> Bool {
    let (picture, vertices) = (first, first + 1)
    try driver.perform(.createContext(context))
    try driver.perform(
      .create3D(picture, target: 2, format: 2, bind: 0x14_000a, width: 64, height: 64))
    try driver.perform(.create3D(vertices, target: 0, format: 64, bind: 16, width: 256, height: 1))
    let pages = try driver.ram.allocate(bytes: 64 * 64 * 4)
    try driver.perform(.attachBacking(picture, pages.entries()))
    for id in [picture, vertices] {
      try driver.perform(.context(context, attach: true, resource: id))
    }
    var stream = VirglStream()
    stream.target(surface: 1, resource: picture, format: 2)
    stream.clear((0, 0, 1, 1))
    stream.prepareTriangles(size: (64, 64), first: 2)
    stream.drawTriangle([(-1, -1), (1, -1), (-1, 1)], (1, 0, 0, 1), buffer: vertices)
    try driver.perform(.submit(context, stream.bytes))
    try driver.perform(
      GPUCommand.transfer3D(picture, toHost: false, Self.all, context: context).fenced(1))
    let bytes = driver.ram.read(pages, count: 64 * 64 * 4)
    try driver.perform(.destroyContext(context))
    try driver.perform(.unref(picture))
    try driver.perform(.unref(vertices))
    driver.ram.free(pages)
    let end = (63 * 64 + 62) * 4
    return Array(bytes[(2 * 64 + 2) * 4..<(2 * 64 + 2) * 4 + 3]) == [0, 0, 255]
      && Array(bytes[end..<end + 3]) == [255, 0, 0]
  }

  /// A 2D picture is shown, whatever became of the 3D.
  func shows2D() throws {
    let rect = Rect(x: 0, y: 0, width: 64, height: 64)
    let pages = try driver.ram.allocate(bytes: 64 * 64 * 4)
    try driver.perform(.create2D(Self.picture, .b8g8r8x8, width: 64, height: 64))
    try driver.perform(.attachBacking(Self.picture, pages.entries()))
    try driver.perform(.setScanout(0, resource: Self.picture, rect))
    try driver.perform(.transferToHost2D(Self.picture, rect, offset: 0))
    try driver.perform(.flush(Self.picture, rect))
    try driver.perform(.unref(Self.picture))
    driver.ram.free(pages)
  }
}

/// What guests have broken renderers with, and what else they may try.
@Suite(.serialized, .enabled(if: hasRenderer, "libvirglrenderer or Mesa is not installed"))
struct HostileGuestTests {
  private static func create(
    _ id: UInt32, target: UInt32 = 2, format: UInt32 = 2, bind: UInt32 = 0xa, width: UInt32 = 1,
    height: UInt32 = 1, depth: UInt32 = 1, array: UInt32 = 1, level: UInt32 = 0,
    samples: UInt32 = 0
  ) -> GPUCommand {
    .create3D(
      id, target: target, format: format, bind: bind, width: width, height: height, depth: depth,
      arraySize: array, lastLevel: level, samples: samples)
  }

  /// What broke or bent renderers before, one after another.
  private static let killers: [GPUCommand] = {
    let junk = (0..<4096).map { UInt8(truncatingIfNeeded: $0 &* 2_654_435_761 >> 7) }
    let box = GPUCommand.Box(width: 64, height: 64)
    let far = GPUCommand.Box(x: .max - 3, y: .max - 3, z: 9, width: .max, height: 64, depth: .max)
    return [
      .createContext(1), .createContext(1), .createContext(0), .destroyContext(9),
      Self.create(1, target: 0, format: 64, bind: 16, width: .max),
      Self.create(2, width: 16384, height: 16384, array: 512),
      Self.create(3, target: 3, width: 2048, height: 2048, depth: 2048),
      Self.create(4, width: 8192, height: 8192, samples: 32),
      Self.create(5, format: .max), Self.create(6, target: .max), Self.create(7, level: .max),
      Self.create(0), Self.create(8, width: 64, height: 64), Self.create(8, width: 64, height: 64),
      .transfer3D(8, toHost: true, box), .transfer3D(8, toHost: true, far),
      .transfer3D(8, toHost: false, far, level: 99, offset: .max, stride: .max, layerStride: .max),
      .transfer3D(99, toHost: false, box), .context(1, attach: true, resource: 99),
      .context(99, attach: true, resource: 8), .context(1, attach: true, resource: 8),
      .submit(1, junk), .submit(1, junk, size: .max), .submit(1, junk, size: 3), .submit(9, junk),
      .submit(1, Array(repeating: 0xff, count: 1 << 16)), .submit(1, []),
      // Length beyond the end, in a context that is in error by now.
      .submit(1, [1, 8, 0xff, 0xff]), .unref(8), .unref(8), .destroyContext(1),
      .getCapsetInfo(9), .getCapset(9, version: 9, size: 64), .getCapset(2, version: 9, size: 64),
    ]
  }()

  /// Each is answered, none with what it asks for beyond the budgets, and then everything works.
  @Test func killersCostTheGuestItsContextsAtMost() throws {
    let site = try Site()
    #expect(try site.draws3D())
    for command in Self.killers {
      let answer = try site.driver.run(command)
      #expect(answer.response.rawValue != 0, "\(command.name)")
    }
    try site.shows2D()
    try site.driver.restart()
    #expect(try site.draws3D())
    #expect(site.pinhole.terminate() == 0)
  }

  /// Whoever looks at the guest's 2D sees every picture, whatever becomes of its 3D meanwhile.
  @Test func aConsumerMissesNoFrame() throws {
    let site = try Site()
    let buffer = try Framebuffer(site.driver, resource: 900, width: 64, height: 64)
    let watcher = try FrameWatcher(path: site.pinhole.framesSocket)
    try buffer.show()
    for (index, command) in Self.killers.enumerated() {
      if index % 8 == 5 { site.killRenderer() }
      _ = try site.driver.run(command)
      buffer.draw(TestPicture.checker.render(width: 64, height: 64, frame: index))
      try buffer.flush()
      #expect(watcher.wait(milliseconds: 60_000) { $0.frames == index + 1 }, "\(command.name)")
      #expect(watcher.now.last[0]?.frame.hasSkipped == false, "\(command.name)")
      #expect(watcher.now.last[0]?.picture.difference(from: buffer.contents) == nil)
    }
  }

  @Test func texturesWithoutEndMeetABudget() throws {
    let site = try Site()
    var refused = 0
    for id in UInt32(1)...6000 {
      try site.driver.send(Self.create(id)) { if !$0.response.isOK { refused += 1 } }
    }
    try site.driver.kick()
    let bound = Clock.now + 120_000_000_000
    while site.driver.inFlight > 0, Clock.now < bound { try site.driver.poll() }
    #expect(refused > 1000)
    for id in UInt32(1)...10 { try site.driver.perform(.unref(id)) }
    try site.shows2D()
    var contexts = 0
    for id in UInt32(1)...100 where try site.driver.run(.createContext(id)).response.isOK {
      contexts += 1
    }
    #expect(contexts == 64)
    try site.driver.restart()
    #expect(try site.draws3D())
  }

  /// The renderer dies under every kind of request: all are answered, and the next life works.
  @Test func aRendererThatDiesIsSurvived() throws {
    let site = try Site()
    let commands: [GPUCommand] = [
      .createContext(1), Self.create(8, width: 64, height: 64),
      .context(1, attach: true, resource: 8), .submit(1, VirglStream().bytes + [0, 0, 0, 0]),
      .transfer3D(8, toHost: false, Site.all), GPUCommand.submit(1, []).fenced(7), .unref(8),
      .destroyContext(1),
    ]
    for deadly in commands.indices {
      for (index, command) in commands.enumerated() {
        if index == deadly { site.killRenderer() }
        _ = try site.driver.run(command)
      }
      try site.shows2D()
      try site.driver.restart()
    }
    #expect(try site.draws3D())
    #expect(site.pinhole.log.contains("the renderer is gone"))
    #expect(site.pinhole.terminate() == 0)
  }

  @Test func aRendererThatHangsIsReplaced() throws {
    let site = try Site(["--render-deadline", "2000", "--no-render-spare"])
    try site.driver.perform(.createContext(4))
    for pid in site.renderers { kill(pid, SIGSTOP) }
    #expect(try !site.driver.run(.createContext(5)).response.isOK)
    try site.shows2D()
    #expect(site.pinhole.log.contains("took it longer than 2000 ms"))
  }

  /// What starts renderers dies: no 3D any more, no zombie, and everything else goes on.
  @Test func aStarterThatDiesCostsThe3D() throws {
    let site = try Site()
    try site.driver.perform(.createContext(4))
    kill(try #require(site.starters.first), SIGKILL)
    let bound = Clock.now + 60_000_000_000
    while !site.starters.isEmpty, Clock.now < bound { usleep(10_000) }
    #expect(site.starters.isEmpty)
    #expect(try !site.driver.run(.createContext(5)).response.isOK)
    try site.shows2D()
    #expect(site.pinhole.terminate() == 0)
  }

  @Test func livesLeaveNothingBehind() throws {
    let site = try Site()
    #expect(try site.draws3D())
    try site.driver.restart()
    #expect(try site.draws3D())
    // Once everything that is kept for ever has been made.
    let before = (site.pinhole.descriptorCount, site.pinhole.mappings.all, site.memory)
    for round in 0..<40 {
      if round % 2 == 0 {
        site.killRenderer()
        _ = try site.driver.run(.createContext(1))
      }
      try site.driver.restart()
      #expect(try site.draws3D(), "round \(round)")
    }
    #expect(site.pinhole.descriptorCount <= before.0 + 2)
    #expect(site.pinhole.mappings.all <= before.1 + 8)
    #expect(site.memory <= before.2 + 8 << 20, "\(before.2) bytes before, \(site.memory) after")
    let bound = Clock.now + 60_000_000_000
    while site.renderers.count > 2, Clock.now < bound { usleep(10_000) }
    #expect(site.renderers.count <= 2)
    #expect(site.pinhole.terminate() == 0)
  }
}
