import Linux
import Pixels

extension FrameConsumer.Event: CustomStringConvertible {
  /// The event as one line that does not change between versions.
  public var description: String {
    switch self {
    case .connected(let producer):
      return "connected version \(producer.version) in-flight \(producer.maxInFlight)"
        + " hold \(producer.holdDeadline)us name \(producer.name.printable)"
    case .output(let state):
      return "output \(state.output) "
        + (state.isEnabled ? "\(state.width)x\(state.height)" : "off")
    case .bufferAdded(let buffer): return "buffer \(buffer.name) add \(buffer)"
    case .frame(let frame):
      let damage = frame.damage.map(\.description).joined(separator: ", ")
      return "frame \(frame.output) serial \(frame.serial) buffer \(frame.buffer)"
        + " damage \(damage)" + (frame.isFull ? " full" : "") + (frame.hasSkipped ? " skipped" : "")
    case .bufferRemoved(let name, let reason): return "buffer \(name) remove \(reason)"
    case .cursor(let cursor):
      guard cursor.isVisible else { return "cursor \(cursor.output) hidden" }
      let image = cursor.image.map {
        " image \($0.width)x\($0.height) hot \($0.hotX),\($0.hotY)"
      }
      return "cursor \(cursor.output) at \(cursor.x),\(cursor.y)" + (image ?? "")
    }
  }
}

extension ReceivedBuffer: CustomStringConvertible {
  /// For example `640x480 XR24 stride 2560 dma-buf`.
  public var description: String {
    return "\(width)x\(height) \(fourcc) stride \(stride)"
      + (memory == .dmaBuf ? " dma-buf" : " copy") + (isYInverted ? " y-inverted" : "")
  }
}
