import Buffers
import Fences
import FrameProtocol
import FrameServer
import Glibc
import Linux
import PinholeProtocol
import Pixels
import Scene

/// Consumers that say anything to the frame server, which has frames for them all the time.
enum FramesTarget {
  /// What the bytes of an input mean; most begin with the number of the consumer.
  enum Step: UInt8, CaseIterable {
    case connect
    /// Gifts, bytes as they are.
    case raw
    /// Flags, version, features, name.
    case hello
    /// The newest frame it was sent, or any.
    case done
    /// The newest removal it was sent, or any.
    case closed
    case read
    case turn
    case output
    case present
    case revoke
    case cursor
    case leave
  }

  static func run(_ input: consuming Input) throws {
    var input = input
    let bench = try FramesBench()
    for _ in 0..<256 where !input.isEmpty { try step(&input, bench) }
    try bench.finish()
  }

  private static func step(_ input: inout Input, _ bench: FramesBench) throws {
    switch Step(rawValue: input.u8() % UInt8(Step.allCases.count)) {
    case .connect: try bench.connect()
    case .raw:
      let consumer = bench.consumer(input.u8())
      let gifts = Peer.gifts(&input)
      try consumer?.peer.send(input.take(Int(input.u16()) % 1100), gifts: gifts)
    case .hello:
      let consumer = bench.consumer(input.u8())
      var hello = pinhole_consumer_hello()
      hello.flags = UInt32(input.u8())
      hello.magic = PINHOLE_MAGIC
      let versions = input.u8()
      hello.min_version = UInt32(versions & 15)
      hello.max_version = UInt32(versions >> 4)
      hello.features = UInt64(input.u8())
      hello.stride_align = input.number()
      let name = input.take(Int(input.u8()) % 40)
      withUnsafeMutableBytes(of: &hello.name) { $0.copyBytes(from: name.prefix($0.count)) }
      try consumer?.send(PINHOLE_CONSUMER_HELLO, &hello, \.header)
    case .done: try bench.consumer(input.u8())?.done(&input)
    case .closed: try bench.consumer(input.u8())?.closed(&input)
    case .read: bench.consumer(input.u8())?.read(Int(input.u8()) % 64)
    case .turn: for _ in 0...(input.u8() & 7) { try bench.loop.turn(timeout: 0) }
    case .output: bench.output(Int(input.u8()) % 17, input.u8())
    case .present: try bench.present(&input)
    case .revoke: bench.revoke(input.u8(), input.u8())
    case .cursor: bench.cursor(&input)
    case .leave, nil: bench.leave(input.u8())
    }
  }
}

/// One consumer, which remembers what it was told.
final class FuzzedConsumer {
  let peer: Peer
  private var frames: [pinhole_frame] = []
  private var removals: [pinhole_buffer_remove] = []
  private var known: Set<UInt64> = []
  private var outputs: [UInt32: pinhole_output] = [:]
  private var serials: [UInt32: UInt64] = [:]
  private var heard = 0

  init(_ peer: Peer) { self.peer = peer }

  func send<Body: BitwiseCopyable>(
    _ type: pinhole_message, _ body: inout Body, _ header: WritableKeyPath<Body, pinhole_header>
  ) throws {
    body[keyPath: header] = pinhole_header(
      type: type.rawValue, size: UInt32(MemoryLayout<Body>.size))
    try peer.send(withUnsafeBytes(of: body) { [UInt8]($0) })
  }

  func done(_ input: inout Input) throws {
    var done = pinhole_frame_done()
    let choice = input.u8()
    if choice < 0xf0, !frames.isEmpty {
      let frame = frames.remove(at: Int(choice) % frames.count)
      done.output = frame.output
      done.serial = frame.serial
    } else {
      done.output = input.number()
      done.serial = UInt64(input.u8())
      done.release_kind = input.number()
    }
    try send(PINHOLE_FRAME_DONE, &done, \.header)
  }

