import Buffers
import Glibc
import Linux
import Pixels
import QEMUDisplay
import Scene

/// QEMU's display socket: any replies to the display, which has pictures to show all the time.
enum DisplayTarget {
  /// What the bytes of an input mean.
  enum Step: UInt8, CaseIterable {
    /// Bytes as they are.
    case raw
    /// Request, flags, then the payload with its right size.
    case reply
    case features
    case read
    case turn
    case present
    case size
    case cursor
    case askInfo
    case askEDID
    case attach
    case detach
    case leave
  }

  static func run(_ input: consuming Input) throws {
    var input = input
    let bench = try DisplayBench(smallSocket: input.flag())
    for _ in 0..<256 where !input.isEmpty { try step(&input, bench) }
    try bench.finish()
  }

  private static func step(_ input: inout Input, _ bench: DisplayBench) throws {
    switch Step(rawValue: input.u8() % UInt8(Step.allCases.count)) {
    case .raw: try bench.peer?.send(input.take(Int(input.u16())))
    case .reply:
      let request = input.number()
      let flags = input.u8()
      let payload = input.take(Int(input.u16()))
      var script = Script()
      script.put(request)
      script.put(UInt32(flags))
      script.put(flags & 0x80 == 0 ? UInt32(payload.count) : input.number())
      try bench.peer?.send(script.bytes + payload)
    case .features:
      var encoder = QEMUWire.Encoder()
      encoder.protocolFeaturesReply(QEMUWire.Features(rawValue: UInt64(input.u8())))
      try bench.peer?.send(encoder.bytes)
    case .read: bench.read(limit: 64 << (Int(input.u8()) & 15))
    case .turn: for _ in 0...(input.u8() & 3) { try bench.loop.turn(timeout: 0) }
    case .present:
      let damage = Rect(
        x: input.number(), y: input.number(), width: input.number(), height: input.number())
      bench.present(Int(input.u8()) % 18, damage)
    case .size: bench.resize(Int(input.u8()) % 18, input.u8())
    case .cursor: bench.moveCursor(&input)
    case .askInfo: bench.askInfo()
    case .askEDID: bench.askEDID(Int(input.u8()) % 18)
    case .attach: try bench.attach()
    case .detach: bench.display.detach()
    case .leave, nil: if input.flag() { bench.peer?.close() } else { bench.peer?.shutWriting() }
    }
  }
}

/// A display, QEMU's end of its socket, and the pictures it shows.
final class DisplayBench {
  let loop: EventLoop
  let scene = Scene()
  let display: QEMUDisplay
  private(set) var peer: Peer?
  private let smallSocket: Bool
  private var reader = QEMUMessageReader(limit: 1 << 20)
  private var sizes: [Int: (width: UInt32, height: UInt32)] = [:]
  /// What QEMU would have on screen.
  private var surfaces: [UInt32: (width: UInt32, height: UInt32)] = [:]
  private var cursors: [Int: CursorState] = [:]
  private var serial: UInt64 = 0
  private var asked = 0
  private var answered = 0
  private static let side: UInt32 = 128
  private static let layout = PixelLayout(
    width: side, height: side, stride: side * 4, fourcc: .xrgb8888)

  init(smallSocket: Bool) throws {
    loop = try EventLoop()
    self.smallSocket = smallSocket
    display = QEMUDisplay(scene, on: loop, log: Stock.log)
    scene.add(display)
    loop.everyTurn { [unowned scene] in scene.finishTurn() }
    try attach()
  }

  func attach() throws {
    let (near, far) = try sockets(.stream)
    if smallSocket {
      var size: CInt = 4608
      setsockopt(far, SOL_SOCKET, SO_SNDBUF, &size, 4)
    }
    peer = near
    reader = QEMUMessageReader(limit: 1 << 20)
    surfaces = [:]
    display.attach(OwnedFD(adopting: far))
  }

  // MARK: The guest

  private func crop(_ output: Int) -> Rect? {
    sizes[output].map { Rect(x: 0, y: 0, width: $0.width, height: $0.height) }
  }

