import Glibc
import Linux
import Testing

@Suite struct DescriptorTests {
  @Test func anOwnerClosesItsDescriptor() throws {
    let file = try MemFD.create("file", size: 4096)
    let inode = try identity(file.raw)
    let number: CInt
    do {
      let copy = try file.duplicate()
      number = copy.raw
      #expect(try identity(number) == inode)
      #expect(fcntl(number, F_GETFD) & FD_CLOEXEC != 0)
    }
    // The number may be somebody else's by now.
    #expect(!isOpen(number) || (try? identity(number)) != inode)
  }

  @Test func whatIsReleasedStaysOpen() throws {
    let number = try MemFD.create("file", size: 4096).release()
    #expect(isOpen(number))
    close(number)
  }

  @Test func theLastHolderCloses() throws {
    var first: SharedFD? = SharedFD(try MemFD.create("file", size: 4096))
    let number = try #require(first).raw
    let inode = try identity(number)
    var second = first
    first = nil
    #expect(try identity(number) == inode)
    second = nil
    #expect(!isOpen(number) || (try? identity(number)) != inode)
    _ = second
  }

  @Test func errorsNameTheirCall() throws {
    let error = #expect(throws: Errno.self) {
      _ = try OwnedFD.open("/nonexistent/file", O_RDONLY)
    }
    #expect(error?.code == ENOENT)
    #expect("\(try #require(error))" == "open: No such file or directory (errno 2)")
  }

  @Test func eventsCountAndDrain() throws {
    let event = try EventFD()
    #expect(event.drain() == 0)
    for _ in 0..<3 { event.signal() }
    #expect(event.drain() == 3)
    #expect(event.drain() == 0)
  }

  @Test func signalsArriveAsEvents() throws {
    // A thread of its own: the mask stays with it.
    let seen = Locked<CInt>(-1)
    let thread = try Thread("signals") {
      guard let fd = try? Signals.descriptor(for: [SIGUSR2]) else { return }
      pthread_kill(pthread_self(), SIGUSR2)
      let number = Signals.next(from: fd.raw)
      seen.withLock { $0 = Signals.next(from: fd.raw) == 0 ? number : -2 }
    }
    _ = consume thread
    #expect(seen.withLock { $0 } == SIGUSR2)
  }
}

@Suite struct MemoryFileTests {
  @Test func sealsHold() throws {
    let file = try MemFD.create("sealed", size: 8192, seals: [.grow, .shrink])
    #expect(MemFD.seals(of: file.raw) == [.grow, .shrink])
    #expect(ftruncate(file.raw, 4096) == -1 && errno == EPERM)
    #expect(ftruncate(file.raw, 16384) == -1 && errno == EPERM)
    try MemFD.add([.seal], to: file.raw)
    #expect(throws: Errno(EPERM, "fcntl(F_ADD_SEALS)")) {
      try MemFD.add([.write], to: file.raw)
    }
    let event = try EventFD()
    #expect(MemFD.seals(of: event.fd.raw) == nil)
  }

  @Test func factsOfAFile() throws {
    let file = try MemFD.create("facts", size: 12288)
    let facts = try FileFacts(of: file.raw)
    #expect(facts.size == 12288 && facts.isShmem && !facts.isHugetlb)
    #expect(facts.pageSize == UInt64(pageSize))
    let copy = try file.duplicate()
    #expect(try FileFacts(of: copy.raw).identity == facts.identity)
    let other = try MemFD.create("facts", size: 12288)
    #expect(try FileFacts(of: other.raw).identity != facts.identity)
    #expect(throws: Errno(EBADF, "fstat")) { try FileFacts(of: -1) }
  }

  @Test func aHoleReadsAsZero() throws {
    let file = try MemFD.create("hole", size: 3 * pageSize)
    let mapping = try Mapping(fd: file.raw, offset: 0, count: 3 * pageSize, writable: true)
    memset(mapping.base, 7, 3 * pageSize)
    try MemFD.punchHole(file.raw, offset: UInt64(pageSize), count: UInt64(pageSize))
    let sample = [0, pageSize - 1, pageSize, 2 * pageSize - 1, 2 * pageSize].map {
      mapping.bytes[$0]
    }
    #expect(sample == [7, 7, 0, 0, 7])
  }

  @Test func mappingsKeepToTheirBounds() throws {
    let file = try MemFD.create("bounds", size: 2 * pageSize)
    #expect(throws: Errno(EINVAL, "mmap")) {
      _ = try Mapping(fd: file.raw, offset: 0, count: 0, writable: false)
    }
    #expect(throws: Errno(EINVAL, "mmap")) {
      _ = try Mapping(fd: file.raw, offset: 1, count: pageSize, writable: false)
    }
    let mapping = try Mapping(fd: file.raw, offset: 0, count: 2 * pageSize, writable: true)
    #expect(throws: Errno(EINVAL, "madvise")) {
      try mapping.advise(MADV_WILLNEED, offset: pageSize, count: 2 * pageSize)
    }
    let isLost = mapping.isLost
    #expect(!isLost)
  }
}

