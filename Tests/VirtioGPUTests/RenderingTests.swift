import Buffers
import FakeGuest
import Glibc
import Linux
import Pixels
import Scene
import Testing

@testable import VirtioGPU

/// 3D commands as the device judges them and hands them on.
@Suite struct RenderingTests {
  private static let scanout: UInt32 = 0x14_000a

  private func bench(
    _ configure: @escaping @Sendable (inout GPUConfiguration) -> Void = { _ in }
  ) throws -> DeviceBench {
    try DeviceBench(configure: configure, with3D: true)
  }

  private func picture(
    _ id: UInt32, width: UInt32 = 64, height: UInt32 = 32, format: UInt32 = 2
  ) -> GPUCommand {
    .create3D(
      id, target: 2, format: format, bind: Self.scanout, width: width, height: height)
  }

  private func asked(_ bench: DeviceBench) throws -> [String] {
    try bench.inDevice { device, _ in (device.renderer as? ScriptedRenderer)?.asked ?? [] }
  }

  /// Does something to the renderer in the device's thread.
  private func renderer(
    _ bench: DeviceBench, _ body: @escaping @Sendable (ScriptedRenderer) -> Void
  ) throws {
    try bench.inDevice { device, _ in
      if let renderer = device.renderer as? ScriptedRenderer { body(renderer) }
    }
  }

  @Test func without3DNothingIsOffered() throws {
    let bench = try DeviceBench()
    #expect(try bench.front.deviceFeatures() & Feature.virgl == 0)
    #expect(try bench.front.readConfig(offset: 12, count: 4) == [0, 0, 0, 0])
    #expect(try bench.driver.run(.getCapsetInfo(0)).response == .invalidParameter)
    #expect(try bench.driver.run(.createContext(1)).response == .unspecified)
    #expect(try bench.driver.run(picture(1)).response == .unspecified)
  }

