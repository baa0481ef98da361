import FakeGuest
import Glibc
import Linux

/// Pixels into QEMU's display socket: Pinhole, QEMU's own back-end, and a bare send.
struct CopyPath {
  let pinhole: String
  let qemu: String
  let rounds: Int
  let frames: Int
  let scenes: [Scene]
  let givesRatios: Bool

  private static let names = ["Pinhole", "QEMU's vhost-user-gpu", "a bare send"]

  func run(into directory: String) throws(GuestError) {
    let hasQEMU = access(qemu, X_OK) == 0
    if !hasQEMU { print("\(qemu) is not there: left out (bench/run installs it)") }
    var table = Table(
      title: "Copy path: processor time of the back-end for a frame, ms",
      columns: ["scene"] + Self.names + (givesRatios ? ["to QEMU's", "to a bare send"] : []))
    var plot: [(String, [Double?])] = []
    for scene in scenes {
      let medians = try measure(scene, hasQEMU)
      var cells = [scene.name]
      for median in medians { cells.append(median.map(milliseconds) ?? "-") }
      if givesRatios {
        for other in [medians[1], medians[2]] {
          cells.append(ratio(medians[0], other))
        }
      }
      table.rows.append(cells)
      plot.append((scene.name, medians))
      print(cells.joined(separator: " | "))
    }
    let text = table.markdown(
      Machine.header + ["\(rounds) turns of \(frames) frames each, interleaved; medians"])
    try save(text, as: "\(directory)/copy-path.md")
    let chart = Plot(
      title: "Processor time of the back-end for a frame (ms, less is better)",
      series: Self.names, groups: plot)
    try save(chart.svg, as: "\(directory)/copy-path.svg")
    print("\n\(text)")
  }

  /// Nanoseconds a frame (all outputs together), the median of the rounds.
  private func measure(_ scene: Scene, _ hasQEMU: Bool) throws(GuestError) -> [Double?] {
    let contestants: [(any Contestant)?] = [
      try RunningBackEnd(.pinhole(pinhole), scene),
      hasQEMU ? try RunningBackEnd(.qemu(qemu), scene) : nil,
      try BareSend(scene),
    ]
    // Longer frames need fewer of them for the same precision.
    let work = max(scene.width * scene.height / (1920 * 1080), 1) * scene.outputs
    let turns = Turns(rounds: rounds, frames: max(10, frames / work))
    return try turns.medians(scene.name, of: contestants)
  }

  private func milliseconds(_ nanoseconds: Double) -> String {
    decimal(nanoseconds / 1_000_000, 2)
  }

  private func ratio(_ own: Double?, _ other: Double?) -> String {
    guard let own, let other, other > 0 else { return "-" }
    return decimal(own / other, 2) + "x"
  }
}
