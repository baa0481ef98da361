import Fences
import Glibc
import GuestMemory
import Linux
import Pixels
import Testing

@testable import Buffers

/// What a renderer exports, of which nothing is believed.
@Suite struct HostExportTests {
  private static let layout = PixelLayout(
    width: 60, height: 32, stride: 256, fourcc: .xrgb8888)

  /// Not one of a GPU's: a memfd that is taken for one.
  private func export(
    bytes: Int, stride: UInt32 = 256, offset: UInt32 = 0, modifier: UInt64 = linearModifier,
    charge: AnyObject? = nil
  ) throws -> HostExport {
    let fd = SharedFD(try MemFD.create("export", size: bytes))
    return try HostExport(
      fd, of: Self.layout, stride: stride, offset: offset, modifier: modifier, charge: charge,
      isDmaBuf: { _ in true })
  }

  private func flaw(bytes: Int, stride: UInt32 = 256, offset: UInt32 = 0) -> HostExport.Flaw? {
    do {
      _ = try export(bytes: bytes, stride: stride, offset: offset)
      return nil
    } catch { return error as? HostExport.Flaw }
  }

  @Test func memoryHasToHoldThePicture() {
    #expect(flaw(bytes: 8192) == nil)
    #expect(flaw(bytes: 8191) == .short(need: 8192, size: 8191))
    #expect(flaw(bytes: 8192, offset: 1) == .short(need: 8193, size: 8192))
    #expect(flaw(bytes: 12288, offset: 4096) == nil)
    #expect(
      flaw(bytes: 8192, offset: .max) == .short(need: UInt64(UInt32.max) + 8192, size: 8192))
  }

  @Test func rowsDoNotOverlap() {
    #expect(flaw(bytes: 8192, stride: 240) == nil)
    for stride in [0, 236, 239, 241, 242, PictureLimits.stride + 4, .max] as [UInt32] {
      #expect(flaw(bytes: 1 << 20, stride: stride) == .stride(stride))
    }
  }

  @Test func otherFilesAreNoDmaBufs() throws {
    var ends: [CInt] = [-1, -1]
    #expect(pipe(&ends) == 0)
    let files = [
      try MemFD.create("file", size: 1 << 20).release(),
      open("/dev/null", O_RDWR | O_CLOEXEC), ends[0], ends[1],
    ]
    for file in files {
      let fd = SharedFD(OwnedFD(adopting: file))
      #expect(throws: HostExport.Flaw.noDmaBuf) {
        try HostExport(
          fd, of: Self.layout, stride: 256, offset: 0, modifier: linearModifier, charge: nil)
      }
    }
  }

  private func picture(_ charge: AnyObject? = nil) throws -> HostBuffer {
    let memory = SharedFD(try MemFD.create("picture", size: 8192, seals: [.shrink, .grow]))
    final class Kept {
      let mapping: Mapping
      init(_ mapping: consuming Mapping) { self.mapping = mapping }
    }
    let kept = Kept(try Mapping(fd: memory.raw, offset: 0, count: 8192, writable: true))
    let pixels = try #require(
      PixelSource(layout: Self.layout, spans: [HostSpan(base: kept.mapping.base, count: 8192)]))
    return HostBuffer(
      id: 1, width: 60, height: 32, fourcc: .xrgb8888,
      planes: [.init(fd: memory, offset: 0, stride: 256)], memory: .memfd, pixels: pixels,
      mapping: kept, charge: charge)
  }

  private func store() -> BufferStore {
    BufferStore(
      device: .failure(.noDevice), keeper: .failure(.noUserfaultfd(Errno(ENOSYS, "test"))))
  }

  @Test func theExportIsOfferedWithItsOwnLayout() throws {
    let store = store()
    let host = try picture()
    let made = try export(bytes: 20480, stride: 512, offset: 4096, modifier: 1 << 56 | 1)
    host.exported = made
    let offered = try #require(store.offer(host, asCopy: false))
    #expect(offered.memory == .rendered && offered.isOriginal)
    #expect(offered.fd === made.fd && offered.others.isEmpty && offered.size == 20480)
    #expect(
      offered.layout
        == ImageLayout(
          width: 60, height: 32, fourcc: .xrgb8888, modifier: 1 << 56 | 1,
          planes: [PixelPlane(stride: 512, offset: 4096)]))
    #expect(!host.isGivenAway && host.copyReason == nil)
    #expect(store.offer(host, asCopy: false) === offered)
    // Whoever wants it once more gets it under another name.
    host.forgetOffer()
    let again = try #require(store.offer(host, asCopy: false))
    #expect(again.id != offered.id && again.fd === made.fd)
    #expect(again.recipients === offered.recipients)
    // The memfd is not written to by anybody else, and nobody has it: it may be drawn into still.
    let plane = try #require(host.planes.first)
    #expect(MemFD.seals(of: plane.fd.raw)?.contains(.futureWrite) == false)
  }

  @Test func withoutOneOrAsACopyTheMemoryItselfIsOffered() throws {
    let store = store()
    let host = try picture()
    let plain = try #require(store.offer(host, asCopy: false))
    #expect(plain.memory == .copy && host.isGivenAway)
    let other = try picture()
    other.exported = try export(bytes: 8192)
    let copy = try #require(store.offer(other, asCopy: true))
    #expect(copy.memory == .copy && copy.fd === other.planes.first?.fd)
  }

  /// The renderer must not draw into what somebody still reads, whatever is offered since.
  @Test func whatWasOfferedBeforeHasItsReadersStill() throws {
    let host = try picture()
    #expect(!host.hasReaders)
    let offered = try #require(store().offer(host, asCopy: true))
    #expect(!host.hasReaders)
    offered.lock.retain()
    #expect(host.hasReaders)
    host.forgetOffer()
    #expect(host.hasReaders)
    offered.lock.release()
    #expect(!host.hasReaders)
  }

  /// It is paid for as long as anybody here has it, whoever shows the picture.
  @Test func theExportIsPaidForAsLongAsItIsOffered() throws {
    final class Share {}
    let store = store()
    weak var paid: Share?
    var offered: OfferedBuffer?
    do {
      let share = Share()
      paid = share
      let host = try picture()
      host.exported = try export(bytes: 8192, charge: share)
      offered = store.offer(host, asCopy: false)
    }
    #expect(offered != nil && paid != nil)
    offered = nil
    #expect(paid == nil)
  }
}