  func closed(_ input: inout Input) throws {
    var closed = pinhole_buffer_closed()
    let choice = input.u8()
    if choice < 0xf0, !removals.isEmpty {
      let removal = removals.remove(at: Int(choice) % removals.count)
      closed.buffer = removal.buffer
      closed.generation = removal.generation
    } else {
      closed.buffer = input.number()
      closed.generation = input.number()
    }
    try send(PINHOLE_BUFFER_CLOSED, &closed, \.header)
  }

  /// Reads packets and judges them by the protocol.
  func read(_ count: Int) {
    for _ in 0..<count {
      guard let (bytes, fds) = peer.receive(limit: 2048) else { return }
      bytes.withUnsafeBytes { judge($0, fds) }
    }
  }

  private func judge(_ packet: UnsafeRawBufferPointer, _ fds: Int) {
    guard let header = try? WireHeader(packet) else {
      return claim(false, "the server's packet has a bad header")
    }
    heard += 1
    let type = pinhole_message(rawValue: header.type)
    claim(
      (type == PINHOLE_PRODUCER_HELLO) == (heard == 1) || type == PINHOLE_ERROR,
      "\(WireName.message(header.type)) is message \(heard)")
    switch type {
    case PINHOLE_OUTPUT:
      let output = packet.loadUnaligned(as: pinhole_output.self)
      outputs[output.output] = output
    case PINHOLE_BUFFER_ADD:
      let buffer = packet.loadUnaligned(as: pinhole_buffer_add.self)
      claim(fds == 1, "BUFFER_ADD with \(fds) descriptors")
      claim(
        known.insert(Self.key(buffer.buffer, buffer.generation)).inserted, "BUFFER_ADD twice")
    case PINHOLE_FRAME: judge(packet.loadUnaligned(as: pinhole_frame.self))
    case PINHOLE_BUFFER_REMOVE:
      let removal = packet.loadUnaligned(as: pinhole_buffer_remove.self)
      claim(
        known.remove(Self.key(removal.buffer, removal.generation)) != nil,
        "BUFFER_REMOVE of a buffer that is not there")
      removals.append(removal)
    default: break
    }
  }

  private func judge(_ frame: pinhole_frame) {
    claim(known.contains(Self.key(frame.buffer, frame.generation)), "FRAME of an unknown buffer")
    guard let output = outputs[frame.output], output.flags & PINHOLE_OUTPUT_ENABLED != 0 else {
      return claim(false, "FRAME of output \(frame.output), which is off")
    }
    claim(
      frame.crop.width == output.width && frame.crop.height == output.height,
      "FRAME of another size than its output's")
    claim(frame.serial > serials[frame.output] ?? 0, "serials do not rise")
    serials[frame.output] = frame.serial
    frames.append(frame)
  }

  private static func key(_ id: UInt32, _ generation: UInt32) -> UInt64 {
    UInt64(id) << 32 | UInt64(generation)
  }
}

/// The server, its consumers, and a device with a few buffers.
final class FramesBench {
  let loop: EventLoop
  private let scene = Scene()
  private let server: FrameServer
  private var consumers: [FuzzedConsumer] = []
  private var sizes: [Int: (width: UInt32, height: UInt32)] = [:]
  private var buffers: [OfferedBuffer] = []
  private var retired: [OfferedBuffer] = []
  private var nextID: UInt32 = 1
  private var revoked = 0
  private var released = 0
  private var holds = 0
  private var answers = 0
  private var serial: UInt64 = 0
  private let file: SharedFD
  static let side: UInt32 = 64

  init() throws {
    loop = try EventLoop()
    var options = FrameServer.Options()
    options.holdDeadline = 3_600_000_000_000
    options.closeDeadline = 3_600_000_000_000
    options.maxConsumers = 3
    server = FrameServer(scene, loop: loop, options: options, log: Stock.log)
    file = SharedFD(try MemFD.create("fuzz-buffer", size: 1 << 16))
    scene.add(server)
    loop.everyTurn { [unowned scene] in scene.finishTurn() }
    for _ in 0..<3 { buffers.append(newBuffer()) }
  }

  private func newBuffer(_ id: UInt32? = nil, generation: UInt32 = 1) -> OfferedBuffer {
    if id == nil { nextID += 1 }
    let layout = PixelLayout(
      width: Self.side, height: Self.side, stride: Self.side * 4, fourcc: .xrgb8888)
    return OfferedBuffer(
      id: id ?? nextID, generation: generation, layout: layout, size: 1 << 16, fd: file,
      memory: .guestPages)
  }

