import Glibc
import Linux
import RenderWire
import Rendering
import Testing

/// In what order a renderer does things, and in whose name.
@Suite(.serialized, .enabled(if: hasRenderer, "libvirglrenderer or Mesa is not installed"))
struct RendererOrderTests {
  /// While more is asked than is done, a fence of before retires all the same.
  @Test func aFenceRetiresInAFlood() throws {
    let rig = try RendererRig()
    try rig.start()
    let link = try #require(rig.link)
    let picture: UInt32 = 2
    #expect(try rig.ask(.createContext(1, capset: 2, name: [])) == .done)
    #expect(try rig.ask(.createResource(picture, .picture(width: 64, height: 64))) == .done)
    #expect(try rig.ask(.attach(context: 1, resource: picture)) == .done)
    var stream = VirglStream()
    stream.target(surface: 1, resource: picture, format: RenderShape.bgrx)
    stream.clear((0, 0, 1, 1))
    #expect(try rig.submit(1, stream.bytes) == .done)
    var outstanding = 0
    var isRetired = false
    link.send(.fence) {
      #expect($0 == .done)
      isRetired = true
    }
    let bound = Clock.now + 60_000_000_000
    while !isRetired, rig.end == nil, Clock.now < bound {
      // The socket never runs dry.
      while outstanding < 2000 {
        outstanding += 1
        link.send(.attach(context: 1, resource: picture)) { _ in outstanding -= 1 }
      }
      try rig.loop.turn(timeout: 100)
    }
    #expect(isRetired)
    #expect(outstanding > 0)
  }

  /// What is done in a guest's context and what is done in none take turns; neither shows in the
  /// other.
  @Test func contextsTakeTurns() throws {
    let rig = try RendererRig()
    try rig.start()
    let side: UInt32 = 16
    let all = RenderBox(width: side, height: side)
    let memory = try SharedMemory(Int(side * side * 4))
    #expect(try rig.ask(.addFile(1, size: memory.size), memory.fd) == .done)
    let run = RenderRun(file: 1, offset: 0, count: memory.size)
    let colours: [UInt32: (Float, Float, Float, Float)] = [1: (1, 0, 0, 1), 2: (0, 1, 0, 1)]
    let pixels: [UInt32: UInt32] = [1: 0xff_0000, 2: 0x00_ff00]
    for id: UInt32 in 1...2 {
      #expect(try rig.ask(.createContext(id, capset: 2, name: [])) == .done)
      #expect(try rig.ask(.createResource(id, .picture(width: side, height: side))) == .done)
      #expect(try rig.ask(.attach(context: id, resource: id)) == .done)
      #expect(try rig.ask(.attachBacking(id, [run])) == .done)
    }
    for step in UInt32(0)..<6 {
      for id: UInt32 in 1...2 {
        var stream = VirglStream()
        stream.target(surface: 10 + step, resource: id, format: RenderShape.bgrx)
        stream.clear(colours[id] ?? (0, 0, 0, 0))
        #expect(try rig.submit(id, stream.bytes) == .done)
      }
      // In no context: made, read, read again, and let go.
      let extra = RenderRequest.createResource(50, .picture(width: side, height: side))
      #expect(try rig.ask(extra) == .done)
      for id: UInt32 in 1...2 {
        for context in [0, id, 0] {
          memory.fill(0)
          let transfer = RenderTransfer(context: context, resource: id, box: all)
          #expect(try rig.ask(.transferFromHost(transfer)) == .done)
          #expect(memory.pixel(9) & 0xff_ffff == pixels[id], "\(id) in \(context), step \(step)")
        }
        memory.fill(0)
        #expect(try rig.ask(.readBack(id, all, run, stride: side * 4)) == .done)
        #expect(memory.pixel(9) & 0xff_ffff == pixels[id])
      }
      #expect(try rig.ask(.destroyResource(50)) == .done)
      // Nonsense is told of each time, whatever came between.
      #expect(try rig.ask(.createContext(9, capset: 2, name: [])) == .done)
      #expect(try rig.submit(9, Array(repeating: 0xff, count: 64)) != .done)
      #expect(try rig.ask(.fence) == .done)
      #expect(try rig.submit(9, Array(repeating: 0xff, count: 64)) != .done)
      #expect(try rig.ask(.destroyContext(9)) == .done)
    }
  }

  /// The one that was kept ready takes over, and another one is made ready.
  @Test func theSpareIsTaken() throws {
    let rig = try RendererRig { $0.keepsSpare = true }
    func children() -> [UInt32] {
      wholeText("/proc/\(rig.starter.pid)/task/\(rig.starter.pid)/children")
        .split(separator: " ").compactMap { UInt32($0) }
    }
    try rig.start()
    for _ in 0..<3 {
      let bound = Clock.now + 60_000_000_000
      while children().count < 2, Clock.now < bound { try rig.loop.turn(timeout: 10) }
      let present = rig.pid
      let spare = try #require(children().first { $0 != present })
      kill(CInt(bitPattern: present), SIGKILL)
      try rig.turn { rig.statuses[rig.number] != nil }
      try rig.start()
      #expect(rig.pid == spare)
    }
  }
}
