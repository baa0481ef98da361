import CLinux
import Glibc

/// A POSIX thread with a name; joined when its owner lets it go.
public struct Thread: ~Copyable, @unchecked Sendable {
  private let handle: pthread_t

  private final class Box {
    let name: StaticString
    let body: () -> Void
    init(_ name: StaticString, _ body: @escaping () -> Void) {
      self.name = name
      self.body = body
    }
  }

  /// Starts a thread.
  ///
  /// - Parameters:
  ///   - name: at most 15 bytes, shown by ps(1).
  ///   - body: what it runs; what it captures moves into the thread.
  /// - Throws: `EAGAIN`, as pthread_create(3).
  public init(_ name: StaticString, _ body: sending @escaping () -> Void) throws(Errno) {
    var handle = pthread_t()
    let box = Unmanaged.passRetained(Box(name, body))
    let result = pthread_create(
      &handle, nil,
      { raw in
        guard let raw else { return nil }
        let box = Unmanaged<Box>.fromOpaque(raw).takeRetainedValue()
        box.name.withUTF8Buffer { utf8 in
          _ = utf8.withMemoryRebound(to: CChar.self) { ph_set_thread_name($0.baseAddress) }
        }
        box.body()
        return nil
      }, box.toOpaque())
    guard result == 0 else {
      box.release()
      throw Errno(result, "pthread_create")
    }
    self.handle = handle
  }

  deinit { pthread_join(handle, nil) }
}

/// A value behind a POSIX mutex, which thread sanitizers understand.
public final class Locked<Value>: @unchecked Sendable {
  private let mutex: UnsafeMutablePointer<pthread_mutex_t>
  private var value: Value

  /// Guards a value that moves in.
  public init(_ value: sending Value) {
    mutex = .allocate(capacity: 1)
    mutex.initialize(to: pthread_mutex_t())
    pthread_mutex_init(mutex, nil)
    self.value = value
  }

  deinit {
    pthread_mutex_destroy(mutex)
    mutex.deallocate()
  }

  /// Runs `body` with the lock held.
  public func withLock<R, E: Error>(_ body: (inout Value) throws(E) -> R) throws(E) -> R {
    pthread_mutex_lock(mutex)
    defer { pthread_mutex_unlock(mutex) }
    return try body(&value)
  }
}
