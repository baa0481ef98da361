import Buffers
import Fences
import Linux

/// What the consumers of one frame keep from the device together: the buffer's use, and perhaps
/// the guest's fence. The server makes few of them and uses them again.
final class FrameTicket {
  private(set) var buffer: OfferedBuffer?
  private var hold: Hold?
  /// Frames in flight that hold it.
  var shares = 0
  /// When the device gets everything back in any case.
  private(set) var due: UInt64 = 0
  /// Who gave the last share back: whoever still reads without saying so is taken for it.
  weak var last: FrameClient?
  /// Somebody may have left readers behind that only the dma-buf's own fences tell of.
  var mayHaveReaders = false
  /// Implicit readers that are not done yet.
  var readers: FenceWatch?
  /// The device has got everything back, but readers are not done.
  private(set) var isOverdue = false

  func begin(_ buffer: OfferedBuffer, hold: Hold?, due: UInt64) {
    self.buffer = buffer
    self.hold = hold
    self.due = due
    isOverdue = false
    mayHaveReaders = false
    buffer.beginUse()
    hold?.retain()
  }

  /// Whether it is for this buffer and keeps the same fence of the guest's back.
  func covers(_ other: OfferedBuffer, _ fence: Hold?) -> Bool { buffer === other && hold === fence }

  /// Gives everything back.
  func end() {
    let (ended, held) = (buffer, hold)
    buffer = nil
    hold = nil
    isOverdue = readers != nil
    held?.release()
    ended?.endUse()
  }
}

/// A frame that waits for its acquire fence, on behalf of consumers that cannot.
final class FrameAcquisition {
  let fence: SharedFD
  let ticket: FrameTicket
  var watch: FenceWatch?

  init(_ fence: SharedFD, _ ticket: FrameTicket) {
    self.fence = fence
    self.ticket = ticket
  }
}