/// What is known of a file that somebody sent.
@Suite struct ForeignFileTests {
  @Test func memoryIsLocal() throws {
    let file = try MemFD.create("file", size: 4096)
    #expect(try FileFacts(of: file.raw).isLocal)
    var pipe: [CInt] = [-1, -1]
    #expect(Glibc.pipe(&pipe) == 0)
    defer { for fd in pipe { close(fd) } }
    #expect(try !FileFacts(of: pipe[0]).isLocal)
    // A file system without a device under it, as FUSE and network file systems are.
    let process = try OwnedFD.open("/proc/self/status", O_RDONLY)
    let facts = try FileFacts(of: process.raw)
    #expect(!facts.isLocal && !facts.isShmem && !facts.isHugetlb)
  }
}

@Suite struct MemoryGuardTests {
  private func truncated(_ file: borrowing OwnedFD) {
    #expect(ftruncate(file.raw, 0) == 0)
  }

  @Test func aTruncatedFileReadsAsZeros() throws {
    let file = try MemFD.create("guarded", size: 16 * pageSize)
    let mapping = try Mapping(
      fd: file.raw, offset: 0, count: 16 * pageSize, writable: true, guarded: true)
    memset(mapping.base, 7, 16 * pageSize)
    let before = MemoryGuard.losses
    truncated(file)
    let lostEarly = mapping.isLost
    #expect(!lostEarly)
    let bytes = mapping.bytes
    #expect(bytes[9 * pageSize + 5] == 0)
    let isLost = mapping.isLost
    #expect(isLost && MemoryGuard.losses > before)
    // The whole of it, in both directions and for writing.
    #expect(bytes.allSatisfy { $0 == 0 })
    memset(mapping.base, 3, 16 * pageSize)
    #expect(bytes.allSatisfy { $0 == 3 })
  }

  @Test func eachMappingHasItsOwnFate() throws {
    let files = try (0..<2).map { _ in SharedFD(try MemFD.create("guarded", size: pageSize)) }
    // An optimizer may let the files go after the last mention of their numbers.
    defer { withExtendedLifetime(files) {} }
    let first = try Mapping(
      fd: files[0].raw, offset: 0, count: pageSize, writable: true, guarded: true)
    let second = try Mapping(
      fd: files[1].raw, offset: 0, count: pageSize, writable: true, guarded: true)
    second.base.storeBytes(of: 9, as: UInt8.self)
    #expect(ftruncate(files[0].raw, 0) == 0)
    let values = [first.bytes[0], second.bytes[0]]
    let lost = [first.isLost, second.isLost]
    #expect(values == [0, 9] && lost == [true, false])
  }

  @Test func hugePagesThatHaveRunOut() throws {
    let size = 2 << 20
    // Without a reservation, and one more than there can be.
    let count = (try hugePages("free_hugepages")) + (try hugePages("nr_overcommit_hugepages")) + 1
    let file = try MemFD.create("huge", size: count * size, hugePageSize: UInt64(size))
    let mapping = try Mapping(
      fd: file.raw, offset: 0, count: count * size, writable: true, reserves: false, guarded: true)
    let bytes = mapping.bytes
    #expect(stride(from: 0, to: bytes.count, by: size).allSatisfy { bytes[$0] == 0 })
    let isLost = mapping.isLost
    #expect(isLost, "the pool ran out at the last page at the latest")
  }

  private func hugePages(_ name: String) throws -> Int {
    let file = fopen("/sys/kernel/mm/hugepages/hugepages-2048kB/" + name, "r")
    defer { if let file { fclose(file) } }
    var text = [CChar](repeating: 0, count: 32)
    try #require(file.map { fgets(&text, 32, $0) != nil } == true)
    return Int(atoi(text))
  }

