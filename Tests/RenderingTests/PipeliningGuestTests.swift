import FakeGuest
import Glibc
import Linux
import PinholeFrames
import Pixels
import RenderWire
import Testing

/// A guest that does not wait for what it has drawn, as compositors do not, and a consumer.
@Suite(.serialized, .enabled(if: hasRenderer, "libvirglrenderer or Mesa is not installed"))
struct PipeliningGuestTests {
  private static let size: (width: UInt32, height: UInt32) = (256, 128)
  private static let whole = Rect(x: 0, y: 0, width: size.width, height: size.height)
  private static let vertices: UInt32 = 20

  private final class Guest {
    let pinhole: PinholeProcess
    let watcher: FrameWatcher
    let driver: GPUDriver
    /// Submissions without an answer.
    private var drawing = 0

    init(pictures: [UInt32], _ options: [String] = []) throws {
      pinhole = try PinholeProcess(["--3d", "--render-node", "none"] + options)
      var choice = GPUDriver.Options()
      choice.features |= Feature.virgl
      choice.patience = 120_000
      let ram = try GuestRAM(size: 16 << 20)
      driver = try GPUDriver(try VhostUserFrontEnd(path: pinhole.socket, ram: ram), choice)
      watcher = try FrameWatcher(path: pinhole.framesSocket)
      try driver.perform(.createContext(1))
      try driver.perform(
        .create3D(vertices, target: 0, format: 64, bind: 16, width: 256, height: 1))
      try driver.perform(.context(1, attach: true, resource: vertices))
      for id in pictures {
        try driver.perform(
          .create3D(
            id, target: 2, format: 2, bind: 0x14_000a, width: size.width, height: size.height))
        try driver.perform(.context(1, attach: true, resource: id))
      }
    }

    func submit(_ stream: VirglStream) throws {
      drawing += 1
      try driver.send(.submit(1, stream.bytes)) { [unowned self] _ in drawing -= 1 }
    }

    /// Hands over what was sent, and waits until no more than so many submissions are ahead.
    func goOn(ahead limit: Int) throws {
      try driver.kick()
      try driver.wait(for: "what was drawn long ago") { drawing <= limit }
    }
  }

  private static func colour(_ step: UInt32) -> (Float, Float, Float, Float) {
    (Float(step % 7) / 7, Float(step % 11) / 11, Float(step % 13) / 13, 1)
  }

  /// It draws into one resource while the other one is on screen, and never pauses: its frames are
  /// seen all the same.
  @Test func flipsAreSeenWhileTheGuestGoesOn() throws {
    let guest = try Guest(pictures: [11, 12])
    let bound = Clock.now + 60_000_000_000
    var step: UInt32 = 0
    while guest.watcher.now.frames < 20, Clock.now < bound {
      step += 1
      let id = 11 + step % 2
      var stream = VirglStream()
      stream.target(surface: 100 + step, resource: id, format: 2)
      stream.clear(Self.colour(step))
      try guest.submit(stream)
      try guest.driver.send(.setScanout(0, resource: id, Self.whole))
      try guest.driver.send(.flush(id, Self.whole))
      try guest.goOn(ahead: 2)
    }
    #expect(guest.watcher.now.frames >= 20, "after \(step) flips")
    #expect(guest.watcher.now.failure == nil)
    #expect(guest.pinhole.terminate() == 0, "\(guest.pinhole.log)")
  }

  /// It draws each frame in place, in two submissions: a picture is never one half of one frame and
  /// one of another.
  @Test func framesDrawnInPlaceAreWhole() throws {
    let guest = try Guest(pictures: [11])
    try guest.driver.perform(.setScanout(0, resource: 11, Self.whole))
    var stream = VirglStream()
    stream.target(surface: 1, resource: 11, format: 2)
    stream.clear((0, 0, 0, 1))
    stream.prepareTriangles(size: Self.size, first: 2)
    try guest.driver.perform(.submit(1, stream.bytes))
    var (torn, looks, last) = (0, 0, 0)
    let bound = Clock.now + 120_000_000_000
    var step: UInt32 = 0
    while looks < 100, Clock.now < bound {
      step += 1
      for (left, right) in [(Float(-1), Float(0)), (0, 1)] {
        var half = VirglStream()
        half.drawTriangle(
          [(left, -1), (right, -1), (left, 1), (left, 1), (right, -1), (right, 1)],
          Self.colour(step), buffer: Self.vertices)
        try guest.submit(half)
      }
      try guest.driver.send(.flush(11, Self.whole))
      try guest.goOn(ahead: 3)
      let state = guest.watcher.now
      guard state.frames != last, let picture = state.last[0]?.picture else { continue }
      last = state.frames
      looks += 1
      let (width, middle) = (Int(Self.size.width), Int(Self.size.height) / 2)
      if picture[width / 4, middle] & 0xff_ffff != picture[width * 3 / 4, middle] & 0xff_ffff {
        torn += 1
      }
    }
    #expect(looks == 100, "after \(step) frames")
    #expect(torn == 0, "of \(looks)")
    #expect(guest.watcher.now.failure == nil)
    #expect(guest.pinhole.terminate() == 0, "\(guest.pinhole.log)")
  }

  /// Three consumers keep two frames each, and have a minute and a half for it: a fourth one goes on
  /// seeing every frame, whatever the others keep, also when they come again.
  @Test func thoseWhoKeepFramesDoNotStopTheOthers() throws {
    let guest = try Guest(pictures: [11], ["--hold-deadline", "10000"])
    try guest.driver.perform(.setScanout(0, resource: 11, Self.whole))
    var stream = VirglStream()
    stream.target(surface: 1, resource: 11, format: 2)
    try guest.driver.perform(.submit(1, stream.bytes))
    var holders: [FrameConsumer] = []
    for step in UInt32(1)...60 {
      // At different times, so that they keep different frames.
      if step % 4 == 0, step <= 12 || step >= 40 {
        if holders.count == 3 { holders.removeFirst() }
        holders.append(
          try FrameConsumer(
            path: guest.pinhole.framesSocket, options: .init(name: "holder \(step)")))
      }
      for holder in holders { while try holder.next(timeout: 0) != nil {} }
      let before = guest.watcher.now.frames
      var stream = VirglStream()
      stream.clear(Self.colour(step))
      try guest.driver.perform(.submit(1, stream.bytes))
      try guest.driver.perform(.flush(11, Self.whole))
      try #require(
        guest.watcher.wait(milliseconds: 60_000) { $0.frames > before }, "frame \(step)")
    }
    #expect(guest.watcher.now.failure == nil)
    #expect(guest.pinhole.terminate() == 0, "\(guest.pinhole.log)")
  }
}
