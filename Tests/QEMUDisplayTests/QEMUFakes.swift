import Buffers
import CLinux
import Fences
import Glibc
import Linux
import Pixels
import QEMUDisplay
import Scene
import Testing

/// QEMU's end of a display socket.
final class FakeQEMU {
  private var socket: OwnedFD?
  private var reader = QEMUMessageReader(limit: 512 << 20)
  /// What was received, in order.
  private(set) var messages: [QEMUMessageReader.Message] = []
  /// Bytes received so far.
  private(set) var received = 0
  /// The display closed its end.
  private(set) var sawEnd = false
  /// Whether requests are answered as QEMU does.
  var answers = true
  var features: QEMUWire.Features = [.edid, .dmabuf2]
  /// Whether DMABUF_UPDATE is answered.
  var acknowledges = true
  /// Descriptors that came and wait for their DMABUF_SCANOUT, as QEMU keeps them.
  private(set) var strays: [SharedFD] = []
  var info = DisplayInfo(modes: [])
  /// EDIDs of the outputs this QEMU has; others get no answer.
  var edids: [[UInt8]] = []

  init(_ socket: consuming OwnedFD) { self.socket = consume socket }

  var requests: [QEMURequest] { messages.compactMap(\.request) }

  /// Requests about outputs and cursors.
  var shown: [QEMURequest] {
    requests.filter {
      switch $0 {
      case .scanout, .update, .cursorPosition, .cursorUpdate: return true
      default: return false
      }
    }
  }

  /// Requests about pictures, dma-bufs among them.
  var pictures: [QEMURequest] {
    requests.filter {
      switch $0 {
      case .scanout, .update, .dmabufScanout, .dmabufUpdate: return true
      default: return false
      }
    }
  }

  /// Answers a DMABUF_UPDATE that was left without answer.
  func acknowledge() {
    var reply = QEMUWire.Encoder()
    reply.dmabufUpdateReply()
    send(reply.bytes)
  }

  func close() { socket = nil }

  /// Reads what is there, at most `limit` bytes, and answers whole requests.
  func serve(limit: Int = .max) {
    var left = limit
    while left > 0 {
      let count = readOnce(min(left, 65_536))
      if count <= 0 { return }
      left -= count
    }
  }

  private func readOnce(_ limit: Int) -> Int {
    guard let fd = socket?.raw else { return 0 }
    var buffer = [UInt8](repeating: 0, count: limit)
    var fds: [CInt] = []
    var count = -1
    buffer.withUnsafeMutableBytes { bytes in
      do throws(Errno) {
        count = try UnixSocket.receive(fd, into: bytes, fds: &fds, dontWait: true).count
      } catch {
        sawEnd = sawEnd || error.code == ECONNRESET
      }
    }
    if count == 0 { sawEnd = true }
    strays += fds.map { SharedFD(OwnedFD(adopting: $0)) }
    guard count > 0 else { return count }
    received += count
    buffer.withUnsafeBytes { reader.append(UnsafeRawBufferPointer(rebasing: $0[..<count])) }
    while let message = try? reader.next() {
      messages.append(message)
      if answers { answer(message) }
    }
    return count
  }

  private func answer(_ message: QEMUMessageReader.Message) {
    var reply = QEMUWire.Encoder()
    switch message.request {
    case .getProtocolFeatures: reply.protocolFeaturesReply(features)
    case .getDisplayInfo: reply.displayInfoReply(info)
    case .dmabufUpdate:
      guard acknowledges else { return }
      reply.dmabufUpdateReply()
    case .getEDID(let output):
      guard Int(output) < edids.count else { return }
      reply.edidReply(edids[Int(output)])
    default: return
    }
    send(reply.bytes)
  }

  func send(_ bytes: [UInt8]) {
    guard let fd = socket?.raw else { return }
    _ = Glibc.send(fd, bytes, bytes.count, CInt(MSG_NOSIGNAL))
  }

  /// A header alone or with a payload, right or wrong.
  func send(request: UInt32, flags: UInt32 = 4, size: UInt32, payload: [UInt8] = []) {
    var bytes: [UInt8] = []
    for value in [request, flags, size] {
      withUnsafeBytes(of: value.littleEndian) { bytes.append(contentsOf: $0) }
    }
    send(bytes + payload)
  }
}

/// A GPU that reads what passes for a dma-buf until it is told to finish.
final class FakeReaders {
  /// Looks busy: the end of a pipe that takes no more (poll(2) says no `POLLOUT`).
  let dmaBuf: SharedFD
  /// Looks like a sync_file: an eventfd, readable with ``finish()``.
  let fence: SharedFD
  private let drain: OwnedFD

  init() throws {
    var ends: [CInt] = [-1, -1]
    try check(pipe(&ends) == 0 ? 0 : -errno, "pipe")
    drain = OwnedFD(adopting: ends[0])
    dmaBuf = SharedFD(OwnedFD(adopting: ends[1]))
    fence = SharedFD(OwnedFD(adopting: try check(ph_eventfd(0), "eventfd")))
    for end in ends { try check(ph_set_nonblocking(end, 1), "fcntl") }
    let bytes = [UInt8](repeating: 0, count: 4096)
    while write(dmaBuf.raw, bytes, bytes.count) > 0 {}
    #expect(!DmaBufFences.isIdle(dmaBuf.raw))
  }

