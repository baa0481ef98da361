import CLinux
import FrameProtocol
import Glibc
import Linux
import PinholeProtocol
import Pixels

// Whether what came beside a message is what the message says: memory that is too short, or can
// become so, would kill whoever reads it (SIGBUS). Until a descriptor is known to be a memfd, which
// alone has seals, or a dma-buf, nothing is asked of it that a server of files would have to answer.
extension ReceivedBuffer {
  /// Takes the descriptors over, once they are what they should be.
  convenience init(checking add: BufferAdd, _ fds: inout [CInt]) throws(MalformedMessage) {
    func fault(_ field: PartialKeyPath<pinhole_buffer_add>, _ text: String) -> MalformedMessage {
      MalformedMessage(type: PINHOLE_BUFFER_ADD.rawValue, at: field, text: text)
    }
    for fd in fds {
      let cannotShrink = MemFD.seals(of: fd)?.contains(.shrink) == true
      switch add.memory {
      case .copy where !cannotShrink: throw fault(\.flags, "the copy may still shrink")
      case .dmaBuf where !cannotShrink && ph_is_dmabuf(fd) != 1:
        throw fault(\.flags, "the descriptor is no dma-buf")
      default: break
      }
      let end = lseek(fd, 0, SEEK_END)
      guard end >= 0, UInt64(end) >= add.size else {
        throw fault(\.size, "the descriptor has \(end) bytes, not \(add.size)")
      }
    }
    // The close of a memfd or dma-buf waits for nobody.
    let kept = fds.map { SharedFD(OwnedFD(adopting: $0)) }
    fds.removeAll()
    self.init(add, fds: kept)
  }
}

extension ReceivedCursor {
  /// Reads the image, if there is one.
  ///
  /// - Parameter file: its memfd, which stays the caller's.
  init(_ message: CursorMessage, _ file: CInt?) throws(MalformedMessage) {
    self.init(
      output: message.output, isVisible: message.isVisible, x: message.x, y: message.y,
      image: try Image(message, file))
  }
}

extension ReceivedCursor.Image {
  fileprivate init?(
    _ message: CursorMessage, _ file: CInt?
  ) throws(MalformedMessage) {
    guard let image = message.image, let file else { return nil }
    func fault(_ field: PartialKeyPath<pinhole_cursor>, _ text: String) -> MalformedMessage {
      MalformedMessage(type: PINHOLE_CURSOR.rawValue, at: field, text: text)
    }
    guard MemFD.seals(of: file)?.contains(.shrink) == true else {
      throw fault(\.flags, "the image is not sealed with F_SEAL_SHRINK")
    }
    let end = lseek(file, 0, SEEK_END)
    guard end >= 0, UInt64(end) >= image.size else {
      throw fault(\.size, "the image has \(end) bytes, not \(image.size)")
    }
    // At once: the producer uses the memory again. pread and not mmap: before Linux 6.7 F_SEAL_WRITE
    // forbids every shared mapping, and other producers may have set it.
    let count = Int(image.stride) * Int(image.height)
    let pixels = [UInt8](unsafeUninitializedCapacity: count) { out, initialized in
      var at = 0
      while at < count {
        let got = pread(file, out.baseAddress.map { $0 + at }, count - at, off_t(at))
        if got < 0, errno == EINTR { continue }
        guard got > 0 else { break }
        at += got
      }
      initialized = at
    }
    guard pixels.count == count else { throw fault(\.size, "the image cannot be read") }
    self.init(
      width: image.width, height: image.height, hotX: message.hotX, hotY: message.hotY,
      fourcc: .argb8888, stride: image.stride, pixels: pixels)
  }
}