  @Test func capsetsAreTheRenderers() throws {
    let bench = try bench()
    #expect(try bench.front.deviceFeatures() & Feature.virgl != 0)
    #expect(try bench.front.readConfig(offset: 12, count: 4) == [2, 0, 0, 0])
    let info = try bench.driver.perform(.getCapsetInfo(1))
    #expect(info.response.rawValue == 0x1102 && info.length == 40)
    #expect([24, 28, 32].map(info.u32) == [2, 2, 100])
    let set = try bench.driver.perform(.getCapset(2, version: 2, size: 100))
    #expect(set.response.rawValue == 0x1103 && set.length == 124)
    #expect(set.bytes.suffix(100).allSatisfy { $0 == 7 })
    #expect(try bench.driver.perform(.getCapset(1, version: 1, size: 2)).length == 26)
    for bad: GPUCommand in [
      .getCapsetInfo(2), .getCapsetInfo(.max), .getCapset(3, version: 1, size: 8),
      .getCapset(2, version: 3, size: 8),
    ] { #expect(try bench.driver.run(bad).response == .invalidParameter) }
  }

  @Test func commandsReachTheRendererInOrder() throws {
    let bench = try bench()
    let pages = try bench.driver.ram.allocate(pages: 2)
    let box = GPUCommand.Box(width: 64, height: 32)
    for command: GPUCommand in [
      .createContext(7, name: "cube"), picture(3), .context(7, attach: true, resource: 3),
      .attachBacking(3, pages.entries()), .transfer3D(3, toHost: true, box, context: 7),
      .submit(7, Array(1...8)), .transfer3D(3, toHost: false, box),
      .transferToHost2D(3, Rect(width: 8, height: 8), offset: 0),
      .context(7, attach: false, resource: 3), .detachBacking(3), .unref(3), .destroyContext(7),
    ] { try bench.driver.perform(command) }
    #expect(
      try asked(bench) == [
        "context 7 cube", "resource 3 64x32", "attach 3 to 7", "back 3 by 8192 bytes",
        "transfer 3 to host in 7", "submit 8 bytes in 7", "transfer 3 from host in 0",
        "transfer 3 to host in 0", "detach 3 from 7", "unback 3", "destroy 3",
        "destroy context 7",
      ])
    try renderer(bench) { #expect($0.submitted == [Array(1...8)]) }
    let memory = try bench.inDevice { device, _ in device.rendered.memory.used }
    #expect(memory == 0)
  }

  @Test func whatMakesNoSenseDoesNotReachTheRenderer() throws {
    let bench = try bench { configuration in
      configuration.maxContexts = 2
      configuration.maxSubmit = 64
      configuration.renderMemory = 1 << 20
    }
    let pages = try bench.driver.ram.allocate(pages: 2)
    for command: GPUCommand in [
      .createContext(1), .createContext(2), picture(1), .attachBacking(1, pages.entries()),
      picture(2), .create2D(5, .b8g8r8x8, width: 8, height: 8),
    ] { try bench.driver.perform(command) }
    let before = try asked(bench).count
    let box = GPUCommand.Box(width: 64, height: 32)
    func shape(
      _ target: UInt32 = 2, width: UInt32 = 8, height: UInt32 = 8, depth: UInt32 = 1,
      layers: UInt32 = 1, level: UInt32 = 0, samples: UInt32 = 0
    ) -> GPUCommand {
      .create3D(
        9, target: target, format: 2, bind: 2, width: width, height: height, depth: depth,
        arraySize: layers, lastLevel: level, samples: samples)
    }
    let refused: [(GPUCommand, GPUResponse)] = [
      (.createContext(0), .invalidContext), (.createContext(1), .invalidContext),
      (.createContext(3), .outOfMemory), (.destroyContext(3), .invalidContext),
      (.context(3, attach: true, resource: 1), .invalidContext),
      (.context(1, attach: true, resource: 9), .invalidResource),
      (.context(1, attach: false, resource: 9), .invalidResource),
      (.submit(3, [0, 0, 0, 0]), .invalidContext), (.submit(1, [1, 2]), .invalidParameter),
      (.submit(1, [0, 0, 0, 0], size: 8), .invalidParameter),
      (.submit(1, [0, 0, 0, 0], size: .max), .outOfMemory),
      (.submit(1, [UInt8](repeating: 0, count: 68)), .outOfMemory),
      (picture(0), .invalidResource), (picture(1), .invalidResource),
      (picture(5), .invalidResource), (shape(9), .invalidParameter),
      (shape(width: 0), .invalidParameter), (shape(height: 0), .invalidParameter),
      (shape(depth: 0), .invalidParameter), (shape(layers: 2049), .invalidParameter),
      (shape(width: 16_385), .invalidParameter), (shape(level: 16), .invalidParameter),
      (shape(samples: 33), .invalidParameter), (shape(3, depth: 4096), .invalidParameter),
      (shape(0, width: .max, height: 1), .invalidParameter),
      (shape(0, width: 2 << 20, height: 1), .outOfMemory),
      (shape(width: 16_384, height: 16_384), .outOfMemory),
      (shape(3, width: 2048, height: 2048, depth: 2048), .outOfMemory),
      (.transfer3D(9, toHost: true, box), .invalidResource),
      (.transfer3D(5, toHost: true, box), .invalidParameter),
      (.transfer3D(2, toHost: true, box), .invalidParameter),
      (.transfer3D(1, toHost: true, box, context: 3), .invalidContext),
      (.transfer3D(1, toHost: true, box, level: 1), .invalidParameter),
      (.transfer3D(1, toHost: true, box, level: .max), .invalidParameter),
      (.transfer3D(1, toHost: true, box, offset: .max), .invalidParameter),
      (.transfer3D(1, toHost: false, .init(x: 1, width: 64)), .invalidParameter),
      (.transfer3D(1, toHost: false, .init(x: .max, width: .max)), .invalidParameter),
      (.transfer3D(1, toHost: false, .init(y: 32, width: 1)), .invalidParameter),
      (.transfer3D(1, toHost: false, .init(z: 1, width: 1)), .invalidParameter),
    ]
    for (command, answer) in refused {
      let got = try bench.driver.run(command.fenced(4))
      #expect(got.response == answer && got.fence == 4, "\(command.name)")
    }
    #expect(try asked(bench).count == before)
    // Mesa says so of the buffers that it has results of queries written into.
    try bench.driver.perform(shape(0, height: 1, layers: 0))
    #expect(try asked(bench).suffix(1) == ["resource 9 8x1"])
    try bench.driver.perform(.unref(9))
    let after = try asked(bench).count
    // Linux attaches whatever a program opens.
    try bench.driver.perform(.context(1, attach: true, resource: 5))
    #expect(try asked(bench).count == after)
  }

  @Test func budgetsAreGivenBack() throws {
    let bench = try bench { $0.renderMemory = 64 * 32 * 4 * 2 }
    for _ in 0..<3 {
      try bench.driver.perform(picture(1))
      try bench.driver.perform(picture(2))
      #expect(try bench.driver.run(picture(3)).response == .outOfMemory)
      try bench.driver.perform(.unref(1))
      try bench.driver.perform(.unref(2))
    }
    // What the renderer refuses was never there.
    try renderer(bench) { $0.refuses = true }
    for _ in 0..<3 {
      #expect(try bench.driver.run(picture(1)).response == .unspecified)
      #expect(try bench.driver.run(.createContext(1)).response == .unspecified)
    }
    try renderer(bench) { $0.refuses = false }
    try bench.driver.perform(picture(1))
    try bench.driver.perform(.createContext(1))
  }

  @Test func fencesWaitForTheirDrawing() throws {
    let bench = try bench()
    for context: UInt32 in 1...2 { try bench.driver.perform(.createContext(context)) }
    try renderer(bench) { $0.isEager = false }
    var order: [UInt64] = []
    for (fence, context) in [(5, 1), (6, 2), (7, 1)] as [(UInt64, UInt32)] {
      try bench.driver.send(.submit(context, [0, 0, 0, 0]).fenced(fence)) { order.append($0.fence) }
    }
    try bench.driver.send(.submit(1, [0, 0, 0, 0])) { _ in order.append(0) }
    try bench.driver.kick()
    try bench.driver.perform(.moveCursor(0, x: 1, y: 1))
    #expect(
      try asked(bench).suffix(7).filter { $0.hasPrefix("fence") } == [
        "fence 1", "fence 2", "fence 1",
      ])
    // The youngest fence retires first: without rings all are one timeline to Linux.
    try renderer(bench) { renderer in
      renderer.finish(1)
      renderer.finishLast()
    }
    try bench.driver.wait(for: "what has no fence") { order == [0] }
    try renderer(bench) { $0.finishLast() }
    try renderer(bench) { $0.finish() }
    try bench.driver.drain()
    #expect(order == [0, 5, 6, 7])
  }