  @Test func aGuardThatWasGivenBackGuardsNothing() async throws {
    await #expect(processExitsWith: .signal(SIGBUS)) {
      let kept = try MemFD.create("kept", size: pageSize)
      let shield = try Mapping(
        fd: kept.raw, offset: 0, count: pageSize, writable: false, guarded: true)
      var address: UnsafeMutableRawPointer?
      do {
        let file = try MemFD.create("guarded", size: pageSize)
        let mapping = try Mapping(
          fd: file.raw, offset: 0, count: pageSize, writable: false, guarded: true)
        address = mapping.base
      }
      // Something of somebody else's at the same place, which is truncated.
      let other = try MemFD.create("plain", size: pageSize)
      let place = mmap(address, pageSize, PROT_READ, MAP_SHARED | MAP_FIXED, other.raw, 0)
      _ = ftruncate(other.raw, 0)
      print(place?.load(as: UInt8.self) ?? 0, shield.isLost)
    }
  }

  @Test func guardsAreGivenBack() throws {
    let file = try MemFD.create("guarded", size: pageSize)
    for _ in 0..<2000 {
      let mapping = try Mapping(
        fd: file.raw, offset: 0, count: pageSize, writable: false, guarded: true)
      let isLost = mapping.isLost
      #expect(!isLost)
    }
  }

  @Test func severalThreadsAtOnce() throws {
    let count = 64 * pageSize
    for _ in 0..<20 {
      let file = try MemFD.create("guarded", size: count)
      let mapping = try Mapping(
        fd: file.raw, offset: 0, count: count, writable: true, guarded: true)
      truncated(file)
      let address = UInt(bitPattern: mapping.base)
      let sums = Locked(0)
      try readAtOnce(address, count, sums)
      let isLost = mapping.isLost
      #expect(sums.withLock { $0 } == 0 && isLost)
    }
  }

  private func readAtOnce(_ address: UInt, _ count: Int, _ sums: Locked<Int>) throws {
    func start() throws -> Thread {
      try Thread("reader") {
        let bytes = UnsafeRawBufferPointer(
          start: UnsafeRawPointer(bitPattern: address), count: count)
        let sum = bytes.reduce(0) { $0 + Int($1) }
        sums.withLock { $0 += sum }
      }
    }
    let one = try start()
    let two = try start()
    _ = consume one
    _ = consume two
  }

  /// As with vm.overcommit_memory=2, where no private mapping of that size can be had.
  @Test func whereNoPrivateZerosAreToBeHad() async throws {
    await #expect(processExitsWith: .exitCode(7)) {
      let count = 1 << 30
      let file = try MemFD.create("guarded", size: count)
      let mapping = try Mapping(
        fd: file.raw, offset: 0, count: count, writable: true, guarded: true)
      // Less than the process has already: a mapping in place of another adds nothing.
      var limit = rlimit(rlim_cur: 1 << 20, rlim_max: 1 << 20)
      guard setrlimit(__rlimit_resource_t(2), &limit) == 0 else { exit(1) }  // RLIMIT_DATA
      guard ftruncate(file.raw, 0) == 0 else { exit(2) }
      mapping.base.storeBytes(of: 5, toByteOffset: count - 1, as: UInt8.self)
      guard mapping.isLost, mapping.bytes[0] == 0, mapping.bytes[count - 1] == 5 else { exit(3) }
      // Not exit(3): a sanitizer would look for leaks with this limit of memory.
      _exit(7)
    }
  }

  /// The zeros that stand in then are a file of ours: what was written to them for one mapping, for
  /// instance of one guest's, is not there for the next.
  @Test func zerosOfOneMappingAreNotThoseOfTheNext() async throws {
    await #expect(processExitsWith: .exitCode(7)) {
      let count = 1 << 30
      // Less than the process has already: a mapping in place of another adds nothing.
      var limit = rlimit(rlim_cur: 1 << 20, rlim_max: 1 << 20)
      guard setrlimit(__rlimit_resource_t(2), &limit) == 0 else { exit(1) }  // RLIMIT_DATA
      for _ in 0..<2 {
        let file = try MemFD.create("guarded", size: count)
        let mapping = try Mapping(
          fd: file.raw, offset: 0, count: count, writable: true, guarded: true)
        guard ftruncate(file.raw, 0) == 0 else { exit(2) }
        guard mapping.bytes[count - 1] == 0, mapping.isLost else { _exit(3) }
        mapping.base.storeBytes(of: 5, toByteOffset: count - 1, as: UInt8.self)
      }
      _exit(7)
    }
  }

  @Test func elsewhereABusErrorStillEndsTheProcess() async throws {
    await #expect(processExitsWith: .signal(SIGBUS)) {
      let guarded = try MemFD.create("guarded", size: pageSize)
      let shield = try Mapping(
        fd: guarded.raw, offset: 0, count: pageSize, writable: false, guarded: true)
      let file = try MemFD.create("plain", size: pageSize)
      let mapping = try Mapping(fd: file.raw, offset: 0, count: pageSize, writable: false)
      _ = ftruncate(file.raw, 0)
      print(mapping.bytes[0], shield.isLost)
    }
  }
}
