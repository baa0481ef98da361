import FakeGuest
import Linux

/// What each consumer costs: the device's processor time for a frame that so many get as a copy.
struct Consumers {
  let pinhole: String
  let rounds: Int
  let frames: Int
  let givesRatios: Bool

  private static let counts = [1, 2, 4, 8, 16, 31]

  func run(into directory: String) throws(GuestError) {
    let scene = Scene(name: "1080p, all")
    var stands: [Stand] = []
    for count in Self.counts { stands.append(try Stand(pinhole, scene, count)) }
    let medians = try Turns(rounds: rounds, frames: frames).medians("consumers", of: stands)
      .map { $0 ?? 0 }
    var table = Table(
      title: "Consumers of copies: processor time of the device for a frame, ms",
      columns: ["consumers", "ms a frame"] + (givesRatios ? ["to one"] : []))
    for (count, median) in zip(Self.counts, medians) {
      table.rows.append(
        ["\(count)", decimal(median / 1_000_000, 2)]
          + (givesRatios ? [decimal(median / max(medians[0], 1), 2) + "x"] : []))
    }
    let text = table.markdown(
      Machine.header + ["\(scene.name); \(rounds) turns of \(frames) frames each, interleaved"])
    try save(text, as: "\(directory)/consumers.md")
    print(text)
  }

  /// A device with a guest that flips, and its consumers.
  private final class Stand: Contestant {
    private let serving: Serving
    private let driver: GPUDriver
    private var buffers: [Framebuffer] = []
    private var readers: [ConsumerThread] = []
    private var frame = 0

    init(_ pinhole: String, _ scene: Scene, _ count: Int) throws(GuestError) {
      serving = try Serving(.consumers(pinhole))
      driver = try GPUDriver(try serving.connect(try GuestRAM(size: scene.memory)))
      for id in [1, 2] as [UInt32] {
        buffers.append(
          try Framebuffer(driver, resource: id, width: scene.width, height: scene.height))
      }
      for _ in 0..<count {
        readers.append(try ConsumerThread(serving.frames, copyOnly: true))
      }
    }

    var processorTime: UInt64 { serving.processorTime }

    /// A frame; returns when every consumer has it.
    func play() throws(GuestError) {
      frame += 1
      let buffer = buffers[frame % 2]
      var commands = buffer.flushCommands()
      commands.insert(buffer.showCommand(), at: 1)
      try driver.perform(together: commands)
      for reader in readers { _ = try reader.arrivals.time(of: frame) }
    }
  }
}
