import Glibc
import GuestMemory
import Linux
import Testing

@Suite("What guest memory is")
struct GuestFileSummaryTests {
  private func file(at folder: String) throws -> GuestFile {
    let path = "\(folder)/pinhole-test-\(getpid())-\(Clock.now)"
    let fd = try OwnedFD.open(path, O_RDWR | O_CREAT | O_EXCL)
    unlink(path)
    #expect(ftruncate(fd.raw, 8192) == 0)
    return try GuestFile(fd)
  }

  @Test("A sealed memfd is fit for zero-copy")
  func sealed() throws {
    let file = try GuestFile(try MemFD.create("ram", size: 8192, seals: [.shrink, .grow, .seal]))
    #expect(file.kind == .memfd)
    #expect(file.summary.contains("memfd"))
    #expect(file.summary.hasSuffix("fit for zero-copy"))
  }

  @Test("seal=off: a copy, and why")
  func unsealed() throws {
    // As memfd_create(2) without MFD_ALLOW_SEALING leaves it.
    let file = try GuestFile(try MemFD.create("ram", size: 8192, seals: [.seal]))
    #expect(file.summary.contains("copied"))
    let open = try GuestFile(try MemFD.create("ram", size: 8192))
    #expect(open.summary.contains("F_SEAL_SHRINK"))
  }

  @Test("Sealed against writing, it cannot be guest memory")
  func writeSealed() throws {
    let file = try GuestFile(try MemFD.create("ram", size: 8192, seals: [.shrink]))
    try MemFD.add([.futureWrite], to: file.fd.raw)
    #expect(throws: Errno.self) { try GuestFile(try file.fd.duplicate()) }
  }

  @Test("Files", arguments: ["/dev/shm", "/var/tmp"])
  func files(_ folder: String) throws {
    let file = try file(at: folder)
    #expect(file.kind == .shmem || file.kind == .other)
    #expect(file.summary.contains("copied"))
    #expect(file.summary.contains("memory-backend-memfd"))
  }

  @Test("Each file is told of once, when it arrives")
  func arrival() throws {
    let memory = GuestMemory()
    var arrived: [UInt64] = []
    memory.fileArrived = { arrived.append($0.size) }
    let one = SharedFD(try MemFD.create("one", size: 8192, seals: [.shrink]))
    let two = SharedFD(try MemFD.create("two", size: 4096, seals: [.shrink]))
    func region(_ address: UInt64, _ offset: UInt64 = 0) -> MemoryRegion {
      MemoryRegion(
        guestAddress: address, size: 4096, userAddress: address, fileOffset: offset)
    }
    try memory.replace([(region(0), one), (region(8192, 4096), one), (region(16384), two)])
    try memory.replace([(region(0), one), (region(16384), two)])
    #expect(arrived == [8192, 4096])
  }
}
