import FakeGuest
import Glibc
import Linux

/// QEMU's end of the display socket, as cheap as it can be: it reads every UPDATE into memory that
/// it maps anew, as QEMU allocates it, counts its pixels and drops it.
final class BenchDisplay: @unchecked Sendable {
  /// Answers to what a back-end asks; QEMU's docs/interop/vhost-user-gpu.rst.
  private enum Request {
    static let getProtocolFeatures: UInt32 = 1
    static let getDisplayInfo: UInt32 = 3
    static let update: UInt32 = 8
    static let getEDID: UInt32 = 11
  }

  /// The back-end's end.
  let theirs: SharedFD
  private let socket: SharedFD
  private let size: (width: UInt32, height: UInt32)
  private let counted = Locked<UInt64>(0)
  /// Nanoseconds to wait before each UPDATE is read.
  private let lateness: UInt32
  private var thread: Thread?

  /// - Parameter lateness: microseconds that it waits before it reads an UPDATE.
  init(_ size: (width: UInt32, height: UInt32), lateness: UInt32 = 0) throws(GuestError) {
    self.size = size
    self.lateness = lateness
    let pair: UnixSocket.Pair
    do throws(Errno) { pair = try UnixSocket.Pair(.stream) } catch {
      throw .system("the display socket", error)
    }
    var ends: (SharedFD?, SharedFD?) = (nil, nil)
    pair.split { ends = (SharedFD($0), SharedFD($1)) }
    guard let ours = ends.0, let theirs = ends.1 else { throw .closed("the display socket") }
    socket = ours
    self.theirs = theirs
  }

  /// Begins to read.
  func start() throws(GuestError) {
    let reader = Reader(socket, counted, size, lateness)
    do throws(Errno) {
      thread = try Thread("bench-display") { reader.run() }
    } catch { throw .system("the display's thread", error) }
  }

  /// Ends the thread: the socket is shut down under it.
  func stop() {
    shutdown(socket.raw, CInt(SHUT_RDWR))
    thread = nil
  }

  /// Pixels that have arrived so far.
  var pixels: UInt64 { counted.withLock { $0 } }

  /// What the thread owns.
  private final class Reader: @unchecked Sendable {
    private let socket: SharedFD
    private let counted: Locked<UInt64>
    private let size: (width: UInt32, height: UInt32)
    private let lateness: UInt32

    init(
      _ socket: SharedFD, _ counted: Locked<UInt64>, _ size: (width: UInt32, height: UInt32),
      _ lateness: UInt32
    ) {
      self.socket = socket
      self.counted = counted
      self.size = size
      self.lateness = lateness
    }

    func run() {
      var header = [UInt8](repeating: 0, count: 12)
      while header.withUnsafeMutableBytes({ fill($0) }) {
        let request: UInt32 = WireBytes.read(header, 0)
        let count = Int(WireBytes.read(header, 8, as: UInt32.self))
        guard count <= 256 << 20 else { return }
        if request == Request.update, lateness > 0 { usleep(lateness) }
        guard skip(count) else { return }
        switch request {
        case Request.update: counted.withLock { $0 += UInt64(max(0, count - 20)) / 4 }
        case Request.getProtocolFeatures: answer(request, WireBytes(u64: 1).bytes)
        case Request.getDisplayInfo: answer(request, displayInfo)
        case Request.getEDID: answer(request, [UInt8](repeating: 0, count: 1056))
        default: break
        }
      }
    }

    private var displayInfo: [UInt8] {
      var bytes = WireBytes(u32: 0x1101, 0, 0, 0, 0, 0)
      for _ in 0..<16 {
        for word in [0, 0, size.width, size.height, 1, 0] { bytes.put(word) }
      }
      return bytes.bytes
    }

    private func fill(_ target: UnsafeMutableRawBufferPointer) -> Bool {
      var done = 0
      while done < target.count {
        let got = recv(socket.raw, target.baseAddress.map { $0 + done }, target.count - done, 0)
        guard got > 0 else { return false }
        done += got
      }
      return true
    }

    private func skip(_ count: Int) -> Bool {
      guard count > 0 else { return true }
      guard
        let memory = mmap(nil, count, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0),
        memory != MAP_FAILED
      else { return false }
      defer { munmap(memory, count) }
      return fill(UnsafeMutableRawBufferPointer(start: memory, count: count))
    }

    private func answer(_ request: UInt32, _ payload: [UInt8]) {
      let message = WireBytes(u32: request, 4, UInt32(payload.count)).bytes + payload
      _ = message.withUnsafeBytes {
        Glibc.send(socket.raw, $0.baseAddress, $0.count, CInt(MSG_NOSIGNAL))
      }
    }
  }
}