  @Test func whatTheRendererRefusesIsAnError() throws {
    let bench = try bench()
    try bench.driver.perform(.createContext(1))
    try renderer(bench) { $0.refuses = true }
    let plain = try bench.driver.run(.submit(1, [0, 0, 0, 0]))
    #expect(plain.response == .unspecified)
    let fenced = try bench.driver.run(.submit(1, [0, 0, 0, 0]).fenced(9))
    #expect(fenced.response == .unspecified && fenced.fence == 9)
    #expect(try bench.inDevice { device, _ in device.counters.renderFailures } == 2)
  }

  // MARK: Pictures

  private func shown(_ bench: DeviceBench) throws -> Recorder.Shown {
    try #require(bench.seen.last)
  }

  @Test func aFlushShowsWhatTheRendererDrew() throws {
    let bench = try bench()
    try bench.driver.perform(picture(1))
    try bench.driver.perform(.setScanout(0, resource: 1, Rect(width: 64, height: 32)))
    #expect(bench.seen.frames.isEmpty)
    try bench.driver.perform(.flush(1, Rect(x: 8, y: 8, width: 8, height: 8)))
    var shown = try shown(bench)
    #expect(shown.picture[0, 0] == 0x0101_0101 & 0xff_ffff || shown.picture[0, 0] == 0x0101_0101)
    #expect(shown.damage == Pixels.Rect(x: 0, y: 0, width: 64, height: 32))
    try bench.driver.perform(.flush(1, Rect(x: 8, y: 8, width: 8, height: 4)))
    shown = try self.shown(bench)
    #expect(shown.damage == Pixels.Rect(x: 8, y: 8, width: 8, height: 4))
    #expect(try asked(bench).suffix(2) == ["show 1 on 0 64x32 64x32", "show 1 on 0 64x32 8x4"])
    // Another sink sees the same; the renderer is not asked again.
    let before = try asked(bench).count
    _ = try bench.inDevice { _, recorder in recorder.lookAgain() }
    #expect(try self.shown(bench).picture[0, 0] == shown.picture[0, 0])
    #expect(try asked(bench).count == before)
  }

