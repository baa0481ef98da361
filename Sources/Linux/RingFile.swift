import CLinux
import Glibc

/// A memfd that is mapped twice in a row: any run of at most ``count`` bytes lies in one piece,
/// also one that passes the end of the file and goes on at its start.
public final class RingFile {
  /// Its size in bytes, a multiple of the page size.
  public let count: Int
  private let file: OwnedFD
  private let base: UnsafeMutableRawPointer

  /// Makes one; its pages come with the first write to each.
  ///
  /// - Parameter count: bytes, rounded up to whole pages; more than zero.
  /// - Throws: errors of memfd_create(2), ftruncate(2) and mmap(2), such as `ENOMEM`.
  public init(_ name: String, count: Int) throws(Errno) {
    let (padded, overflow) = count.addingReportingOverflow(pageSize - 1)
    guard count > 0, !overflow, padded < .max / 2 else { throw Errno(ENOMEM, "mmap") }
    let whole = padded / pageSize * pageSize
    let file = try MemFD.create(name, size: whole)
    var error: CInt = 0
    guard let base = ph_map_twice(file.raw, whole, &error) else { throw Errno(error, "mmap") }
    self.file = file
    self.base = base
    self.count = whole
  }

  deinit { munmap(base, 2 * count) }

  /// The memory of a position, which may be any number: positions go round.
  ///
  /// At most ``count`` bytes from there are one piece.
  public func address(_ position: UInt64) -> UnsafeMutableRawPointer { base + place(position) }

  /// Sends bytes once by reference; see ``UnixSocket/send(_:file:from:count:)``.
  ///
  /// - Returns: how many went out, perhaps only those up to the end of the file.
  public func send(_ socket: CInt, from position: UInt64, count: Int) throws(Errno) -> Int {
    let start = place(position)
    return try UnixSocket.send(
      socket, file: file.raw, from: UInt64(start), count: min(count, self.count - start))
  }

  private func place(_ position: UInt64) -> Int { Int(position % UInt64(count)) }
}
