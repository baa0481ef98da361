import CLinux
import Glibc
import Linux
import Pixels

/// One display socket's life, served by one thread.
final class DisplaySession {
  private enum Request {
    static let getProtocolFeatures: UInt32 = 1
    static let setProtocolFeatures: UInt32 = 2
    static let getDisplayInfo: UInt32 = 3
    static let cursorPos: UInt32 = 4
    static let cursorPosHide: UInt32 = 5
    static let cursorUpdate: UInt32 = 6
    static let scanout: UInt32 = 7
    static let update: UInt32 = 8
    static let dmabufScanout: UInt32 = 9
    static let dmabufUpdate: UInt32 = 10
    static let getEDID: UInt32 = 11
    static let dmabufScanout2: UInt32 = 12
  }

  private typealias State = FakeDisplay.State
  private let socket: SharedFD
  private let state: Locked<FakeDisplay.State>
  private let wakeUp: SharedFD
  private let stopping: Locked<Bool>
  private var fds: [SharedFD] = []

  init(
    _ socket: SharedFD, _ state: Locked<FakeDisplay.State>, _ wakeUp: SharedFD,
    _ stopping: Locked<Bool>
  ) {
    self.socket = socket
    self.state = state
    self.wakeUp = wakeUp
    self.stopping = stopping
  }

  func run() {
    while let header = receive(12) {
      let request: UInt32 = WireBytes.read(header, 0)
      let flags: UInt32 = WireBytes.read(header, 4)
      let size: UInt32 = WireBytes.read(header, 8)
      if request == Request.update { usleep(state.withLock { $0.behaviour.lateness } * 1000) }
      guard size <= 256 << 20, let payload = receive(Int(size)) else { break }
      if flags != 0 { complain("request \(request) came with flags \(flags)") }
      let fd = fds.isEmpty ? nil : fds.removeFirst()
      if fd != nil, request != Request.dmabufScanout, request != Request.dmabufScanout2 {
        complain("request \(request) came with a descriptor, which the next scanout would take")
      }
      serve(request, payload, fd)
      // Who waits for the count then sees what the message did.
      state.withLock { $0.messages[request, default: 0] += 1 }
    }
    let stopped = stopping.withLock { $0 }
    if !stopped { state.withLock { $0.closed = true } }
  }

  private func complain(_ what: String) { state.withLock { $0.violations.append(what) } }

  /// Reads exactly `count` bytes; nil at the end, or when the display stops.
  private func receive(_ count: Int) -> [UInt8]? {
    var bytes = [UInt8](repeating: 0, count: count)
    var done = 0
    while done < count {
      let stalled = state.withLock { $0.behaviour.stalled }
      let ready = waitReadable(
        stalled ? [wakeUp.raw] : [wakeUp.raw, socket.raw], milliseconds: 1000)
      if stopping.withLock({ $0 }) { return nil }
      if ready[0] { _ = ph_drain(wakeUp.raw) }
      guard !stalled, ready[1] else { continue }
      var received: [CInt] = []
      let from = done
      let got = bytes.withUnsafeMutableBytes { p in
        try? UnixSocket.receive(
          socket.raw, into: UnsafeMutableRawBufferPointer(rebasing: p[from...]), fds: &received
        ).count
      }
      for fd in received { fds.append(SharedFD(OwnedFD(adopting: fd))) }
      guard let got, got > 0 else { return nil }
      done += got
    }
    return bytes
  }

  private func answer(_ request: UInt32, _ payload: [UInt8]) {
    let behaviour = state.withLock { $0.behaviour }
    if behaviour.delay > 0 { usleep(behaviour.delay * 1000) }
    if behaviour.silent { return }
    var message = WireBytes(u32: request, 4, UInt32(payload.count)).bytes + payload
    if let bytes = behaviour.replyBytes { message = bytes }
    var sent = 0
    while sent < message.count {
      let from = sent
      let count = message.withUnsafeBytes { p in
        try? UnixSocket.send(socket.raw, UnsafeRawBufferPointer(rebasing: p[from...]))
      }
      guard let count else { return }
      sent += count
    }
  }