  @Test func aFencedFlushIsAnsweredWithItsPicture() throws {
    let bench = try bench()
    try bench.driver.perform(picture(1))
    try bench.driver.perform(.setScanout(0, resource: 1, Rect(width: 64, height: 32)))
    try renderer(bench) { $0.isEager = false }
    var isAnswered = false
    try bench.driver.send(.flush(1, Rect(width: 64, height: 32)).fenced(3)) {
      isAnswered = $0.fence == 3
    }
    try bench.driver.kick()
    try bench.driver.perform(.moveCursor(0, x: 1, y: 1))
    try renderer(bench) { $0.finish() }
    try bench.driver.wait(for: "the picture") { isAnswered }
    #expect(bench.seen.frames.count == 1)
  }

  /// Without udmabuf consumers read the renderer's own memory, which is sealed: nothing is copied.
  @Test func consumersGetWhatTheRendererDrew() throws {
    let bench = try bench()
    _ = try bench.inDevice { _, recorder in recorder.wantsBuffers = true }
    try bench.driver.perform(picture(1, width: 128))
    try bench.driver.perform(.setScanout(1, resource: 1, Rect(x: 64, width: 64, height: 32)))
    try bench.driver.perform(.flush(1, Rect(width: 128, height: 32)))
    let shown = try shown(bench)
    #expect(shown.output == 1 && shown.memory == "copy" && shown.picture.width == 64)
    #expect(shown.crop == Pixels.Rect(x: 0, y: 0, width: 64, height: 32))
    guard case .pages(.noDevice) = shown.why else {
      Issue.record("why a copy: \(String(describing: shown.why))")
      return
    }
    #expect(try bench.inDevice { device, _ in device.counters.copiedBytes } == 0)
    try renderer(bench) {
      let fd = $0.newest?.planes.first?.fd.raw ?? -1
      #expect(MemFD.seals(of: fd) == [.shrink, .grow, .futureWrite, .seal])
    }
  }

