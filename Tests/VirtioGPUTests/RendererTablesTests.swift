import FakeGuest
import Linux
import Pixels
import Testing

@testable import VirtioGPU

/// What the device remembers of the renderer's: numbers that come again, and pages that go.
@Suite struct RendererTablesTests {
  /// Commands that wait for the renderer, which has them all when this returns.
  private func send(_ commands: [GPUCommand], _ bench: DeviceBench) throws {
    for command in commands { try bench.driver.send(command) }
    try bench.driver.kick()
    // The other ring is served after this one.
    try bench.driver.perform(.moveCursor(0, x: 1, y: 1))
  }

  /// Has the renderer refuse the first of what it is asked for and do all else.
  private func refuseFirst(_ bench: DeviceBench) throws {
    try bench.renderer { renderer in
      renderer.refuses = true
      renderer.finish(1)
      renderer.refuses = false
      renderer.isEager = true
      renderer.finish()
    }
    try bench.driver.drain()
  }

  /// Its texture would be the one that was there before, or none.
  @Test func aResourceOfAnOldNumberIsAttachedAnew() throws {
    let bench = try DeviceBench(with3D: true)
    try bench.driver.perform(.createContext(7))
    for _ in 0..<2 {
      try bench.makePicture(3)
      for _ in 0..<2 { try bench.driver.perform(.context(7, attach: true, resource: 3)) }
      try bench.driver.perform(.unref(3))
    }
    #expect(try bench.asked("attach") == ["attach 3 to 7", "attach 3 to 7"])
  }

  @Test func aContextThatWasRefusedLateIsNotTheNextOne() throws {
    let bench = try DeviceBench(with3D: true)
    try bench.renderer { $0.isEager = false }
    try send([.createContext(1), .destroyContext(1), .createContext(1)], bench)
    try refuseFirst(bench)
    try bench.driver.perform(.submit(1, [0, 0, 0, 0]))
    // The one that is refused alone is gone.
    try bench.renderer { $0.isEager = false }
    try send([.createContext(2)], bench)
    try refuseFirst(bench)
    #expect(try bench.driver.run(.submit(2, [0, 0, 0, 0])).response == .invalidContext)
  }

  @Test func aResourceThatWasRefusedLateIsNotTheNextOne() throws {
    let bench = try DeviceBench(with3D: true)
    try bench.renderer { $0.isEager = false }
    try send([DeviceBench.picture(1), .unref(1), DeviceBench.picture(1)], bench)
    try refuseFirst(bench)
    try bench.driver.perform(.setScanout(0, resource: 1, Rect(width: 64, height: 32)))
    try bench.renderer { $0.isEager = false }
    try send([DeviceBench.picture(2)], bench)
    try refuseFirst(bench)
    #expect(try bench.driver.run(.unref(2)).response == .invalidResource)
  }

  /// The guest takes them for done; what comes late answers nobody twice.
  @Test func aPauseAnswersAllThatTheRendererHasNotDone() throws {
    let bench = try DeviceBench(with3D: true)
    try bench.driver.perform(.createContext(1))
    try bench.renderer { $0.isEager = false }
    var answers = 0
    for _ in 0..<3 { try bench.driver.send(.submit(1, [0, 0, 0, 0])) { _ in answers += 1 } }
    try send([], bench)
    #expect(answers == 0)
    try bench.front.pause()
    try bench.front.resume()
    try bench.driver.drain()
    #expect(answers == 3)
    try bench.renderer { renderer in
      renderer.isEager = true
      renderer.finish()
    }
    try bench.driver.perform(.submit(1, [0, 0, 0, 0]))
    #expect(answers == 3)
  }

  @Test func sixtyFourProgramsMayDraw() throws {
    let bench = try DeviceBench(with3D: true)
    for context in 1...64 as ClosedRange<UInt32> {
      try bench.driver.perform(.createContext(context))
    }
    #expect(try bench.driver.run(.createContext(65)).response == .outOfMemory)
    try bench.driver.perform(.destroyContext(9))
    try bench.driver.perform(.createContext(65))
  }

  /// The renderer draws into pages through mappings of its own, whatever the guest's memory is.
  @Test func aRendererLetsGoOfPagesThatWereTakenOut() throws {
    let half: UInt64 = 32 << 20
    let ram = try GuestRAM(size: 2 * half, regions: GuestRAM.halves(size: 2 * half))
    _ = try ram.allocate(bytes: 24 << 20)
    let bench = try DeviceBench(ram: ram, with3D: true)
    let (near, far) = (try ram.allocate(pages: 2), try ram.allocate(bytes: 12 << 20))
    try #require(near.start < 1 << 32 && far.start >= 1 << 32)
    for (id, pages) in [(1, far), (2, near)] as [(UInt32, GuestPages)] {
      try bench.makePicture(id)
      try bench.driver.perform(.attachBacking(id, pages.entries()))
    }
    let before = try bench.asked().count
    let transfer = GPUCommand.transfer3D(1, toHost: false, .init(width: 64, height: 32))
    try bench.front.removeMemory(ram.regions[1])
    #expect(try bench.asked().dropFirst(before) == ["unback 1"])
    #expect(try bench.driver.run(transfer).response == .invalidParameter)
    try bench.front.addMemory(ram.regions[1])
    try bench.driver.perform(transfer)
    #expect(
      try bench.asked().dropFirst(before) == [
        "unback 1", "back 1 by 12582912 bytes", "transfer 1 from host in 0",
      ])
  }
}