  func connect() throws {
    guard consumers.count < 5 else { return }
    let (near, far) = try sockets(.seqpacket)
    var size: CInt = 4608
    setsockopt(far, SOL_SOCKET, SO_SNDBUF, &size, 4)
    consumers.append(FuzzedConsumer(near))
    server.serve(OwnedFD(adopting: far))
  }

  func consumer(_ byte: UInt8) -> FuzzedConsumer? {
    consumers.isEmpty ? nil : consumers[Int(byte) % consumers.count]
  }

  func leave(_ byte: UInt8) {
    guard !consumers.isEmpty else { return }
    consumers.remove(at: Int(byte) % consumers.count).peer.close()
  }

  func output(_ index: Int, _ byte: UInt8) {
    let size = (width: UInt32(byte & 7) * 8, height: UInt32(byte >> 3 & 7) * 8)
    sizes[index] = size.width > 0 && size.height > 0 ? size : nil
    scene.resize(index, to: sizes[index])
    scene.publish()
  }

  private func frame(_ output: Int, _ buffer: OfferedBuffer, damage: Rect?, hold: Hold?) -> Commit?
  {
    guard let size = sizes[output], let base = Stock.memory.baseAddress,
      let layout = buffer.layout.packed
    else { return nil }
    let crop = Rect(x: 0, y: 0, width: size.width, height: size.height)
    let pixels = PixelSource(layout: layout, spans: [HostSpan(base: base, count: 1 << 16)])
    guard let pixels else { return nil }
    return Commit(
      output: output, crop: crop, damage: damage.flatMap { $0.intersection(crop) } ?? crop,
      pixels: pixels, buffer: buffer, lock: hold)
  }

  func present(_ input: inout Input) throws {
    let output = Int(input.u8()) % 17
    let buffer = buffers[Int(input.u8()) % buffers.count]
    let damage = Rect(
      x: UInt32(input.u8()), y: UInt32(input.u8()), width: UInt32(input.u8()),
      height: UInt32(input.u8()))
    let hold = Hold { [self] in answers += 1 }
    guard let frame = frame(output, buffer, damage: damage, hold: hold) else { return }
    holds += 1
    scene.commit(frame)
    scene.publish()
    hold.release()
  }

  func revoke(_ which: UInt8, _ reason: UInt8) {
    let index = Int(which) % buffers.count
    let old = buffers[index]
    retired.append(old)
    buffers[index] =
      which & 0x80 == 0
      ? newBuffer() : newBuffer(old.id, generation: old.generation + 1)
    revoked += 1
    var isReleased = false
    scene.revoke(old, RevocationReason(rawValue: UInt32(reason) % 8) ?? .unused) { [self] in
      claim(!isReleased, "a revocation was answered twice")
      isReleased = true
      released += 1
    }
  }

  func cursor(_ input: inout Input) {
    let side = UInt32(input.u8()) + 1
    serial += 1
    let pixels = [UInt8](repeating: 1, count: Int(side * side) * 4)
    let image = CursorImage(width: side, height: side, pixels: pixels, serial: serial)
    var state = CursorState(hiddenOn: Int(input.u8()) % 17)
    state.x = Int32(bitPattern: input.number())
    state.image = input.flag() ? image : nil
    scene.set(state)
    scene.publish()
  }

  func finish() throws {
    for _ in 0..<4 { try loop.turn(timeout: 0) }
    for consumer in consumers { consumer.read(256) }
    claim(released <= revoked && answers <= holds, "more was given back than was lent")
    for consumer in consumers { consumer.peer.close() }
    for _ in 0..<64 where server.consumers > 0 { try loop.turn(timeout: 0) }
    server.close()
    claim(released == revoked, "\(released) of \(revoked) revocations were answered")
    claim(answers == holds, "\(answers) of \(holds) fences were answered")
    for buffer in buffers + retired {
      claim(buffer.lock.readers == 0, "buffer \(buffer.id) is in use by nobody")
    }
  }
}
