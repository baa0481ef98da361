import Command
import Glibc
import KMS
import Linux
import PinholeFrames
import PinholeProtocol
import Pixels

/// Takes one output's frames to a screen.
package final class KMSShow {
  /// What is shown where.
  package struct Options {
    /// The display's device.
    package var device: String
    /// Which output of the guest.
    package var output: UInt32
    /// Such as `HDMI-A-1`; nil: the first with a display.
    package var connector: String?
    /// The mode in pixels; nil: the guest's size, or the preferred one.
    package var size: (width: UInt32, height: UInt32)?
    /// Pictures that are copied go into memory of the display's driver's choice, where it has one.
    package var usesGBM = true

    /// Where there is a display, in whatever mode.
    package init(device: String, output: UInt32) {
      self.device = device
      self.output = output
    }
  }

  /// A frame's memory, as the screen knows it.
  private enum Picture {
    case imported(ImportedFramebuffer, BufferName)
    case copied(any PaintedFramebuffer)

    var id: UInt32 {
      switch self {
      case .imported(let frame, _): return frame.id
      case .copied(let frame): return frame.id
      }
    }

    func shows(_ name: BufferName) -> Bool {
      if case .imported(_, name) = self { return true }
      return false
    }
  }

  private let options: Options
  private let consumer: FrameConsumer
  private var screen: KMSScreen?
  /// Tells when the screen's device goes.
  private var node: NodeWatch?
  private var imports: [BufferName: ImportedFramebuffer] = [:]
  private var refused: Set<BufferName> = []
  private var copies: [any PaintedFramebuffer] = []
  /// What is on screen, or will be with the next event.
  private var current: Picture?
  /// What was on screen before it.
  private var previous: Picture?
  /// The newest frame that was not handed to the screen.
  private var waiting: ReceivedFrame?
  /// The frame that the screen was given last, until the event that it shows.
  private var flipping: ReceivedFrame?
  private var removals: [BufferName] = []
  private var direct = 0
  private var copied = 0

  /// Shows what a consumer gets.
  package init(_ options: Options, _ consumer: FrameConsumer) {
    self.options = options
    self.consumer = consumer
  }

  /// Shows frames until a signal, another VT, or the producer ends it.
  package func run(until signals: CInt) throws {
    let terminal = open("/sys/class/tty/tty0/active", O_RDONLY | O_CLOEXEC)
    defer { if terminal >= 0 { close(terminal) } }
    let vt = Self.vt(terminal)
    defer {
      screen?.restore()
      if let screen { complain("\(screen.name): \(direct) frames scanned, \(copied) copied") }
    }
    do {
      while true {
        var polls = [
          pollfd(fd: consumer.fd, events: Int16(POLLIN), revents: 0),
          pollfd(fd: signals, events: Int16(POLLIN), revents: 0),
          pollfd(fd: screen?.fd.raw ?? -1, events: Int16(POLLIN), revents: 0),
          pollfd(fd: terminal, events: Int16(POLLPRI), revents: 0),
          pollfd(fd: node?.fd.raw ?? -1, events: Int16(POLLIN), revents: 0),
        ]
        guard poll(&polls, 5, -1) >= 0 || errno == EINTR else { throw Errno(errno, "poll") }
        if polls[1].revents != 0 { return }
        if polls[3].revents & Int16(POLLPRI) != 0 {
          let shown = Self.vt(terminal)
          if shown != vt {
            complain("\(shown) is shown now, the display goes back")
            return
          }
        }
        if polls[4].revents != 0 {
          node?.drain()
          try screen?.checkDevice()
        }
        if polls[2].revents & Int16(POLLIN) != 0, screen?.takeEvents() == true { try flipped() }
        // A driver that says so would say it at each turn.
        if let screen, polls[2].revents & Int16(POLLERR | POLLHUP | POLLNVAL) != 0 {
          throw screen.gone
        }
        if polls[0].revents != 0 { try receive() }
        try showWaiting()
        try letGo()
      }
    } catch FramesError.closed {
      return
    } catch FramesError.refused(let refusal)
      where refusal.code == PINHOLE_ERROR_SHUTDOWN.rawValue
    {
      return
    } catch let error as KMSError where error.isLostMaster {
      complain("another program has taken the display")
      screen = nil
    }
  }

  private static func vt(_ fd: CInt) -> String {
    var text = [UInt8](repeating: 0, count: 64)
    let count = fd < 0 ? 0 : pread(fd, &text, text.count, 0)
    return String(decoding: text.prefix(max(0, count)).prefix { $0 != 10 }, as: UTF8.self)
  }

  private func receive() throws {
    while let event = try consumer.next(timeout: 0) {
      switch event {
      case .frame(let frame):
        guard frame.output == options.output else {
          try consumer.done(frame)
          continue
        }
        if let older = waiting { try consumer.done(older) }
        waiting = frame
      case .bufferRemoved(let name, _):
        if waiting?.buffer == name { waiting = nil }
        removals.append(name)
      default: break
      }
    }
  }

  /// The last frame is on screen, and the one before is not read any more.
  private func flipped() throws {
    previous = nil
    guard let frame = flipping else { return }
    flipping = nil
    try consumer.done(frame)
  }

  private func showWaiting() throws {
    guard flipping == nil, let frame = waiting, let buffer = consumer.buffers[frame.buffer] else {
      return
    }
    waiting = nil
    let screen = try self.screen ?? start(frame)
    let next = try picture(of: frame, buffer, on: screen)
    var origin: (x: UInt32, y: UInt32) = (0, 0)
    if case .imported = next {
      origin = (
        frame.crop.x + (frame.crop.width - screen.width) / 2,
        frame.crop.y + (frame.crop.height - screen.height) / 2
      )
      direct += 1
    } else {
      copied += 1
    }
    let isFirst = current == nil
    let fence = try screen.show(
      next.id, x: origin.x, y: origin.y, acquire: frame.acquire?.descriptor ?? -1, waits: isFirst)
    previous = current
    current = next
    if fence >= 0, let agreed = consumer.producer?.features, agreed & PINHOLE_FEATURE_SYNC_FILE != 0
    {
      try consumer.done(frame, fence: fence)
    }
    if fence >= 0 { close(fence) }
    // Answered with the fence, or with the event.
    flipping = frame
    if isFirst { try flipped() }
  }

  private func start(_ frame: ReceivedFrame) throws(KMSError) -> KMSScreen {
    node = try? NodeWatch(options.device)
    let made = try KMSScreen(
      path: options.device, connector: options.connector,
      size: options.size ?? (width: frame.crop.width, height: frame.crop.height),
      mustMatch: options.size != nil)
    screen = made
    let (frames, origin) = try made.makeFramebuffers(2, usesGBM: options.usesGBM)
    copies = frames
    complain("showing output \(options.output) on \(made.name), pictures from \(origin)")
    return made
  }

  private func picture(
    of frame: ReceivedFrame, _ buffer: ReceivedBuffer, on screen: KMSScreen
  ) throws -> Picture {
    if frame.crop.width >= screen.width, frame.crop.height >= screen.height,
      let imported = imported(buffer, on: screen)
    {
      return .imported(imported, buffer.name)
    }
    // Of the two copies, the one that is not on screen.
    var target = copies[0]
    if case .copied(let shown)? = current, shown === target { target = copies[1] }
    if let acquire = frame.acquire {
      var ready = pollfd(fd: acquire.descriptor, events: Int16(POLLIN), revents: 0)
      _ = poll(&ready, 1, 1000)
    }
    try target.fill(try pixels(of: frame, buffer), width: Int(frame.crop.width))
    return .copied(target)
  }

  /// A frame's pixels as the screen's own memory has them, `XRGB8888`.
  private func pixels(of frame: ReceivedFrame, _ buffer: ReceivedBuffer) throws -> [UInt8] {
    var pixels = try buffer.pixels(of: frame.crop)
    guard KMSPixels.convert(&pixels, from: buffer.fourcc) else {
      throw Failure("kms: cannot copy pictures of this format: \(buffer)")
    }
    return pixels
  }

  private func imported(_ buffer: ReceivedBuffer, on screen: KMSScreen) -> ImportedFramebuffer? {
    if let known = imports[buffer.name] { return known }
    guard buffer.memory == .dmaBuf, !buffer.isYInverted, !refused.contains(buffer.name),
      let offset = UInt32(exactly: buffer.offset)
    else { return nil }
    do throws(KMSError) {
      let made = try ImportedFramebuffer(
        buffer.descriptor, width: buffer.width, height: buffer.height, stride: buffer.stride,
        offset: offset, fourcc: buffer.fourcc.rawValue, on: screen)
      imports[buffer.name] = made
      return made
    } catch {
      if refused.isEmpty { complain("\(error); frames are copied") }
      refused.insert(buffer.name)
      return nil
    }
  }

  /// Lets removed buffers go, once a newer frame, or else black, has taken their place.
  private func letGo() throws {
    guard !removals.isEmpty else { return }
    if let screen, let shown = current, removals.contains(where: { shown.shows($0) }),
      waiting == nil
    {
      try copies[0].clear()
      try screen.show(copies[0].id, waits: true)
      previous = nil
      current = .copied(copies[0])
    }
    var left: [BufferName] = []
    for name in removals {
      if current?.shows(name) == true || previous?.shows(name) == true {
        left.append(name)
        continue
      }
      imports[name] = nil
      refused.remove(name)
      if flipping?.buffer == name { flipping = nil }
      try consumer.closed(name)
    }
    removals = left
  }
}
