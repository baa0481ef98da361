import GPUCommands
import Glibc
import GuestMemory
import Linux
import Pixels
import RenderWire
import Testing
import VirtioGPU

@testable import Rendering

/// What a renderer may have, and what it must not keep.
@Suite(.serialized, .enabled(if: hasRenderer, "libvirglrenderer or Mesa is not installed"))
struct LettingGoTests {
  /// How many areas of memory of this name the renderer has mapped, once it has done all.
  private func maps(_ name: String, _ studio: Studio) throws -> Int {
    #expect(try studio.perform(.fence(context: 0, ring: nil)).isSuccess)
    let lines = wholeText("/proc/\(studio.host.pid)/maps").split(separator: "\n")
    return lines.count { $0.contains("memfd:\(name)") }
  }

  @Test func pagesOfARefusedBackingAreLetGo() throws {
    let studio = try Studio()
    let pages = FileRange(file: studio.file, offset: 0, count: 4096)
    #expect(try studio.perform(.attachBacking(99, [pages])).failure == .refused)
    #expect(try maps("studio", studio) == 0)
  }

  @Test func memoryOfCursorsIsLetGo() throws {
    let studio = try Studio()
    try studio.picture(5, format: 1)
    for _ in 0..<5 {
      #expect(try studio.perform(.readPixels(resource: 5, width: 64, height: 32)).isSuccess)
    }
    #expect(try maps("pinhole-render-cursor", studio) == 0)
  }

  @Test func picturesOfOldSizesAreLetGo() throws {
    let studio = try Studio()
    try studio.picture(5)
    for width in UInt32(1)...20 {
      _ = try studio.show(5, crop: Rect(x: 0, y: 0, width: width, height: 8))
    }
    #expect(try maps("pinhole-render-picture", studio) == 1)
  }

  /// Whoever waits for a picture hears of the renderer's end, and does not wait for ever.
  @Test func aShowThatWaitsEndsWithItsRenderer() throws {
    let studio = try Studio()
    try studio.picture(5)
    let held = try (0..<6).map { _ in try studio.show(5) }
    var late: Result<RenderReply, RenderFailure>?
    studio.host.perform(.show(resource: 5, output: 0, crop: Studio.all, damage: Studio.all)) {
      late = $0
    }
    #expect(try studio.perform(.fence(context: 0, ring: nil)).isSuccess)
    #expect(late == nil)
    studio.host.reset()
    #expect(late?.failure == .lost)
    withExtendedLifetime(held) {}
  }

  /// setrlimit(2) holds before a guest's first command does.
  @Test func limitsHold() throws {
    let rig = try RendererRig { $0.memory = 1 << 30 }
    try rig.start()
    let limits = wholeText("/proc/\(rig.pid)/limits").split(separator: "\n")
    func hardLimit(_ name: String) -> Substring? {
      limits.first { $0.hasPrefix("Max \(name) ") }?.dropFirst(26).split(separator: " ").last {
        $0.allSatisfy(\.isNumber) || $0 == "unlimited"
      }
    }
    #expect(hardLimit("data size") == "1073741824")
    #expect(hardLimit("file size") == "1073741824")
    #expect(hardLimit("core file size") == "0")
    #expect(hardLimit("open files") == "256")
  }

  /// The daemon never asks for it, and a daemon may have a mistake.
  @Test func nothingBehindAFilesEndIsTouched() throws {
    let rig = try RendererRig()
    try rig.start()
    let memory = try SharedMemory(4096)
    #expect(try rig.ask(.addFile(1, size: memory.size), memory.fd) == .done)
    #expect(try rig.ask(.createResource(2, .picture(width: 32, height: 32))) == .done)
    let missing = RenderOutcome.refused(UInt32(ENOENT))
    let all = RenderBox(width: 32, height: 32)
    for run in [
      RenderRun(file: 1, offset: 0, count: 4097), RenderRun(file: 1, offset: 4096, count: 1),
      RenderRun(file: 1, offset: .max, count: 2),
    ] {
      #expect(try rig.ask(.attachBacking(2, [run])) == missing, "\(run)")
      #expect(try rig.ask(.readBack(2, all, run, stride: 128)) == missing, "\(run)")
    }
    let whole = RenderRun(file: 1, offset: 0, count: 4096)
    #expect(try rig.ask(.readBack(2, all, whole, stride: 128)) == .done)
  }
}
