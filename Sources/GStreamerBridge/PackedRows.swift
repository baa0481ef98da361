import Glibc
import Linux
import PinholeFrames

/// Copies of pictures whose rows have gaps: GStreamer takes such rows only from the second buffer
/// of a stream on, when something in the pipeline has made it know `GstVideoMeta`.
final class PackedRows {
  /// Pictures that a reader may have at a time.
  static let limit = 4

  private final class Slot {
    let fd: SharedFD
    let mapping: Mapping
    init(_ fd: consuming OwnedFD, _ mapping: consuming Mapping) {
      self.fd = SharedFD(fd)
      self.mapping = mapping
    }
  }

  private var size = 0
  private var free: [Slot] = []
  private var used: [UInt64: Slot] = [:]
  private var made = 0

  /// Copies a part of a buffer.
  ///
  /// - Parameter number: what ``release(_:)`` will name.
  /// - Returns: a memfd with the rows one after the other; nil if the reader has all of them.
  /// - Throws: errors of memfd_create(2) and mmap(2), `EIO` if the pixels cannot be read.
  func copy(
    _ picture: UnixFDWire.Picture, of buffer: ReceivedBuffer, number: UInt64
  ) throws(Errno) -> SharedFD? {
    let row = Int(picture.width) * 4
    let bytes = row * Int(picture.height)
    if bytes != size {
      // Those that are out belong to the picture's old size.
      free = []
      used = [:]
      made = 0
      size = bytes
    }
    if free.isEmpty, made < Self.limit {
      let fd = try MemFD.create("pinhole-gst", size: bytes)
      let mapping = try Mapping(fd: fd.raw, offset: 0, count: bytes, writable: true)
      try MemFD.add([.shrink, .grow, .futureWrite, .seal], to: fd.raw)
      free.append(Slot(fd, mapping))
      made += 1
    }
    guard let slot = free.popLast() else { return nil }
    let offset = Int(picture.offset)
    let stride = Int(picture.stride)
    do throws(FramesError) {
      try buffer.read { source in
        guard let from = source.baseAddress else { return }
        for y in 0..<Int(picture.height) {
          let start = offset + y * stride
          guard start + row <= source.count else { return }
          (slot.mapping.base + y * row).copyMemory(from: from + start, byteCount: row)
        }
      }
    } catch {
      free.append(slot)
      throw Errno(EIO, "read")
    }
    used[number] = slot
    return slot.fd
  }

  /// The reader has let go of a copy.
  func release(_ number: UInt64) {
    if let slot = used.removeValue(forKey: number) { free.append(slot) }
  }
}
