import FakeGuest
import Glibc
import Linux
import Pixels

/// Something that shows a guest's pictures in QEMU's display, and can be measured doing so.
protocol Contestant: AnyObject {
  /// Shows one frame of the scene and waits until the display has all of it.
  func play() throws(GuestError)
  /// Nanoseconds of processor time that it has had so far.
  var processorTime: UInt64 { get }
}

/// A program that serves a vhost-user GPU on a socket.
struct BackEnd {
  /// What the table calls it.
  let name: String
  /// The program and its arguments, given the path of the socket it should listen on.
  let command: (String) -> [String]

  /// Pinhole, as an operator starts it for QEMU's display.
  static func pinhole(_ program: String) -> BackEnd {
    BackEnd(name: "Pinhole") { [program, "serve", "--socket-path", $0] }
  }

  /// Pinhole for consumers of its frames, without a display of QEMU's.
  static func consumers(_ program: String) -> BackEnd {
    BackEnd(name: "Pinhole") {
      [
        program, "serve", "--socket-path", $0, "--frames-socket", Serving.frames(beside: $0),
        "--qemu-display", "off",
      ]
    }
  }

  /// QEMU's own back-end, contrib/vhost-user-gpu.
  static func qemu(_ program: String) -> BackEnd {
    BackEnd(name: "QEMU's vhost-user-gpu") { [program, "--socket-path", $0] }
  }
}

/// A back-end that runs, with a front-end, a guest driver and a display connected to it.
final class RunningBackEnd: Contestant {
  private let scene: Scene
  private let driver: GPUDriver
  private let display: BenchDisplay
  private let serving: Serving
  private var outputs: [[Framebuffer]] = []
  private var frame = 0
  private var expected: UInt64 = 0
  private var row: [UInt8]

  /// Starts it, connects as QEMU does, and shows the first pictures.
  init(_ backEnd: BackEnd, _ scene: Scene) throws(GuestError) {
    self.scene = scene
    row = [UInt8](repeating: 0, count: scene.width * 4)
    serving = try Serving(backEnd)
    let memory = scene.memory
    let frontEnd = try serving.connect(
      try GuestRAM(size: memory, regions: GuestRAM.pcRegions(size: memory)))
    display = try BenchDisplay((UInt32(scene.width), UInt32(scene.height)))
    try display.start()
    try frontEnd.channel.tell(.gpuSetSocket, fds: [display.theirs.raw])
    driver = try GPUDriver(frontEnd)
    var id: UInt32 = 0
    for _ in 0..<scene.outputs {
      var buffers: [Framebuffer] = []
      for _ in 0..<(scene.flips ? 2 : 1) {
        id += 1
        buffers.append(
          try Framebuffer(
            driver, resource: id, width: scene.width, height: scene.height,
            placement: scene.scattered ? .scattered(seed: UInt64(id)) : .contiguous()))
      }
      outputs.append(buffers)
    }
    for _ in 0..<2 { try show(scene.whole) }
  }

  deinit { display.stop() }

  /// KiB of memory that only it has.
  var ownMemory: UInt64 { Machine.ownMemory(of: serving.pid) }
  /// How often its threads were woken so far.
  var switches: UInt64 { Machine.switches(of: serving.pid) }
  var processorTime: UInt64 { Machine.processorTime(of: serving.pid) }

  func play() throws(GuestError) { try show(scene.damage) }

  private func show(_ damage: Rect) throws(GuestError) {
    frame += 1
    for (index, buffers) in outputs.enumerated() {
      let buffer = buffers[frame % buffers.count]
      draw(buffer, damage)
      var commands = buffer.flushCommands(damage)
      if scene.flips || frame <= 2 {
        commands.insert(buffer.showCommand(on: UInt32(index)), at: 1)
      }
      try driver.perform(together: commands)
      expected += UInt64(damage.width) * UInt64(damage.height)
    }
    let deadline = Clock.now + 10_000_000_000
    while display.pixels < expected {
      guard Clock.now < deadline else {
        throw .timedOut("\(expected) pixels on the display, which has \(display.pixels)")
      }
      usleep(50)
    }
    // A new size or picture sends the whole, whatever the damage.
    expected = display.pixels
  }

  /// Every pixel of the damage gets a value that it did not have.
  private func draw(_ buffer: Framebuffer, _ damage: Rect) {
    let seed = UInt32(truncatingIfNeeded: frame &* 0x9e37_79b9)
    row.withUnsafeMutableBytes { row in
      for y in damage.y..<(damage.y + damage.height) {
        let start = (Int(y) * scene.width + Int(damage.x)) * 4
        fillPixels(row, 0, Int(damage.width), seed &+ y)
        driver.ram.write(
          UnsafeRawBufferPointer(rebasing: row.prefix(Int(damage.width) * 4)), to: buffer.pages,
          at: start)
      }
    }
  }
}
