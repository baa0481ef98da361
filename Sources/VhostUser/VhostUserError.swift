import GuestMemory
import Linux

/// Why a vhost-user connection ended or a request of it was refused.
public enum VhostUserError: Error, Equatable, Sendable, CustomStringConvertible {
  /// The front-end closed the connection between two messages.
  case frontEndClosed
  /// The front-end closed it in the middle of a message.
  case truncated
  /// The session was ended on this side.
  case closedHere
  /// A socket call failed.
  case socket(Errno)
  /// A header's flags are not those of a request of version 1.
  case badFlags(UInt32)
  /// A request that is unknown or was never offered.
  case notOffered(request: UInt32)
  /// A payload that is larger than any message.
  case tooLarge(request: UInt32, size: UInt32)
  /// Descriptors beyond the eight a message may carry, or after a message's first byte.
  case strayDescriptors
  /// A payload of the wrong size, or one with contents that cannot be.
  case badPayload(String, size: Int)
  /// Too few or too many descriptors.
  case badDescriptorCount(String, count: Int)
  /// A descriptor of the wrong kind.
  case badDescriptor(String, Errno?)
  /// A queue that the device does not have.
  case noSuchQueue(String, index: UInt32)
  /// The guest or the front-end took feature bits that nobody can serve here.
  case unsupportedFeatures(String)
  /// A memory region was refused.
  case memory(String)
  /// Guest memory was taken away while it was in use.
  case memoryLost(MemoryRegion)
  /// A descriptor that the front-end sent has been closing for a second or more.
  case closeWaits
  /// The front-end sends requests and never reads the replies.
  case repliesNotRead

  /// What failed, and what the operator can do where that helps.
  public var description: String {
    switch self {
    case .frontEndClosed: return "the front-end closed the connection"
    case .truncated: return "the front-end closed the connection in the middle of a message"
    case .closedHere: return "the session was closed"
    case .socket(let errno): return "vhost-user socket: \(errno)"
    case .badFlags(let flags):
      return "a message has flags 0x\(String(flags, radix: 16)), not those of a request"
    case .notOffered(let request): return "request \(request) was not offered"
    case .tooLarge(let request, let size): return "request \(request) has \(size) bytes"
    case .strayDescriptors: return "descriptors that no message asks for"
    case .badPayload(let what, let size): return "\(what): bad payload of \(size) bytes"
    case .badDescriptorCount(let what, let count): return "\(what) came with \(count) descriptors"
    case .badDescriptor(let what, let errno):
      return "\(what): unfit descriptor" + (errno.map { ": \($0)" } ?? "")
    case .noSuchQueue(let what, let index): return "\(what): there is no queue \(index)"
    case .unsupportedFeatures(let names):
      return "features that this device does not have were acknowledged: \(names); "
        + "switch them off at the front-end (in QEMU packed=off,iommu_platform=off)"
    case .memory(let why): return why
    case .memoryLost(let region):
      return "the guest memory at 0x\(String(region.guestAddress, radix: 16)) is gone: its file "
        + "was truncated or has no huge pages left; seal it against shrinking (in QEMU "
        + "memory-backend-memfd,seal=on) and reserve huge pages"
    case .closeWaits:
      return "a descriptor that came from the front-end does not close: it waits for its peer"
    case .repliesNotRead: return "the front-end does not read its replies"
    }
  }

  /// A request that can be refused without ending the connection.
  var isRefusal: Bool { if case .memory = self { true } else { false } }
}
