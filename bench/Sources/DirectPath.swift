import FakeGuest
import Linux

/// What a frame that is the guest's own pages costs the device by the size of the picture: nothing
/// is copied, so that only the look at the pages may grow with it.
struct DirectPath {
  let rounds: Int
  let frames: Int
  let givesRatios: Bool

  private static let sizes = [(width: 1280, height: 720), (width: 3840, height: 2160)]

  func run(into directory: String) throws(GuestError) {
    var stands: [Stand] = []
    for looks in Looks.allCases {
      for size in Self.sizes { stands.append(try Stand(looks, size.width, size.height)) }
    }
    let medians = try Turns(rounds: rounds, frames: frames).medians("direct", of: stands)
      .map { $0 ?? 0 }
    for stand in stands { try stand.check() }
    var table = Table(
      title: "Direct path: processor time of the device for a frame, microseconds",
      columns: ["a look at the pages"] + Self.sizes.map { "\($0.width)x\($0.height)" }
        + (givesRatios ? ["4K to 720p"] : []))
    for (row, looks) in Looks.allCases.enumerated() {
      let (small, large) = (medians[row * 2], medians[row * 2 + 1])
      table.rows.append(
        [looks.text, decimal(small / 1000, 1), decimal(large / 1000, 1)]
          + (givesRatios ? [decimal(large / max(small, 1), 2) + "x"] : []))
    }
    let device = Machine.hasUdmabuf ? "/dev/udmabuf" : "empty memfds in the place of dma-bufs"
    let text = table.markdown(
      Machine.header + [
        "\(rounds) turns of \(frames) frames each, interleaved; medians",
        "a guest that flips between two blobs with a fence, one consumer; \(device)",
      ])
    try save(text, as: "\(directory)/direct-path.md")
    print(text)
  }

  /// A device with a guest that flips between two blobs, and a consumer that answers at once.
  private final class Stand: Contestant {
    private let serving: Serving
    private let driver: GPUDriver
    private let buffers: [Framebuffer]
    private let reader: ConsumerThread
    private var frame = 0

    init(_ looks: Looks, _ width: Int, _ height: Int) throws(GuestError) {
      serving = try Serving(
        BackEnd(name: "Pinhole") {
          [ChildProcess.selfPath, "--stand-in", $0, "--looks", looks.rawValue]
        })
      let scene = Scene(name: "", width: width, height: height)
      driver = try GPUDriver(try serving.connect(try GuestRAM(size: scene.memory)))
      var buffers: [Framebuffer] = []
      for id in [1, 2] as [UInt32] {
        buffers.append(
          try Framebuffer(driver, resource: id, width: width, height: height, kind: .blob))
      }
      self.buffers = buffers
      reader = try ConsumerThread(serving.frames)
    }

    var processorTime: UInt64 { serving.processorTime }

    /// A flip; returns when the consumer has it and the guest its answer.
    func play() throws(GuestError) {
      frame += 1
      let buffer = buffers[frame % 2]
      try driver.perform(together: [
        buffer.showCommand(),
        GPUCommand.flush(buffer.resource, buffer.bounds).fenced(UInt64(frame)),
      ])
      _ = try reader.arrivals.time(of: frame)
    }

    /// What was measured has to be what the table says.
    func check() throws(GuestError) {
      let copies = reader.arrivals.copies
      guard copies == 0 else {
        throw .unsupported("\(copies) of \(frame) frames were copies, not the guest's own pages")
      }
    }
  }
}
