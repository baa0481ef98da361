import Buffers
import CLinux
import Glibc
import GuestMemory
import Linux

/// Stands in for /dev/udmabuf on a machine that has none: pipes that hold the guest's own pages.
///
/// vmsplice(2) takes a reference to each page, as udmabuf does: what the guest writes is seen, and
/// a page that is discarded stays in the pipe as it was. A pipe cannot be mapped or measured, so
/// consumers get an empty memfd of the right size, which is the name under which tests find it.
enum PagePipes {
  private static let setPipeSize: CInt = 1031  // F_SETPIPE_SZ, fcntl(2)
  // Numbers of x86-64, the only architecture that these tests run on.
  private static let tee = 276
  private static let vmsplice = 278
  /// Pipes behind memfds, by inode, and in the order in which they were made.
  private static let named = Locked<[(inode: UInt64, pipe: SharedFD)]>([])
  /// More than tests that run at the same time look at.
  private static let kept = 400

  /// A pipe that holds these pages, in their order.
  static func hold(_ ranges: [FileRange]) throws(Errno) -> OwnedFD {
    let bytes = ranges.reduce(0) { $0 + $1.count }
    let (reader, writer) = try pipe(Int(bytes))
    for range in ranges {
      guard let start = range.file.pointer(at: range.offset, count: range.count) else {
        throw Errno(EINVAL, "vmsplice")
      }
      var done = 0
      while done < Int(range.count) {
        var piece = iovec(iov_base: start + done, iov_len: Int(range.count) - done)
        let taken = withUnsafePointer(to: &piece) {
          ph_raw_call(vmsplice, Int(writer.raw), Int(bitPattern: $0), 1)
        }
        guard taken > 0 else { throw Errno(errno, "vmsplice") }
        done += taken
      }
    }
    return try reader.duplicate()
  }

  /// A memfd as large as these pages, which names a pipe that holds them.
  static func holdByName(_ ranges: [FileRange]) throws(Errno) -> OwnedFD {
    let pipe = SharedFD(try hold(ranges))
    let name = try MemFD.create(
      "page-pipe", size: Int(ranges.reduce(0) { $0 + $1.count }), seals: [.shrink])
    let inode = inode(of: name.raw)
    named.withLock {
      if $0.count >= kept { $0.removeFirst() }
      $0.append((inode, pipe))
    }
    return name
  }

  /// The first bytes of a pipe of pages, or of the pipe that a memfd names; nil if it is neither.
  static func bytes(of fd: CInt, count: Int) throws(Errno) -> [UInt8]? {
    let inode = inode(of: fd)
    let held = named.withLock { all in all.last { $0.inode == inode }?.pipe }
    let source = held?.raw ?? fd
    guard held != nil || isPipe(fd) else { return nil }
    let (reader, writer) = try pipe(count)
    guard ph_raw_call(tee, Int(source), Int(writer.raw), count) == count else {
      throw Errno(errno, "tee")
    }
    var bytes = [UInt8](repeating: 0, count: count)
    var done = 0
    while done < count {
      let got = bytes.withUnsafeMutableBytes { buffer in
        Glibc.read(reader.raw, buffer.baseAddress.map { $0 + done }, count - done)
      }
      guard got > 0 else { throw Errno(errno, "read") }
      done += got
    }
    return bytes
  }

  private static func pipe(_ bytes: Int) throws(Errno) -> (SharedFD, SharedFD) {
    var ends: [CInt] = [-1, -1]
    guard Glibc.pipe(&ends) == 0 else { throw Errno(errno, "pipe") }
    let both = (SharedFD(OwnedFD(adopting: ends[0])), SharedFD(OwnedFD(adopting: ends[1])))
    for end in ends {
      _ = fcntl(end, F_SETFD, FD_CLOEXEC)
      _ = fcntl(end, F_SETFL, fcntl(end, F_GETFL) | O_NONBLOCK)
    }
    guard fcntl(ends[1], setPipeSize, CInt(bytes)) >= 0 else {
      throw Errno(errno, "fcntl(F_SETPIPE_SZ)")
    }
    return both
  }

  private static func inode(of fd: CInt) -> UInt64 {
    var facts = stat()
    return fstat(fd, &facts) == 0 ? UInt64(facts.st_ino) : 0
  }

  private static func isPipe(_ fd: CInt) -> Bool {
    var facts = stat()
    return fstat(fd, &facts) == 0 && facts.st_mode & S_IFMT == S_IFIFO
  }
}

/// Whether this machine has the real device, and lets us use it.
let hasUdmabuf = access("/dev/udmabuf", R_OK | W_OK) == 0

/// Why there can be no buffers over guest pages here, not even with ``PagePipes``; nil if there can.
let bufferProblem: String? = {
  guard WitnessKeeper.isUsable else { return "no userfaultfd" }
  if hasUdmabuf { return nil }
  do throws(Errno) {
    let file = try GuestFile(try MemFD.create("pages", size: pageSize, seals: [.shrink]))
    _ = try PagePipes.hold([FileRange(file: file, offset: 0, count: UInt64(pageSize))])
    return nil
  } catch { return "\(error)" }
}()

/// The real device, or pipes in its place.
///
/// - Parameter named: consumers of another process or protocol get the buffers.
func anyUdmabuf(named: Bool = false) throws(CopyReason) -> UdmabufDevice {
  if hasUdmabuf { return try UdmabufDevice.open() }
  do throws(Errno) {
    let device = UdmabufDevice(adopting: try OwnedFD.open("/dev/null", O_RDWR), limits: .usual)
    device.substitute = named ? PagePipes.holdByName : PagePipes.hold
    return device
  } catch { throw .noAccess(error) }
}

/// What a buffer over guest pages shows, whatever it is.
func shownBytes(_ fd: CInt, count: Int) throws -> [UInt8] {
  if let bytes = try PagePipes.bytes(of: fd, count: count) { return bytes }
  let own = SharedFD(try OwnedFD.duplicate(of: fd))
  return try DmaBufView(own).read { Array($0.prefix(count)) }
}
