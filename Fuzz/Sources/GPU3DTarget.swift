import Fences
import Linux
import VirtioGPU

/// A guest's 3D commands to the real device, whose renderer answers late, out of order, with
/// refusals, or dies.
enum GPU3DTarget {
  /// What the bytes of an input mean; the commands are those of ``GPU3DScript``.
  enum Step: UInt8, CaseIterable {
    /// Kind and context, then the command.
    case command
    /// The same, but the loop does not turn: several requests at once.
    case queued
    case turn
    /// The renderer does some of what waits: how many, whether it refuses.
    case work
    /// It does the youngest, as a fence that has nothing to wait for.
    case workLast
    case die
    case live
    /// Its next pictures: retired, of a wrong size.
    case pictures
    case release
    case expire
    case restartRing
    case reset
    case memory
    case stopAndGo
  }

  static func run(_ input: consuming Input) throws {
    var input = input
    Stock.clean(GPUBench.Place.pages)
    let renderer = ModelRenderer()
    let bench = try GPUBench(mode: input.u8(), renderer: renderer)
    try bench.connect()
    for _ in 0..<200 where !input.isEmpty { try step(&input, bench, renderer) }
    renderer.isAlive = true
    try bench.finish()
    renderer.finish()
  }

  private static func step(
    _ input: inout Input, _ bench: GPUBench, _ renderer: ModelRenderer
  ) throws {
    switch Step(rawValue: input.u8() % UInt8(Step.allCases.count)) {
    case .command:
      offer(&input, bench)
      try bench.turn()
    case .queued: offer(&input, bench)
    case .turn: try bench.turn()
    case .work:
      let choice = input.u8()
      renderer.work(Int(choice & 31), refuses: choice & 0x80 != 0)
      try bench.turn()
    case .workLast:
      renderer.workLast()
      try bench.turn()
    case .die: renderer.die("it was told to die")
    case .live: renderer.isAlive = true
    case .pictures:
      let choice = input.u8()
      renderer.retires = choice & 1 != 0
      renderer.lies = choice & 2 != 0
    case .release: bench.sink.release(Int(input.u8()))
    case .expire: bench.holds.expireAll()
    case .restartRing: try bench.restart(queue: UInt32(input.u8() & 1))
    case .reset: try bench.resetDevice()
    case .memory: try bench.shareMemory(all: input.flag())
    case .stopAndGo, nil:
      for queue in 0..<2 as Range<UInt32> { try bench.stop(queue) }
      try bench.start()
    }
  }

  private static func offer(_ input: inout Input, _ bench: GPUBench) {
    let kind = input.u8()
    let isCursor = GPU3DScript.Kind.of(kind) == .updateCursor
    bench.offer(GPU3DScript.read(kind, &input), queue: isCursor ? 1 : 0)
  }
}

/// Guests that behave: a program that draws, a compositor with two outputs, one that starts anew.
enum GPU3DSeeds {
  private typealias Step = GPU3DTarget.Step
  private typealias Kind = GPU3DScript.Kind

  static var all: [String: [UInt8]] {
    [
      "draw": [0] + start + picture(1) + frame(1) + frame(1) + drop(1) + work,
      "two-outputs": [0] + start + picture(1) + picture(2) + show(1, on: 0) + show(2, on: 1)
        + frame(1) + frame(2) + release,
      "late": [0] + start + picture(1) + flush(1) + flush(1) + flush(1) + work + work + drop(1),
      "dies": [0] + start + picture(1) + frame(1) + submit + [Step.die.rawValue] + flush(1)
        + [Step.live.rawValue] + start + picture(2) + frame(2),
      "refused": [0] + start + picture(1) + [Step.work.rawValue, 0x9f] + frame(1),
      "named-anew": [0] + start + picture(1) + show(1, on: 0) + flush(1) + flush(1)
        + command(.unref, [1, 0]) + command(.create, [1, 2, 2, 10, 8, 8, 1, 1, 0, 0, 0]) + work
        + work,
      "cursor": [0] + start + picture(4) + command(.updateCursor, [0, 5, 5, 4, 1, 1]) + work,
      "transfers": [0] + start + picture(1) + transfer(.transferToHost)
        + transfer(.transferFromHost) + command(.detachBacking, [1, 0]) + work,
      "reset": [0x40] + start + picture(1) + frame(1) + [Step.reset.rawValue] + start + picture(1),
      "unplug": [0] + start + picture(1, page: 200) + [Step.memory.rawValue, 0] + frame(1)
        + [Step.memory.rawValue, 1] + frame(1) + drop(1) + work,
      "capsets": [0] + command(.capsetInfo, [0, 0]) + command(.capset, [2, 1]),
    ]
  }

  private static func command(_ kind: Kind, fence: Bool = false, _ rest: [UInt8]) -> [UInt8] {
    [Step.command.rawValue, kind.rawValue | (fence ? 0x80 : 0), 1] + rest
  }

  private static let work = [Step.work.rawValue, 31]
  private static let release = [Step.release.rawValue, 8]
  private static var start: [UInt8] { command(.createContext, [4, 65, 66, 67, 68]) }
  private static func picture(_ id: UInt8, page: UInt8 = 40) -> [UInt8] {
    command(.create, [id, 2, 2, 10, 64, 64, 1, 1, 0, 0, 0]) + command(.attach, [id, 0])
      + command(.attachBacking, [id, 2, page, 2, page + 4, 2]) + work + show(id, on: 0)
  }
  private static func show(_ id: UInt8, on output: UInt8) -> [UInt8] {
    command(.setScanout, [0, 0, 64, 64, output, id])
  }
  private static var submit: [UInt8] {
    command(.submit, fence: true, [8, 8, 1, 2, 3, 4, 5, 6, 7, 8])
  }
  private static func flush(_ id: UInt8) -> [UInt8] { command(.flush, [0, 0, 64, 64, id, 0]) }
  private static func frame(_ id: UInt8) -> [UInt8] { submit + flush(id) + work + release }
  private static func transfer(_ kind: Kind) -> [UInt8] {
    command(kind, [0, 0, 0, 64, 64, 1, 0, 0, 1, 0, 0, 0])
  }
  private static func drop(_ id: UInt8) -> [UInt8] {
    command(.detach, [id, 0]) + command(.detachBacking, [id, 0]) + command(.unref, [id, 0])
  }
}