  /// With udmabuf they get dma-bufs over that memory, and the same one again for the same memory.
  @Test func consumersImportWhatTheRendererDrew() throws {
    let bench = try DeviceBench(with3D: true, udmabuf: true)
    _ = try bench.inDevice { _, recorder in
      recorder.wantsBuffers = true
      recorder.holds = true
    }
    try bench.driver.perform(picture(1))
    try bench.driver.perform(.setScanout(0, resource: 1, Rect(width: 64, height: 32)))
    try bench.driver.perform(.flush(1, Rect(width: 64, height: 32)))
    let shown = try shown(bench)
    #expect(shown.memory == "rendered" && shown.why == nil)
    try renderer(bench) {
      #expect(MemFD.seals(of: $0.newest?.planes.first?.fd.raw ?? -1) == [.shrink, .grow])
    }
    _ = try bench.inDevice { _, recorder in recorder.lookAgain() }
    #expect(try self.shown(bench).buffer == shown.buffer)
    // The first picture is drawn into again once nobody holds it; the second is on screen.
    try bench.driver.perform(.flush(1, Rect(width: 64, height: 32)))
    try renderer(bench) { #expect($0.released == 0) }
    _ = try bench.inDevice { _, recorder in recorder.releaseAll() }
    try renderer(bench) { #expect($0.released == 1) }
  }

  @Test func buffersAreTakenBackOnceNothingIsDrawnIntoThem() throws {
    let bench = try bench()
    func revoked() -> [RevocationReason] { bench.seen.log.withLock { $0.revoked } }
    _ = try bench.inDevice { _, recorder in recorder.wantsBuffers = true }
    try renderer(bench) { $0.retires = true }
    try bench.driver.perform(picture(1))
    try bench.driver.perform(.setScanout(0, resource: 1, Rect(width: 64, height: 32)))
    for _ in 0..<3 { try bench.driver.perform(.flush(1, Rect(width: 64, height: 32))) }
    #expect(revoked() == [.unused, .unused])
    // The newest one stays on screen when the renderer dies, and is offered to those who come.
    try renderer(bench) { $0.die() }
    let before = try shown(bench).buffer
    _ = try bench.inDevice { _, recorder in recorder.wantsBuffers = false }
    _ = try bench.inDevice { _, _ in }
    #expect(revoked() == [.unused, .unused, .unused])
    _ = try bench.inDevice { _, recorder in recorder.wantsBuffers = true }
    _ = try bench.inDevice { _, _ in }
    #expect(try shown(bench).memory == "copy")
    #expect(try shown(bench).buffer != before)
    try bench.driver.perform(.setScanout(0, resource: 0, Rect(width: 0, height: 0)))
    #expect(revoked().count == 4)
  }

  @Test func onlyPicturesOfKnownFormatsAreShown() throws {
    let bench = try bench()
    try bench.driver.perform(picture(1, format: 31))
    try bench.driver.perform(
      .create3D(2, target: 0, format: 2, bind: 0, width: 4096, height: 1))
    for id: UInt32 in 1...2 {
      let set = GPUCommand.setScanout(0, resource: id, Rect(width: 16, height: 1))
      #expect(try bench.driver.run(set).response == .invalidParameter)
    }
  }

  @Test func cursorsAreReadBack() throws {
    let bench = try bench()
    try bench.driver.perform(picture(1, width: 64, height: 64, format: 1))
    try renderer(bench) { $0.isEager = false }
    try bench.driver.perform(.updateCursor(0, resource: 1, x: 4, y: 5, hotX: 99, hotY: 3))
    #expect(bench.seen.log.withLock { $0.cursors.isEmpty })
    try bench.driver.perform(.moveCursor(0, resource: 1, x: 6, y: 7))
    try renderer(bench) { $0.finish() }
    let cursor = try #require(bench.seen.log.withLock { $0.cursors.last })
    #expect(cursor.pixels == [UInt8](repeating: 9, count: 64 * 64 * 4))
    #expect(cursor.x == 6 && cursor.y == 7 && cursor.hotX == 63 && cursor.hotY == 3)
    // One that was hidden before its image came stays so.
    try bench.driver.perform(.updateCursor(0, resource: 1, x: 4, y: 5))
    try bench.driver.perform(.updateCursor(0, resource: 0, x: 4, y: 5))
    try renderer(bench) { $0.finish() }
    #expect(bench.seen.log.withLock { $0.cursors.last?.pixels } == nil)
  }

  // MARK: Life

  @Test func aDeadRendererCostsContextsAndNothingElse() throws {
    let bench = try bench()
    for command: GPUCommand in [
      .createContext(1), picture(1), .setScanout(0, resource: 1, Rect(width: 64, height: 32)),
      .flush(1, Rect(width: 64, height: 32)),
    ] { try bench.driver.perform(command) }
    try renderer(bench) { $0.isEager = false }
    var answers: [GPUResponse] = []
    for command: GPUCommand in [
      .submit(1, [0, 0, 0, 0]).fenced(3), .submit(1, [0, 0, 0, 0]),
      .flush(1, Rect(width: 64, height: 32)),
    ] { try bench.driver.send(command) { answers.append($0.response) } }
    try bench.driver.kick()
    try bench.driver.perform(.moveCursor(0, x: 1, y: 1))
    try renderer(bench) { $0.die() }
    try bench.driver.drain()
    #expect(answers.count == 3 && answers.filter { $0 == .unspecified }.count == 2)
    let gone: [GPUCommand] = [.submit(1, [0, 0, 0, 0]).fenced(4), .createContext(2), picture(2)]
    for command in gone { #expect(try bench.driver.run(command).response == .unspecified) }
    // The picture is still there, for those who come later, and 2D works.
    let before = bench.seen.frames.count
    _ = try bench.inDevice { _, recorder in recorder.lookAgain() }
    #expect(bench.seen.frames.count == before + 1)
    let plain = try Framebuffer(bench.driver, resource: 9, width: 64, height: 64)
    plain.draw(TestPicture.smpte.render(width: 64, height: 64))
    try plain.show(on: 1)
    try plain.flush()
    #expect(try shown(bench).picture.difference(from: plain.contents) == nil)
    for command: GPUCommand in [.flush(1, Rect(width: 64, height: 32)), .unref(1)] {
      try bench.driver.perform(command)
    }
    // With the next renderer there are new contexts; what was lost stays so.
    try renderer(bench) { renderer in
      renderer.isAlive = true
      renderer.isEager = true
    }
    try bench.driver.perform(.createContext(1))
    try bench.driver.perform(picture(1))
  }

  @Test func aResetStartsTheRendererAnew() throws {
    let bench = try bench()
    try bench.driver.restart()
    try renderer(bench) { #expect($0.resets == 0, "nothing was asked of it") }
    try bench.driver.perform(.createContext(1))
    try bench.driver.perform(picture(1))
    try renderer(bench) { $0.isEager = false }
    try bench.driver.send(.submit(1, [0, 0, 0, 0]).fenced(3))
    try bench.driver.kick()
    try bench.driver.restart()
    try renderer(bench) { renderer in
      #expect(renderer.resets == 1)
      renderer.isEager = true
    }
    try bench.driver.perform(.createContext(1))
    try bench.driver.perform(picture(1))
    #expect(try bench.inDevice { device, _ in device.rendered.memory.used } == 64 * 32 * 4)
  }

  @Test func randomCommandsNeverEndTheDevice() throws {
    let seed = UInt64.random(in: 0 ... .max)
    print("3D randomCommandsNeverEndTheDevice: seed \(seed)")
    var random = SeededRandom(seed: seed)
    let bench = try bench()
    let types: [UInt32] = Array(0x200...0x209) + Array(0x102...0x109) + [0x300, 0x301]
    let values: [UInt32] = [0, 1, 2, 3, 4, 5, 8, 16, 64, 256, 4096, 65536, .max, 1 << 31]
    for round in 0..<4000 {
      let type = types.randomElement(using: &random) ?? 0
      var command = GPUCommand(name: "random", type: type)
      command.queue = type >= 0x300 ? .cursor : .control
      command.bytes += [UInt8](
        repeating: 0, count: [72, 72, 0, 40, 100].randomElement(using: &random) ?? 0)
      for at in stride(from: 16, to: command.bytes.count - 3, by: 4) where at != 20 {
        command.put(values.randomElement(using: &random) ?? 0, at: at)
      }
      if Int.random(in: 0...3, using: &random) == 0 { command = command.fenced(UInt64(round)) }
      // A renderer that does nothing must not fill the ring.
      if bench.driver.inFlight > 20 { try renderer(bench) { $0.finish() } }
      try bench.driver.send(command)
      if Int.random(in: 0...60, using: &random) == 0 {
        let (eager, refuses) = (Bool.random(using: &random), Int.random(in: 0...5, using: &random))
        try renderer(bench) { renderer in
          renderer.isAlive = true
          renderer.isEager = eager
          renderer.refuses = refuses == 0
          renderer.finish(refuses)
          if refuses == 1 { renderer.die() }
        }
      }
    }
    try renderer(bench) { renderer in
      renderer.isEager = true
      renderer.finish()
    }
    try bench.driver.drain()
    try bench.driver.restart()
    let left = try bench.inDevice { device, _ in
      (device.hostBytes, device.rendered.memory.used, device.rendered.count)
    }
    #expect(left.0 == 0 && left.1 == 0 && left.2 == 0)
  }
}
