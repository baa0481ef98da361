import GuestMemory
import Linux
import Logging
import VhostUser
import Virtqueue

/// A device of two queues that answers each request with its own bytes and keeps a diary.
final class FakeDevice: VirtioDevice {
  var deviceFeatures: UInt64 = 1 << 1
  var queueCount = 2
  var maxQueueSize: UInt16 = 1024
  /// What happened, in order.
  var diary: [String] = []
  var queues: [Int: VirtioQueue] = [:]
  var config: [UInt8] = Array(0..<16)
  var display: SharedFD?
  /// Keeps requests instead of answering them.
  var holds = false
  var held: [DescriptorChain] = []
  var answered = 0
  /// What other devices may ask for, and what was asked last.
  var object: SharedFD?
  var asked: SharedObjectID??

  func featuresNegotiated(_ features: UInt64) {
    diary.append("features \(String(features, radix: 16))")
  }
  func readConfig(offset: UInt32, count: UInt32) -> [UInt8]? {
    guard Int(offset) + Int(count) <= config.count else { return nil }
    return Array(config[Int(offset)..<Int(offset + count)])
  }
  func writeConfig(offset: UInt32, bytes: [UInt8]) {
    diary.append("config \(offset) \(bytes)")
  }
  func queueStarted(_ index: Int, _ queue: VirtioQueue) {
    diary.append("started \(index)")
    queues[index] = queue
  }
  func queueStopped(_ index: Int) {
    diary.append("stopped \(index)")
    for chain in held { queues[index]?.push(chain, written: 0) }
    held = []
    queues[index] = nil
  }
  func queueKicked(_ index: Int) {
    guard let queue = queues[index] else {
      diary.append("kicked \(index) while stopped")
      return
    }
    repeat {
      queue.ring.disableNotifications()
      while let chain = queue.pop() {
        if holds { held.append(chain) } else { answer(chain, queue) }
      }
    } while queue.ring.enableNotifications()
    queue.notifyIfWanted()
  }
  private func answer(_ chain: DescriptorChain, _ queue: VirtioQueue) {
    var bytes = [UInt8](repeating: 0, count: chain.readableCount)
    _ = bytes.withUnsafeMutableBytes { chain.read(into: $0) }
    let written = bytes.withUnsafeBytes { chain.write($0) }
    queue.push(chain, written: UInt32(written))
    answered += 1
  }
  func memoryChanged(removed: [MemoryRegion]) {
    diary.append("memory -\(removed.count)")
  }
  func sharedObject(_ id: SharedObjectID?) -> SharedFD? {
    asked = .some(id)
    return object
  }
  func deviceReset() { diary.append("reset") }
  func displaySocket(_ fd: consuming OwnedFD) {
    diary.append("display")
    display = SharedFD(fd)
  }
  func disconnected() { diary.append("disconnected") }
}

/// Keeps what is logged.
struct LogBook: LogHandler {
  final class Lines: @unchecked Sendable { var text: [String] = [] }
  let lines: Lines
  var metadata: Logger.Metadata = [:]
  var logLevel: Logger.Level = .trace
  subscript(metadataKey key: String) -> Logger.Metadata.Value? {
    get { metadata[key] }
    set { metadata[key] = newValue }
  }
  func log(event: LogEvent) { lines.text.append("\(event.level): \(event.message)") }
}
