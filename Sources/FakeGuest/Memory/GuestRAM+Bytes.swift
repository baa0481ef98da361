import Glibc
import Linux

/// Reading and writing what lies in a guest's pages.
extension GuestRAM {
  /// Calls `body` for each piece of a byte range with our address of it and its place.
  private func pieces(
    of pages: GuestPages, at offset: Int, count: Int,
    _ body: (UnsafeMutableRawPointer, _ place: Int, _ count: Int) -> Void
  ) {
    var done = 0
    while done < count {
      let position = offset + done
      let inPage = position % 4096
      let take = min(4096 - inPage, count - done)
      body(pointer(pages.addresses[position / 4096]) + inPage, done, take)
      done += take
    }
  }

  /// Writes bytes as the guest's CPU would.
  package func write(_ bytes: UnsafeRawBufferPointer, to pages: GuestPages, at offset: Int = 0) {
    guard let source = bytes.baseAddress else { return }
    pieces(of: pages, at: offset, count: bytes.count) { target, place, count in
      memcpy(target, source + place, count)
    }
  }

  /// Writes bytes as the guest's CPU would.
  package func write(_ bytes: [UInt8], to pages: GuestPages, at offset: Int = 0) {
    bytes.withUnsafeBytes { write($0, to: pages, at: offset) }
  }

  /// Reads what the guest's CPU would see.
  package func read(_ pages: GuestPages, at offset: Int = 0, count: Int) -> [UInt8] {
    [UInt8](unsafeUninitializedCapacity: count) { buffer, filled in
      read(
        pages, at: offset,
        into: UnsafeMutableRawBufferPointer(start: buffer.baseAddress, count: count))
      filled = count
    }
  }

  /// Reads as many bytes as there is room for.
  package func read(
    _ pages: GuestPages, at offset: Int = 0, into room: UnsafeMutableRawBufferPointer
  ) {
    guard let target = room.baseAddress else { return }
    pieces(of: pages, at: offset, count: room.count) { source, place, count in
      memcpy(target + place, source, count)
    }
  }

  /// Sets every byte of the pages.
  package func fill(_ pages: GuestPages, with byte: UInt8) {
    for address in pages.addresses { memset(pointer(address), CInt(byte), 4096) }
  }

  /// Where the pages lie in the file, in bytes, for somebody who punches holes in it.
  package func fileOffsets(of pages: GuestPages) -> [UInt64] {
    pages.addresses.compactMap { fileOffset(ofGuest: $0) }
  }
}
