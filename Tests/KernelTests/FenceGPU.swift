import Buffers
import CLinux
import Glibc
import GuestMemory
import Linux

/// A GPU that works on a picture of its own until it is told to finish.
final class FenceGPU {
  let vgem: Vgem
  private let memory: OwnedFD
  private let target: SharedFD
  private let number: UInt32
  /// A sync_file that signals with ``finish()``.
  let fence: OwnedFD

  init() throws {
    vgem = try Vgem()
    memory = try MemFD.create("fence-test", size: 4096, seals: [.shrink])
    let file = try GuestFile(try memory.duplicate())
    let device = try UdmabufDevice.open()
    target = SharedFD(try device.create([FileRange(file: file, offset: 0, count: 4096)]))
    number = try vgem.attach(to: target.raw, writing: true)
    fence = OwnedFD(
      adopting: try check(ph_dmabuf_export_sync_file(target.raw, 0), "EXPORT_SYNC_FILE"))
  }

  func finish() throws { try vgem.signal(number) }
}
