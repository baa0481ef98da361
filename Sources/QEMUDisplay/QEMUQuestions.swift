import Buffers
import Linux
import Pixels
import Scene

/// Requests to QEMU that want a reply, and what to do with it.
///
/// Replies name only the kind of their request. QEMU serves requests in order and leaves some
/// without reply (GET_EDID of an output it does not have), so a reply also settles whatever was
/// asked before it: that will not be answered any more.
struct QEMUQuestions {
  enum Answer {
    case features(QEMUWire.Features)
    case displayInfo(DisplayInfo)
    case edid([UInt8])
    /// A DMABUF_UPDATE is on the display.
    case presented
  }

  private struct Question {
    let request: QEMUWire.Request
    let deadline: UInt64
    /// Nil after the deadline: the reply may still come and has to be recognised.
    var completion: ((Answer?) -> Void)?
  }

  /// Why a message cannot be an answer.
  enum Refusal: Error, Equatable {
    case notAReply
    case notAsked
    case wrongSize
    case badEDIDSize
  }

  /// Most questions that wait at a time.
  static let limit = 64
  /// Largest payload of a reply in bytes.
  static let maxReply = QEMUWire.edidReplySize

  private var asked: [Question] = []

  /// No reply is awaited.
  var isEmpty: Bool { asked.isEmpty }

  /// Whether more can be asked.
  func hasRoom(for count: Int) -> Bool { asked.count + count <= Self.limit }

  /// Remembers that a request went out.
  ///
  /// - Parameter deadline: nanoseconds of the monotonic clock.
  mutating func ask(
    _ request: QEMUWire.Request, deadline: UInt64, _ completion: @escaping (Answer?) -> Void
  ) {
    asked.append(Question(request: request, deadline: deadline, completion: completion))
  }

  /// When the next question is given up, in nanoseconds of the monotonic clock.
  var nextDeadline: UInt64? {
    asked.lazy.filter { $0.completion != nil }.map(\.deadline).min()
  }

  /// Takes a message from QEMU.
  ///
  /// - Returns: completions to call now.
  mutating func take(
    _ message: QEMUMessageReader.Message
  ) throws(Refusal) -> [() -> Void] {
    guard message.header.flags & QEMUWire.Header.reply != 0 else { throw .notAReply }
    let match = asked.firstIndex { $0.request.rawValue == message.header.request }
    guard let match else { throw .notAsked }
    let answer = try Self.decode(asked[match].request, message.payload)
    var calls: [() -> Void] = []
    var unsettled: [Question] = []
    for (index, question) in asked[...match].enumerated() {
      // A DMABUF_UPDATE is answered when the display is done, not in its turn.
      if index != match, question.request == .dmabufUpdate {
        unsettled.append(question)
      } else if let completion = question.completion {
        calls.append { completion(index == match ? answer : nil) }
      }
    }
    asked.replaceSubrange(...match, with: unsettled)
    return calls
  }

  /// Gives up what has waited too long; returns completions to call.
  mutating func expire(now: UInt64) -> [() -> Void] {
    var calls: [() -> Void] = []
    for index in asked.indices where asked[index].deadline <= now {
      guard let completion = asked[index].completion else { continue }
      asked[index].completion = nil
      calls.append { completion(nil) }
    }
    return calls
  }

  /// Gives everything up; returns completions to call.
  mutating func abandon() -> [() -> Void] {
    let calls = asked.compactMap { question in
      question.completion.map { completion in { completion(nil) } }
    }
    asked.removeAll()
    return calls
  }

  /// An answer of exactly the right size; nil if it says that QEMU has none.
  private static func decode(
    _ request: QEMUWire.Request, _ payload: [UInt8]
  ) throws(Refusal) -> Answer? {
    switch request {
    case .getProtocolFeatures:
      guard payload.count == 8 else { throw .wrongSize }
      let bits = UInt64(payload.number(at: 4)) << 32 | UInt64(payload.number(at: 0))
      return .features(QEMUWire.Features(rawValue: bits))
    case .getDisplayInfo:
      guard payload.count == QEMUWire.displayInfoSize else { throw .wrongSize }
      return isError(payload) ? nil : .displayInfo(displayInfo(payload))
    case .getEDID:
      guard payload.count == QEMUWire.edidReplySize else { throw .wrongSize }
      guard let size = Int(exactly: payload.number(at: 24)), size <= QEMUWire.maxEDID else {
        throw .badEDIDSize
      }
      return isError(payload) || size == 0 ? nil : .edid(Array(payload[32..<32 + size]))
    case .dmabufUpdate:
      guard payload.isEmpty else { throw .wrongSize }
      return .presented
    default: throw .notAsked
    }
  }

  /// `VIRTIO_GPU_RESP_ERR_*` in the response's header.
  private static func isError(_ payload: [UInt8]) -> Bool { payload.number(at: 0) >= 0x1200 }

  private static func displayInfo(_ payload: [UInt8]) -> DisplayInfo {
    let modes = (0..<DisplayInfo.outputs).map { index in
      let at = 24 + index * 24
      return DisplayMode(
        rect: Rect(
          x: payload.number(at: at), y: payload.number(at: at + 4),
          width: payload.number(at: at + 8), height: payload.number(at: at + 12)),
        isEnabled: payload.number(at: at + 16) != 0, flags: payload.number(at: at + 20))
    }
    return DisplayInfo(modes: modes)
  }
}
