import ArgumentParser
import FakeGuest
import Glibc
import Linux

/// Measures Pinhole beside others, interleaved, and writes tables and plots.
@main
struct Bench: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "pinhole-bench",
    abstract: "Measure Pinhole beside others over the same sockets with the same guest.",
    discussion: """
      Contestants take turns, so that what else the machine does falls on all of them; of each \
      turn the processor time a frame is taken, and the medians are compared. On a machine that \
      is busy with something else it says so and gives no ratios.
      """)

  @Option(help: "The release build of pinhole.")
  var pinhole = ".build/release/pinhole"

  @Option(help: "QEMU's vhost-user-gpu; left out if it is not there.")
  var qemu = "/usr/lib/qemu/vhost-user-gpu"

  @Option(help: "Only this part: \(Part.names).")
  var only: Part?

  @Option(help: "Only scenes whose name contains this.")
  var scene: String?

  @Option(help: "How many turns each contestant has.")
  var rounds = 7

  @Option(help: "Frames of each turn.")
  var frames = 40

  @Flag(help: .hidden)
  var relay = false

  @Option(help: .hidden)
  var standIn: String?

  @Option(help: .hidden)
  var looks = Looks.gated

  @Option(help: "Where tables and plots go.")
  var into = "bench"

  func validate() throws {
    guard rounds > 0, frames > 0 else {
      throw ValidationError("--rounds and --frames must be at least 1")
    }
  }

  func run() throws {
    if relay { return Relay.run() }
    if let standIn { return try StandIn.serve(on: standIn, looks) }
    do throws(GuestError) {
      let business = Machine.business()
      if business > Machine.quiet {
        print(
          "This machine is busy (\(percent(business)) of it used by others): no ratios are given.")
      }
      let givesRatios = business <= Machine.quiet
      for part in Part.allCases where only == nil || only == part {
        try measure(part, givesRatios)
      }
    } catch {
      print("pinhole-bench: \(error)")
      throw ExitCode.failure
    }
  }

  private func measure(_ part: Part, _ givesRatios: Bool) throws(GuestError) {
    switch part {
    case .copy:
      try CopyPath(
        pinhole: pinhole, qemu: qemu, rounds: rounds, frames: frames,
        scenes: Scene.copyPath.filter { scene.map($0.name.contains) ?? true },
        givesRatios: givesRatios
      ).run(into: into)
    case .latency:
      // p99.9 needs thousands.
      try Latency(
        pinhole: pinhole, rounds: rounds, frames: frames * 35, givesRatios: givesRatios
      ).run(into: into)
    case .witness:
      try WitnessCosts(rounds: rounds * 5, givesRatios: givesRatios).run(into: into)
    case .consumers:
      try Consumers(pinhole: pinhole, rounds: rounds, frames: frames, givesRatios: givesRatios)
        .run(into: into)
    case .start:
      try StartAndRest(pinhole: pinhole, qemu: qemu, rounds: rounds, givesRatios: givesRatios)
        .run(into: into)
    case .direct:
      try DirectPath(rounds: rounds, frames: frames * 10, givesRatios: givesRatios)
        .run(into: into)
    case .drawing:
      try Drawing(pinhole: pinhole, rounds: rounds, frames: frames, givesRatios: givesRatios)
        .run(into: into)
    }
  }
}

/// What can be measured.
enum Part: String, CaseIterable, ExpressibleByArgument {
  /// Pixels into QEMU's display socket.
  case copy
  /// From the guest's kick to the consumer and back.
  case latency
  /// Looking for discards.
  case witness
  /// Many consumers.
  case consumers
  /// Start, memory, wake-ups at rest.
  case start
  /// The guest's own pages, by the size of the picture.
  case direct
  /// A guest's OpenGL.
  case drawing = "3d"

  static var names: String { allCases.map(\.rawValue).joined(separator: ", ") }
}

/// A share as people read it.
func percent(_ share: Double) -> String { "\(Int((share * 100).rounded())) %" }
