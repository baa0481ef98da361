import Glibc

/// An error number of the kernel and the call that returned it.
public struct Errno: Error, Equatable, Sendable, CustomStringConvertible {
  /// The positive `errno` value, as in errno(3).
  public let code: CInt
  /// The system call or ioctl that failed.
  public let call: StaticString

  /// Makes an error out of a positive `errno` value.
  public init(_ code: CInt, _ call: StaticString) {
    self.code = code
    self.call = call
  }

  /// The kernel's own words, such as "Permission denied".
  public var message: String {
    withUnsafeTemporaryAllocation(of: CChar.self, capacity: 128) { text in
      guard let base = text.baseAddress, strerror_r(code, base, text.count) == 0 else {
        return "error \(code)"
      }
      return String(cString: base)
    }
  }

  /// For example `openat: Permission denied (errno 13)`.
  public var description: String { "\(call): \(message) (errno \(code))" }

  /// Compares the error numbers; which call failed does not matter.
  public static func == (a: Errno, b: Errno) -> Bool { a.code == b.code }
}

/// Turns the `-errno` of a C wrapper into a thrown ``Errno``.
@discardableResult @inlinable
public func check<R: FixedWidthInteger & SignedInteger>(
  _ result: R, _ call: StaticString
) throws(Errno) -> R {
  guard result < 0 else { return result }
  throw Errno(CInt(truncatingIfNeeded: 0 &- result), call)
}

/// Turns a libc result of -1 and `errno` into a thrown ``Errno``; repeats on EINTR.
@discardableResult
public func retrying<R: FixedWidthInteger & SignedInteger>(
  _ call: StaticString, _ body: () -> R
) throws(Errno) -> R {
  while true {
    let result = body()
    if result != -1 { return result }
    let code = errno
    if code != EINTR { throw Errno(code, call) }
  }
}