  func finish() {
    var bytes = [UInt8](repeating: 0, count: 4096)
    while read(drain.raw, &bytes, bytes.count) > 0 {}
    _ = ph_eventfd_signal(fence.raw)
  }
}

/// Guest memory with a picture in it, in pieces that begin and end anywhere.
final class Canvas {
  let layout: PixelLayout
  private let memory: UnsafeMutableRawBufferPointer
  private let pieceSize: Int

  init(
    _ width: UInt32, _ height: UInt32, fourcc: FourCC = .xrgb8888, padding: UInt32 = 0,
    pieceSize: Int = .max
  ) {
    layout = PixelLayout(
      width: width, height: height, stride: width * 4 + padding, offset: 8, fourcc: fourcc)
    memory = .allocate(byteCount: Int(layout.size), alignment: 16)
    self.pieceSize = min(pieceSize, memory.count)
    fill(seed: 1)
  }

  deinit { memory.deallocate() }

  /// Paints something that differs in every byte's neighbourhood and with every seed.
  func fill(seed: UInt32) {
    var state = seed &* 2_654_435_761 | 1
    for index in memory.indices {
      state = state &* 1_664_525 &+ 1_013_904_223
      memory[index] = UInt8(state >> 24)
    }
  }

  var pixels: PixelSource? {
    var spans: [HostSpan] = []
    var at = 0
    while at < memory.count, let base = memory.baseAddress {
      let count = min(pieceSize, memory.count - at)
      spans.append(HostSpan(base: base + at, count: count))
      at += count
    }
    return PixelSource(layout: layout, spans: spans)
  }

  /// Blue, green, red of each pixel of a rectangle.
  func colors(_ rect: Rect) -> [[UInt8]] {
    var all: [[UInt8]] = []
    for y in rect.y..<rect.y + rect.height {
      for x in rect.x..<rect.x + rect.width {
        let at = Int(layout.offset) + Int(y) * Int(layout.stride) + Int(x) * 4
        let p = Array(memory[at..<at + 4])
        switch layout.fourcc {
        case .xrgb8888, .argb8888: all.append([p[0], p[1], p[2]])
        case .xbgr8888, .abgr8888: all.append([p[2], p[1], p[0]])
        case .bgrx8888, .bgra8888: all.append([p[3], p[2], p[1]])
        default: all.append([p[1], p[2], p[3]])
        }
      }
    }
    return all
  }
}

/// The device as displays see it: canvases and cursors of outputs.
final class QEMUFakeSource {
  var canvases: [Int: Canvas] = [:]
  var crops: [Int: Rect] = [:]
  var cursors: [Int: CursorState] = [:]
  /// The buffers under canvases.
  var buffers: [Int: OfferedBuffer] = [:]

  func crop(_ output: Int) -> Rect {
    let layout = canvases[output]?.layout
    return crops[output]
      ?? Rect(x: 0, y: 0, width: layout?.width ?? 0, height: layout?.height ?? 0)
  }

  /// Puts something that passes for a dma-buf under an output's canvas.
  func back(
    _ output: Int, id: UInt32 = 1, generation: UInt32 = 1,
    memory: OfferedBuffer.Memory = .guestPages, start: UInt64 = 0
  ) throws -> OfferedBuffer {
    let layout = try #require(canvases[output]?.layout)
    let inFile = PixelLayout(
      width: layout.width, height: layout.height, stride: layout.stride, offset: start,
      fourcc: layout.fourcc)
    let fd = try OwnedFD.open("/dev/null", O_RDONLY)
    let buffer = OfferedBuffer(
      id: id, generation: generation, layout: inFile, size: inFile.size, fd: SharedFD(fd),
      memory: memory)
    buffers[output] = buffer
    return buffer
  }

  func frame(_ output: Int, damage: Rect? = nil, hold: Hold? = nil) -> Commit? {
    guard let pixels = canvases[output]?.pixels else { return nil }
    let crop = crop(output)
    let whole = Rect(x: 0, y: 0, width: crop.width, height: crop.height)
    return Commit(
      output: output, crop: crop, damage: damage ?? whole, pixels: pixels,
      owner: canvases[output], buffer: buffers[output], lock: hold)
  }

  /// Has a scene show everything that is here and nothing else.
  func commit(to scene: Scene) {
    for output in 0..<Scene.outputCount {
      if canvases[output] == nil { scene.invalidate(output) }
      guard let frame = frame(output) else { continue }
      if scene.size(output).map({ $0 == (frame.crop.width, frame.crop.height) }) != true {
        scene.resize(output, to: (frame.crop.width, frame.crop.height))
      }
      if scene.commit(of: output) == nil { scene.commit(frame) }
    }
    for cursor in cursors.values { scene.set(cursor) }
    scene.publish()
  }
}