  private func serve(_ request: UInt32, _ payload: [UInt8], _ fd: SharedFD?) {
    func expect(_ size: Int) -> Bool {
      if payload.count == size { return true }
      complain("request \(request) has \(payload.count) bytes of payload, not \(size)")
      return false
    }
    switch request {
    case Request.getProtocolFeatures where expect(0):
      answer(request, WireBytes(u64: state.withLock { $0.behaviour.protocolFeatures }).bytes)
    case Request.setProtocolFeatures where expect(8):
      state.withLock { $0.acknowledgedFeatures = WireBytes.read(payload, 0) }
    case Request.getDisplayInfo where expect(0): answer(request, displayInfo())
    case Request.getEDID where expect(4): answer(request, edid(WireBytes.read(payload, 0)))
    case Request.cursorPos where expect(12), Request.cursorPosHide where expect(12):
      state.withLock { Self.move(&$0.cursor, payload, visible: request == Request.cursorPos) }
    case Request.cursorUpdate where expect(20 + 64 * 64 * 4): cursorUpdate(payload)
    case Request.scanout where expect(12): scanout(payload)
    case Request.update: update(payload)
    case Request.dmabufScanout where expect(40): dmabufScanout(payload, fd, modifier: nil)
    case Request.dmabufScanout2 where expect(48):
      dmabufScanout(payload, fd, modifier: WireBytes.read(payload, 40))
    case Request.dmabufUpdate where expect(20): dmabufUpdate(payload)
    case 1...12: break
    default: complain("unknown request \(request)")
    }
  }

  private func displayInfo() -> [UInt8] {
    let modes = state.withLock { $0.behaviour.modes }
    // The payload is a whole virtio_gpu_resp_display_info, its header included.
    var bytes = WireBytes(u32: 0x1101, 0, 0, 0, 0, 0)
    for i in 0..<16 {
      let mode = i < modes.count ? modes[i] : (width: 0, height: 0)
      for word in [0, 0, mode.width, mode.height, i < modes.count ? 1 : 0, 0] { bytes.put(word) }
    }
    return bytes.bytes
  }

  private func edid(_ scanout: UInt32) -> [UInt8] {
    let modes = state.withLock { $0.behaviour.modes }
    let mode = Int(scanout) < modes.count ? modes[Int(scanout)] : (width: 640, height: 480)
    let data = FakeEDID.bytes(width: Int(mode.width), height: Int(mode.height))
    var bytes = WireBytes(u32: 0x1104, 0, 0, 0, 0, 0, UInt32(data.count), 0).bytes + data
    bytes += [UInt8](repeating: 0, count: 1024 - data.count)
    return bytes
  }

  private static func move(
    _ cursor: inout FakeDisplay.Cursor, _ payload: [UInt8], visible: Bool
  ) {
    cursor.scanout = WireBytes.read(payload, 0)
    cursor.x = WireBytes.read(payload, 4)
    cursor.y = WireBytes.read(payload, 8)
    cursor.visible = visible
  }

  private func cursorUpdate(_ payload: [UInt8]) {
    let image = Self.words(payload, from: 20)
    state.withLock {
      Self.move(&$0.cursor, payload, visible: true)
      $0.cursor.hotX = WireBytes.read(payload, 12)
      $0.cursor.hotY = WireBytes.read(payload, 16)
      $0.cursor.image = image
    }
  }

  private static func words(_ bytes: [UInt8], from offset: Int) -> [UInt32] {
    let count = (bytes.count - offset) / 4
    return [UInt32](unsafeUninitializedCapacity: count) { words, filled in
      bytes.withUnsafeBytes { source in
        if let target = words.baseAddress, let base = source.baseAddress {
          memcpy(target, base + offset, count * 4)
        }
      }
      filled = count
    }
  }

