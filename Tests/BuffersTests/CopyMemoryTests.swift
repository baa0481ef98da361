import Fences
import Glibc
import Linux
import Pixels
import Testing

@testable import Buffers

/// Memory that others may keep, however they come and go.
@Suite struct CopyMemoryTests {
  private let page = pageSize

  private func inode(_ use: CopyMemory.Use) throws -> FileFacts.Identity {
    try FileFacts(of: use.piece.fd.raw).identity
  }

  @Test func isPaidForWhenItIsMade() throws {
    let memory = CopyMemory(limit: UInt64(10 * page))
    let pool = CopyPool(width: 1024, height: 3, fourcc: .xrgb8888, in: memory)
    #expect(memory.used == 0)
    let first = try #require(pool.acquire()).offered
    #expect(memory.used == UInt64(3 * page))
    first.lock.retain()
    let second = try #require(pool.acquire()).offered
    second.lock.retain()
    let third = try #require(pool.acquire()).offered
    third.lock.retain()
    #expect(memory.used == UInt64(9 * page))
    #expect(!pool.isStarved)
  }

  @Test func whoKeepsACopyAndComesAgainHasNoMore() throws {
    let memory = CopyMemory(limit: UInt64(8 * page))
    var kept: [SharedFD] = []
    for round in 0..<100 {
      var pool: CopyPool? = CopyPool(
        width: 1024, height: UInt32(1 + round % 4), fourcc: .xrgb8888, in: memory)
      let copy = try #require(pool?.acquire(), "round \(round)")
      kept.append(copy.offered.fd)
      pool = nil
    }
    var all: Set<FileFacts.Identity> = []
    var blocks = 0
    for fd in kept where all.insert(try FileFacts(of: fd.raw).identity).inserted {
      var facts = stat()
      #expect(fstat(fd.raw, &facts) == 0)
      blocks += Int(facts.st_blocks)
    }
    #expect(memory.used <= memory.limit)
    #expect(blocks * 512 <= 8 * page)
  }

  /// A picture that there can be no memory for costs the pieces of others nothing: these would be
  /// made anew, while whoever kept them has them still.
  @Test func whatCannotBeHadLetsNothingGo() throws {
    let memory = CopyMemory(limit: UInt64(4 * page))
    var small: CopyMemory.Use? = try memory.take(page)
    let identity = try inode(try #require(small))
    small = nil
    let other = try memory.take(2 * page)
    for pages in [3, 5, 1000] {
      #expect(throws: Errno.self) { try memory.take(pages * page) }
      #expect(memory.used == UInt64(3 * page))
    }
    #expect(try inode(try memory.take(2 * page)) != inode(other), "there is room for this one")
    #expect(memory.used <= memory.limit)
    withExtendedLifetime(identity) {}
  }

  @Test func isNotUsedAgainWhileItsPictureMayBeShown() throws {
    let memory = CopyMemory(limit: UInt64(2 * page))
    var old: CopyMemory.Use? = try memory.take(page)
    let first = try inode(try #require(old))
    old = nil
    let other = try memory.take(page)
    #expect(try inode(other) != first, "it rests, and there is room for another")
    // There is none now.
    #expect(try inode(try memory.take(page)) == first)
  }

  @Test func showsNobodyWhatWasThereBefore() throws {
    let memory = CopyMemory(limit: UInt64(page))
    var use: CopyMemory.Use? = try memory.take(page)
    let secret = try #require(use).piece.mapping
      .base.assumingMemoryBound(to: UInt8.self)
    secret[7] = 42
    let fd = try #require(use).piece.fd
    use = nil
    let next = try memory.take(100)
    #expect(try inode(next) == FileFacts(of: fd.raw).identity)
    var byte: UInt8 = 1
    #expect(pread(fd.raw, &byte, 1, 7) == 1 && byte == 0)
  }

  /// Whoever gets a small picture can map all of the piece, and see what lies behind it.
  @Test func showsNobodyWhatLiesBehindHisPicture() throws {
    let memory = CopyMemory(limit: UInt64(4 * page))
    var use: CopyMemory.Use? = try memory.take(4 * page)
    let piece = try #require(use).piece
    let last = 4 * page - 1
    piece.mapping.base.storeBytes(of: 42, toByteOffset: last, as: UInt8.self)
    use = nil
    let next = try memory.take(page)
    #expect(try inode(next) == FileFacts(of: piece.fd.raw).identity)
    var byte: UInt8 = 1
    #expect(pread(next.piece.fd.raw, &byte, 1, off_t(last)) == 1 && byte == 0)
  }

  @Test func smallPiecesGoWhereALargePictureNeedsTheRoom() throws {
    let memory = CopyMemory(limit: UInt64(16 * page))
    for _ in 0..<5 { _ = [try memory.take(2 * page), try memory.take(page)] }
    #expect(memory.used <= memory.limit)
    let large = try memory.take(14 * page)
    #expect(memory.used <= memory.limit)
    #expect(throws: Errno.self) { try memory.take(4 * page) }
    #expect(throws: Errno.self) { try memory.take(17 * page) }
    withExtendedLifetime(large) {}
  }

  @Test func aLargePieceServesASmallPicture() throws {
    let memory = CopyMemory(limit: UInt64(16 * page))
    var large: CopyMemory.Use? = try memory.take(16 * page)
    let first = try inode(try #require(large))
    large = nil
    #expect(try inode(try memory.take(page)) == first)
    #expect(memory.used == UInt64(16 * page))
  }

  /// Pieces rest before they are used again, which must not take a descriptor for each picture.
  @Test func picturesThatComeAndGoQuicklyTakeFewPieces() throws {
    let memory = CopyMemory()
    for _ in 0..<1000 { _ = try memory.take(page) }
    #expect(memory.used <= UInt64((CopyMemory.mostResting + 1) * page))
  }
}
