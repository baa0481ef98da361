import ArgumentParser
import Command
import Daemon
import VirtioGPU

/// How `pinhole serve` gives guests 3D.
struct RenderOptions: ParsableArguments {
  // libvirt passes --virgl.
  @Flag(
    name: [.customLong("3d"), .customLong("virgl")],
    help: "Give guests OpenGL (virgl) through libvirglrenderer, in a process of its own.")
  var is3D = false

  @Option(help: "Draw with the GPU of this render node; auto finds one; none: the processor.")
  var renderNode = "auto"

  @Option(help: "Memory that a guest's 3D resources may take, besides its own, such as 2G.")
  var renderMemory = ByteCount(2 << 30)

  @Option(help: "3D contexts that a guest may have: one for each program that draws.")
  var maxContexts = 64

  @Option(help: "Bytes of commands that a guest may submit at a time, such as 16M.")
  var maxSubmit = ByteCount(16 << 20)

  @Option(help: "Threads that draw where there is no GPU; 0: half of the processors.")
  var renderThreads = 0

  @Option(
    help: ArgumentHelp(
      "Milliseconds for one request after which a renderer is replaced.", valueName: "ms"))
  var renderDeadline: UInt32 = 10_000

  @Flag(
    inversion: .prefixedNo,
    help: "Keep one renderer ready (about 100 MB) for the next start of the guest's driver.")
  var renderSpare = true

  func validate() throws {
    guard (0...1024).contains(renderThreads) else {
      throw ValidationError("--render-threads takes 0 to 1024")
    }
    guard (10...600_000).contains(renderDeadline) else {
      throw ValidationError("--render-deadline takes 10 to 600000 ms")
    }
    guard (1...4096).contains(maxContexts) else {
      throw ValidationError("--max-contexts takes 1 to 4096")
    }
    guard (64 << 10...16 << 20).contains(maxSubmit.bytes) else {
      throw ValidationError("--max-submit takes 64K to 16M")
    }
    guard (64 << 20...1 << 46).contains(renderMemory.bytes) else {
      throw ValidationError("--render-memory takes 64M to 64T")
    }
  }

  /// Where it is drawn.
  var place: RenderingOptions.Place {
    switch renderNode {
    case "auto": .automatic
    case "none": .processor
    default: .node(renderNode)
    }
  }

  /// What they say to the daemon.
  func apply(to options: inout DaemonOptions) {
    options.device.maxContexts = maxContexts
    options.device.maxSubmit = UInt32(clamping: maxSubmit.bytes)
    options.device.renderMemory = renderMemory.bytes
    guard is3D else { return }
    var rendering = RenderingOptions()
    rendering.place = place
    rendering.memory = renderMemory.bytes
    rendering.threads = renderThreads
    rendering.deadline = UInt64(renderDeadline) * 1_000_000
    rendering.keepsSpare = renderSpare
    options.rendering = rendering
  }
}