  private func scanout(_ payload: [UInt8]) {
    let number: UInt32 = WireBytes.read(payload, 0)
    let width: UInt32 = WireBytes.read(payload, 4)
    let height: UInt32 = WireBytes.read(payload, 8)
    guard number < 16, width <= 16384, height <= 16384 else {
      complain("SCANOUT \(number) of \(width)×\(height)")
      return
    }
    state.withLock {
      var surface = $0.surfaces[number] ?? .init()
      if surface.dmabuf != nil, width == 0 || height == 0 {
        $0.violations.append("SCANOUT 0×0 does not let go of scanout \(number)'s dma-buf")
      }
      surface.changes += 1
      surface.width = Int(width)
      surface.height = Int(height)
      surface.dmabuf = nil
      surface.pixels = [UInt32](repeating: 0, count: Int(width) * Int(height))
      $0.surfaces[number] = surface
    }
  }

  private func update(_ payload: [UInt8]) {
    guard payload.count >= 20 else {
      complain("UPDATE of \(payload.count) bytes")
      return
    }
    let number: UInt32 = WireBytes.read(payload, 0)
    let words = (1...4).map { Int(WireBytes.read(payload, 4 * $0, as: UInt32.self)) }
    let (x, y, width, height) = (words[0], words[1], words[2], words[3])
    guard payload.count - 20 == width * height * 4 else {
      complain("UPDATE of \(width)×\(height) brings \(payload.count - 20) bytes")
      return
    }
    if let inspects = state.withLock({ $0.behaviour.inspects }) {
      inspects(Self.words(payload, from: 20))
    }
    state.withLock {
      guard var surface = $0.surfaces[number], !surface.pixels.isEmpty else {
        $0.violations.append("UPDATE of scanout \(number) before its SCANOUT")
        return
      }
      guard x + width <= surface.width, y + height <= surface.height else {
        $0.violations.append(
          "UPDATE \(width)×\(height)+\(x)+\(y) passes \(surface.width)×\(surface.height)")
        return
      }
      // Out of the dictionary first, so that the pixels are not copied.
      $0.surfaces[number] = nil
      surface.updates += 1
      let stride = surface.width
      surface.pixels.withUnsafeMutableBytes { target in
        payload.withUnsafeBytes { source in
          guard let to = target.baseAddress, let from = source.baseAddress else { return }
          for row in 0..<height {
            memcpy(to + ((y + row) * stride + x) * 4, from + 20 + row * width * 4, width * 4)
          }
        }
      }
      $0.surfaces[number] = surface
    }
  }

  private func dmabufScanout(_ payload: [UInt8], _ fd: SharedFD?, modifier: UInt64?) {
    let words = (0..<10).map { WireBytes.read(payload, 4 * $0, as: UInt32.self) }
    guard words[0] < 16 else {
      complain("DMABUF_SCANOUT \(words[0])")
      return
    }
    state.withLock {
      var surface = $0.surfaces[words[0]] ?? .init()
      surface.changes += 1
      surface.pixels = []
      surface.width = Int(words[3])
      surface.height = Int(words[4])
      surface.dmabuf = fd.map {
        FakeDisplay.DMABuf(
          fd: $0, rect: Rect(x: words[1], y: words[2], width: words[3], height: words[4]),
          stride: Int(words[7]), fourcc: words[9], modifier: modifier)
      }
      $0.surfaces[words[0]] = surface
    }
  }

  private func dmabufUpdate(_ payload: [UInt8]) {
    let number: UInt32 = WireBytes.read(payload, 0)
    let withhold = state.withLock { state -> Bool in
      if state.surfaces[number]?.dmabuf == nil {
        state.violations.append("DMABUF_UPDATE of scanout \(number) without a dma-buf")
      }
      state.surfaces[number]?.updates += 1
      return state.behaviour.withholdsAcknowledgements
    }
    if !withhold { answer(Request.dmabufUpdate, []) }
  }
}
