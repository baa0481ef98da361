import Glibc
import Linux
import RenderWire
import Rendering
import Testing

/// The real `pinhole-renderer`, in its sandbox.
@Suite(.serialized, .enabled(if: hasRenderer, "libvirglrenderer or Mesa is not installed"))
struct RendererTests {
  private let context: UInt32 = 1
  private let picture: UInt32 = 2
  private let buffer: UInt32 = 3
  private let width: UInt32 = 320
  private let height: UInt32 = 200

  private func scene(_ rig: RendererRig) throws {
    try rig.start()
    let requests: [RenderRequest] = [
      .createContext(context, capset: 2, name: Array("test".utf8)),
      .createResource(picture, .picture(width: width, height: height)),
      .createResource(buffer, .vertices(bytes: 256)),
      .attach(context: context, resource: picture), .attach(context: context, resource: buffer),
    ]
    for request in requests { #expect(try rig.ask(request) == .done) }
  }

  private func triangle() -> VirglStream {
    var stream = VirglStream()
    stream.target(surface: 1, resource: picture, format: RenderShape.bgrx)
    stream.clear((0, 0, 1, 1))
    stream.prepareTriangles(size: (width, height), first: 2)
    // The lower left half in memory's order of rows.
    stream.drawTriangle([(-1, -1), (1, -1), (-1, 1)], (1, 0, 0, 1), buffer: buffer)
    return stream
  }

  private func checkTriangle(_ memory: SharedMemory) {
    let (w, h) = (Int(width), Int(height))
    #expect(memory.pixel(2 * w + 2) & 0xff_ffff == 0xff_0000)
    #expect(memory.pixel((h - 4) * w + 2) & 0xff_ffff == 0xff_0000)
    #expect(memory.pixel(2 * w + w - 20) & 0xff_ffff == 0xff_0000)
    #expect(memory.pixel((h - 2) * w + w - 2) & 0xff_ffff == 0x00_00ff)
    #expect(memory.pixel((h / 2) * w + w - 2) & 0xff_ffff == 0x00_00ff)
  }

  @Test func tellsWhatItCanDo() throws {
    let rig = try RendererRig()
    try rig.start()
    let greeting = try #require(rig.greeting)
    #expect(greeting.capsets.map(\.id) == [1, 2])
    // The second set grows with the library: 1376 bytes in 0.10.4.
    #expect(greeting.capsets[0].data.count == 308)
    #expect(greeting.capsets[1].data.count >= 1376)
    #expect(greeting.capsets.allSatisfy { $0.data.contains { $0 != 0 } })
  }

  @Test func drawsAndReadsBack() throws {
    let rig = try RendererRig()
    try scene(rig)
    let memory = try SharedMemory(Int(width * height * 4))
    #expect(try rig.ask(.addFile(1, size: memory.size), memory.fd) == .done)
    #expect(try rig.submit(context, triangle().bytes) == .done)
    #expect(try rig.ask(.fence) == .done)
    let run = RenderRun(file: 1, offset: 0, count: memory.size)
    let all = RenderBox(width: width, height: height)
    #expect(try rig.ask(.readBack(picture, all, run, stride: width * 4)) == .done)
    checkTriangle(memory)
    // A part of it, into the middle of the file.
    memory.fill(0)
    let part = RenderBox(x: 0, y: 10, width: 5, height: 3)
    let place = RenderRun(file: 1, offset: UInt64(10 * width * 4), count: UInt64(3 * width * 4))
    #expect(try rig.ask(.readBack(picture, part, place, stride: width * 4)) == .done)
    #expect(memory.pixel(10 * Int(width) + 4) & 0xff_ffff == 0xff_0000)
    #expect(memory.pixel(10 * Int(width) + 5) == 0)
    #expect(memory.pixel(9 * Int(width)) == 0)
    #expect(memory.pixel(13 * Int(width)) == 0)
  }

  @Test func transfersBothWaysThroughScatteredPages() throws {
    let rig = try RendererRig()
    try scene(rig)
    let half = Int(width * height * 2)
    let memory = try SharedMemory(half * 2)
    memory.fill(0x12_3456)
    #expect(try rig.ask(.addFile(9, size: memory.size), memory.fd) == .done)
    // The halves in the other order.
    let runs = [
      RenderRun(file: 9, offset: UInt64(half), count: UInt64(half)),
      RenderRun(file: 9, offset: 0, count: UInt64(half)),
    ]
    #expect(try rig.ask(.attachBacking(picture, runs)) == .done)
    let transfer = RenderTransfer(
      context: 0, resource: picture, box: RenderBox(width: width, height: height))
    #expect(try rig.ask(.transferToHost(transfer)) == .done)
    memory.fill(0)
    #expect(try rig.ask(.transferFromHost(transfer)) == .done)
    #expect(memory.pixel(0) & 0xff_ffff == 0x12_3456)
    #expect(memory.pixel(half / 2 - 1) & 0xff_ffff == 0x12_3456)
    #expect(try rig.submit(context, triangle().bytes) == .done)
    #expect(try rig.ask(.transferFromHost(transfer)) == .done)
    // The first row is in the second half of the file.
    #expect(memory.pixel(half / 4) & 0xff_ffff == 0xff_0000)
    #expect(try rig.ask(.detachBacking(picture)) == .done)
    #expect(try rig.ask(.transferFromHost(transfer)) == .refused(UInt32(EINVAL)))
    #expect(try rig.ask(.dropFile(9)) == .done)
  }

  /// Commands that do not fit into a packet go through the ring, also when it wraps around.
  @Test func takesLargeSubmissions() throws {
    let rig = try RendererRig()
    try scene(rig)
    var stream = triangle()
    // No-operations (command 0 of length 0) and a clear at the end.
    let filler = [UInt8](repeating: 0, count: 12 << 20)
    var answered = 0
    let link = try #require(rig.link)
    for _ in 0..<5 {
      link.submit(
        context: context, count: filler.count, filling: { $0.copyBytes(from: filler) },
        {
          #expect($0 == .done)
          answered += 1
        })
    }
    stream.clear((0, 1, 0, 1))
    let last = filler.prefix(3 << 20) + stream.bytes
    link.submit(
      context: context, count: last.count, filling: { $0.copyBytes(from: last) },
      {
        #expect($0 == .done)
        answered += 1
      })
    #expect(link.bytesWaiting > 16 << 20)
    try rig.turn { answered == 6 }
    #expect(link.bytesWaiting == 0)
    let memory = try SharedMemory(Int(width * height * 4))
    #expect(try rig.ask(.addFile(1, size: memory.size), memory.fd) == .done)
    let run = RenderRun(file: 1, offset: 0, count: memory.size)
    let all = RenderBox(width: width, height: height)
    #expect(try rig.ask(.readBack(picture, all, run, stride: width * 4)) == .done)
    #expect(memory.pixel(100) & 0xff_ffff == 0x00_ff00)
  }

  @Test func answersInOrderWhateverIsAsked() throws {
    let rig = try RendererRig()
    try scene(rig)
    var order: [Int] = []
    let link = try #require(rig.link)
    for index in 0..<3000 {
      link.send(.attach(context: context, resource: index % 2 == 0 ? picture : 99)) {
        #expect($0 == (index % 2 == 0 ? .done : .refused(UInt32(ENOENT))))
        order.append(index)
      }
    }
    try rig.turn { order.count == 3000 }
    #expect(order == Array(0..<3000))
  }

  /// What the library itself would take, or crash on, is refused.
  @Test func refusesWhatIsNotThere() throws {
    let rig = try RendererRig()
    try scene(rig)
    let missing = RenderOutcome.refused(UInt32(ENOENT))
    let exists = RenderOutcome.refused(UInt32(EEXIST))
    let cases: [(RenderRequest, RenderOutcome)] = [
      (.destroyContext(7), missing), (.destroyResource(7), missing),
      (.attach(context: 7, resource: picture), missing),
      (.detach(context: context, resource: 7), missing), (.detachBacking(picture), missing),
      (.attachBacking(picture, [RenderRun(file: 5, offset: 0, count: 1)]), missing),
      (.dropFile(5), missing), (.createContext(context, capset: 0, name: []), exists),
      (.createContext(0, capset: 0, name: []), exists),
      (.createResource(picture, .picture(width: 1, height: 1)), exists),
      (.createResource(0, .picture(width: 1, height: 1)), exists),
      (.addFile(5, size: 4096), .refused(UInt32(EBADF))),
    ]
    for (request, outcome) in cases { #expect(try rig.ask(request) == outcome, "\(request)") }
    #expect(try rig.submit(7, [0, 0, 0, 0]) == missing)
    // The library's own refusals.
    let bad = try rig.ask(
      .createResource(50, RenderShape(target: 99, format: 1, bind: 2, width: 1, height: 1)))
    #expect(bad == .refused(UInt32(EINVAL)))
    #expect(try rig.submit(context, Array(repeating: 0xff, count: 64)) != .lost)
    #expect(rig.end == nil)
  }

  /// A renderer that hangs or works for too long is given up; the next one works.
  @Test func aLateRendererIsReplaced() throws {
    let rig = try RendererRig(deadline: 3_000_000_000)
    try scene(rig)
    kill(CInt(bitPattern: rig.pid), SIGSTOP)
    var outcomes: [RenderOutcome] = []
    for _ in 0..<3 { rig.link?.send(.fence) { outcomes.append($0) } }
    rig.link?.send(.detach(context: context, resource: picture)) { outcomes.append($0) }
    try rig.turn { rig.end != nil }
    #expect(rig.end == .late(3_000_000_000))
    #expect(outcomes == Array(repeating: .lost, count: 4))
    let first = rig.number
    rig.starter.kill(first)
    try rig.turn { rig.statuses[first] != nil }
    #expect(rig.statuses[first] == UInt32(128 + SIGKILL))
    try scene(rig)
    #expect(try rig.submit(context, triangle().bytes) == .done)
  }

  @Test func aDeadRendererLosesWhatWaits() throws {
    let rig = try RendererRig { $0.keepsSpare = true }
    try scene(rig)
    kill(CInt(bitPattern: rig.pid), SIGKILL)
    try rig.turn { rig.end != nil }
    #expect(rig.end == .closed)
    #expect(try rig.ask(.fence) == .lost)
    let first = rig.pid
    try scene(rig)
    #expect(rig.pid != first)
  }

  /// Each life of a renderer has its own memory and descriptors: nothing stays behind.
  @Test func livesLeaveNothing() throws {
    let rig = try RendererRig()
    try scene(rig)
    func descriptors() -> Int {
      var count = 0
      for fd in 0..<CInt(256) where fcntl(fd, F_GETFD) >= 0 { count += 1 }
      return count
    }
    let before = descriptors()
    for _ in 0..<5 { try scene(rig) }
    try rig.turn { rig.statuses.count == 5 }
    // Other tests of this process have theirs, and end.
    let deadline = Clock.now + 200_000_000_000
    while descriptors() > before + 1, Clock.now < deadline { usleep(20_000) }
    #expect(descriptors() <= before + 1)
    #expect(rig.statuses.values.allSatisfy { $0 == 0 })
  }

  /// The one command that costs gigabytes stops at the limit, and costs this renderer at most.
  @Test func memoryIsLimited() throws {
    let rig = try RendererRig(deadline: 20_000_000_000) { $0.memory = 512 << 20 }
    try scene(rig)
    let huge = RenderShape(target: 0, format: 64, bind: 1 << 4, width: .max, height: 1)
    let outcome = try rig.ask(.createResource(60, huge))
    if outcome == .done || outcome == .lost { return }
    #expect(try rig.ask(.fence) == .done)
  }
}
