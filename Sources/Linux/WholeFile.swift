import Glibc

/// Reads and writes whole files.
public enum WholeFile {
  /// What failed on which file.
  public struct Failure: Error, CustomStringConvertible, Sendable {
    /// The file.
    public let path: String
    /// What the system says.
    public let errno: Errno
    /// Both.
    public var description: String { "\(path): \(errno)" }
  }

  /// Writes bytes to a new or truncated file.
  public static func write(_ bytes: [UInt8], to path: String) throws(Failure) {
    do throws(Errno) {
      let fd = try OwnedFD.open(path, O_WRONLY | O_CREAT | O_TRUNC)
      var done = 0
      while done < bytes.count {
        done += try retrying("write") {
          bytes.withUnsafeBytes { all in
            Glibc.write(fd.raw, all.baseAddress.map { $0 + done }, bytes.count - done)
          }
        }
      }
    } catch { throw Failure(path: path, errno: error) }
  }

  /// Reads a file to its end, or what comes first of one that is longer.
  ///
  /// - Parameter most: bytes.
  public static func read(_ path: String, most: Int = 1 << 30) throws(Failure) -> [UInt8] {
    do throws(Errno) {
      let fd = try OwnedFD.open(path, O_RDONLY)
      var bytes: [UInt8] = []
      var chunk = [UInt8](repeating: 0, count: 1 << 16)
      while bytes.count < most {
        let count = try retrying("read") { Glibc.read(fd.raw, &chunk, chunk.count) }
        guard count > 0 else { break }
        bytes += chunk.prefix(min(count, most - bytes.count))
      }
      return bytes
    } catch { throw Failure(path: path, errno: error) }
  }

  /// The same as text; nil where it cannot be read.
  public static func text(_ path: String, most: Int = 1 << 30) -> String? {
    (try? read(path, most: most)).map { String(decoding: $0, as: UTF8.self) }
  }
}