  private func frame(_ output: Int, _ damage: Rect? = nil) -> Commit? {
    guard let crop = crop(output), let base = Stock.memory.baseAddress else { return nil }
    let spans = (0..<4).map { HostSpan(base: base + $0 * 16384, count: 16384) }
    guard let pixels = PixelSource(layout: Self.layout, spans: spans) else { return nil }
    let inside = damage.flatMap { $0.intersection(crop) } ?? crop
    return Commit(
      output: output, crop: crop, damage: inside, pixels: pixels, buffer: nil, lock: nil)
  }

  func present(_ output: Int, _ damage: Rect) {
    guard let frame = frame(output, damage) else { return }
    scene.commit(frame)
    scene.publish()
  }

  func resize(_ output: Int, _ byte: UInt8) {
    let size = (width: UInt32(byte & 15) * 8, height: UInt32(byte >> 4) * 8)
    sizes[output] = size.width > 0 && size.height > 0 ? size : nil
    scene.resize(output, to: sizes[output])
    scene.publish()
  }

  func moveCursor(_ input: inout Input) {
    let output = Int(input.u8()) % 18
    let side = input.u8()
    var state = cursors[output] ?? CursorState(hiddenOn: output)
    state.x = Int32(bitPattern: input.number())
    state.y = Int32(bitPattern: input.number())
    state.hotX = input.number()
    if side & 1 == 0 {
      serial += 1
      let width = UInt32(side >> 1) + 1
      state.image = CursorImage(
        width: width, height: 64, pixels: [UInt8](repeating: 9, count: Int(width) * 256),
        serial: serial)
    } else if side & 2 != 0 {
      state.image = nil
    }
    cursors[output] = state
    scene.set(state)
    scene.publish()
  }

  // MARK: Questions

  func askInfo() {
    asked += 1
    display.displayInfo { [self] info in
      answered += 1
      if let info { claim(info.modes.count == DisplayInfo.outputs, "another number of outputs") }
    }
  }

  func askEDID(_ output: Int) {
    asked += 1
    display.edid(output: output) { [self] edid in
      answered += 1
      if let edid { claim((1...1024).contains(edid.count), "an EDID of \(edid.count) bytes") }
    }
  }

  // MARK: QEMU

  /// Reads some bytes and checks what QEMU would believe.
  func read(limit: Int) {
    guard let (bytes, fds) = peer?.receive(limit: min(limit, 65536)) else { return }
    claim(fds == 0, "a descriptor that no message needs")
    bytes.withUnsafeBytes { reader.append($0) }
    do throws(QEMUMessageReader.Failure) {
      while let message = try reader.next() {
        guard let request = message.request else {
          return claim(false, "QEMU cannot read message \(message.header.request)")
        }
        judge(request)
      }
    } catch { claim(false, "QEMU cannot read a message: \(error)") }
  }

  private func judge(_ request: QEMURequest) {
    switch request {
    case .scanout(let output, let width, let height):
      claim(output < 16, "SCANOUT of output \(output)")
      surfaces[output] = width > 0 && height > 0 ? (width, height) : nil
    case .update(let output, let rect, _):
      guard let surface = surfaces[output] else {
        return claim(false, "UPDATE of output \(output), which is off")
      }
      claim(
        !rect.isEmpty && rect.fits(width: surface.width, height: surface.height),
        "UPDATE outside of output \(output)")
    case .cursorPosition(let output, _, _, _): claim(output < 16, "a cursor on \(output)")
    case .cursorUpdate(let output, _, _, let hotX, let hotY, _):
      claim(output < 16 && hotX < 64 && hotY < 64, "a cursor's hot spot is outside of it")
    case .getEDID(let output): claim(output < 16, "GET_EDID of output \(output)")
    default: break
    }
  }

  func finish() throws {
    try loop.turn(timeout: 0)
    while peer?.isOpen == true, asked < 1 << 20 {
      let waiting = reader.bytesWaiting
      read(limit: 65536)
      try loop.turn(timeout: 0)
      if reader.bytesWaiting == waiting { break }
    }
    claim(answered <= asked, "\(answered) answers to \(asked) questions")
    display.detach()
    claim(answered == asked, "\(answered) answers to \(asked) questions")
  }
}
