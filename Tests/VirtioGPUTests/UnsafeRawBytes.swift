import Glibc
import Linux

/// The few raw calls that the bench needs.
enum UnsafeRawBytes {
  static func write(_ fd: CInt, _ word: inout UInt64) throws {
    _ = try retrying("write") { Glibc.write(fd, &word, 8) }
  }

  static func read(_ fd: CInt) throws -> UInt64 {
    var word: UInt64 = 0
    _ = try retrying("read") { Glibc.read(fd, &word, 8) }
    return word
  }

  static func poll(_ fd: CInt, milliseconds: CInt) throws -> Bool {
    var entry = pollfd(fd: fd, events: Int16(POLLIN), revents: 0)
    return try retrying("poll") { Glibc.poll(&entry, 1, milliseconds) } == 1
  }
}
