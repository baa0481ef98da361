import Buffers
import CLinux
import Fences
import Linux
import Logging
import Pixels
import Scene
import Testing

@testable import QEMUDisplay

/// A display, its source, and a QEMU that can be exchanged.
final class QEMUBench {
  let loop: EventLoop
  let scene = Scene()
  let display: QEMUDisplay
  let source = QEMUFakeSource()

  init(
    way: QEMUDisplay.Way = .pixels, maxUpdate: Int = QEMUDisplay.maxUpdate,
    patience: UInt64 = QEMUDisplay.patience, leaveDeadline: UInt64 = HoldQueue.defaultDeadline
  ) throws {
    ph_ignore_sigpipe()  // as the daemon does: sendfile(2) has no MSG_NOSIGNAL
    loop = try EventLoop()
    var log = Logger(label: "test")
    log.logLevel = .critical
    display = QEMUDisplay(
      scene, on: loop, log: log, way: way, maxUpdate: maxUpdate, patience: patience,
      leaveDeadline: leaveDeadline)
    scene.add(display)
    loop.everyTurn { [unowned self] in
      // What is not there any more cannot be pulled late.
      for output in 0..<Scene.outputCount where source.canvases[output] == nil {
        scene.invalidate(output)
      }
      scene.finishTurn()
    }
  }

  /// Attaches a new socket.
  ///
  /// - Parameter sendBuffer: bytes for SO_SNDBUF, nil for the kernel's default.
  func attach(sendBuffer: CInt? = nil) throws -> FakeQEMU {
    var made: FakeQEMU?
    try UnixSocket.Pair(.stream).split { ours, theirs in
      if let sendBuffer { _ = ph_set_send_buffer(ours.raw, sendBuffer) }
      made = FakeQEMU(theirs)
      source.commit(to: scene)
      display.attach(ours)
    }
    return try #require(made)
  }

  /// Serves both ends until nothing moves any more.
  ///
  /// - Parameter limit: most bytes that QEMU reads at a time.
  func settle(_ qemu: FakeQEMU, limit: Int = .max) throws {
    var quiet = 0
    while quiet < 3 {
      let before = qemu.received
      qemu.serve(limit: limit)
      try loop.turn(timeout: 0)
      quiet = qemu.received == before ? quiet + 1 : 0
    }
  }

  /// Turns the loop until something has become true.
  func turn(_ qemu: FakeQEMU? = nil, until isTrue: () -> Bool) throws {
    var turns = 0
    while !isTrue(), turns < 2000 {
      qemu?.serve()
      try loop.turn(timeout: 5)
      turns += 1
    }
    #expect(isTrue())
  }

  func show(_ output: Int, damage: Rect? = nil) {
    let crop = source.crop(output)
    display.output(output, resized: (crop.width, crop.height))
    present(output, damage: damage)
  }

  func present(_ output: Int, damage: Rect? = nil, hold: Hold? = nil) {
    guard let frame = source.frame(output, damage: damage, hold: hold) else { return }
    display.present(frame)
  }
}

/// What the device does, each as a command of its own.
extension QEMUDisplay {
  func output(_ index: Int, resized size: (width: UInt32, height: UInt32)?) {
    scene.resize(index, to: size)
    scene.publish()
  }

  func present(_ commit: Commit) {
    if scene.size(commit.output) == nil {
      scene.resize(commit.output, to: (commit.crop.width, commit.crop.height))
    }
    scene.commit(commit)
    scene.publish()
  }

  func revoke(
    _ buffer: OfferedBuffer, reason: RevocationReason, released: @escaping () -> Void
  ) { scene.revoke(buffer, reason, released) }

  func cursor(_ state: CursorState, imageChanged: Bool) {
    scene.set(state)
    scene.publish()
  }
}

/// What QEMU would have on screen after some messages.
struct QEMUScreen {
  private(set) var sizes: [UInt32: (width: UInt32, height: UInt32)] = [:]
  private var pixels: [UInt32: [[UInt8]]] = [:]
  /// UPDATE before SCANOUT or outside of it, which QEMU does not survive.
  private(set) var faults = 0

  init(_ requests: [QEMURequest]) {
    for request in requests { take(request) }
  }

  /// Blue, green, red of each pixel, row by row.
  func colors(_ output: UInt32) -> [[UInt8]] { pixels[output] ?? [] }

  private mutating func take(_ request: QEMURequest) {
    switch request {
    case .scanout(let output, 0, _):
      sizes[output] = nil
      pixels[output] = nil
    case .scanout(let output, let width, let height):
      sizes[output] = (width, height)
      pixels[output] = Array(repeating: [0, 0, 0], count: Int(width) * Int(height))
    case .update(let output, let rect, let bytes):
      guard let size = sizes[output], rect.fits(width: size.width, height: size.height) else {
        faults += 1
        return
      }
      for row in 0..<Int(rect.height) {
        for column in 0..<Int(rect.width) {
          let at = (row * Int(rect.width) + column) * 4
          let to = (Int(rect.y) + row) * Int(size.width) + Int(rect.x) + column
          pixels[output]?[to] = Array(bytes[at..<at + 3])
        }
      }
    default: break
    }
  }
}
