import VhostUser
import Virtqueue

/// What became of a request.
enum Outcome {
  /// Answer `VIRTIO_GPU_RESP_OK_NODATA`.
  case done
  /// Answer these bytes.
  case reply(ResponseBytes)
  /// Somebody holds an ``Answer`` and gives it later.
  case later
}

/// A request that waits for its answer.
struct Exchange {
  unowned let device: GPUDevice
  let queue: VhostUserQueue
  let chain: DescriptorChain
  let header: RequestHeader

  /// Answers with a header alone.
  func send(_ type: Response) {
    let words = ResponseBytes.header(type, answering: header)
    let written = words.withUnsafeBytes { chain.write($0, offset: 0) }
    device.complete(queue, chain, written: written, isAwaited: header.isFenced)
  }

  /// Answers with a header and data; what the guest left no room for is cut off.
  func send(_ response: ResponseBytes) {
    let written = response.bytes.withUnsafeBytes { chain.write($0, offset: 0) }
    device.complete(queue, chain, written: written, isAwaited: true)
  }
}

/// The right to answer a request later, used once.
final class Answer {
  private var exchange: Exchange?
  private let fallback: () -> ResponseBytes?
  let queue: VhostUserQueue

  init(_ exchange: Exchange, fallback: @escaping () -> ResponseBytes?) {
    self.exchange = exchange
    self.fallback = fallback
    queue = exchange.queue
  }

  var isPending: Bool { exchange != nil }

  func send(_ type: Response) {
    exchange?.send(type)
    exchange = nil
  }

  func send(_ response: ResponseBytes) {
    exchange?.send(response)
    exchange = nil
  }

  /// Answers with what can be said at once.
  func finish() {
    if let response = fallback() { send(response) } else { send(.okNoData) }
  }
}

/// Requests without an answer yet.
struct AnswerList {
  private var answers: [Answer] = []

  /// Remembers a request that is answered later.
  mutating func add(
    _ exchange: Exchange, fallback: @escaping () -> ResponseBytes? = { nil }
  ) -> Answer {
    answers.removeAll { !$0.isPending }
    let answer = Answer(exchange, fallback: fallback)
    answers.append(answer)
    return answer
  }

  /// Answers everything that waits on a queue, which is about to stop.
  mutating func finish(of queue: VhostUserQueue) {
    let mine = answers.filter { $0.queue === queue }
    answers.removeAll { $0.queue === queue }
    for answer in mine { answer.finish() }
  }
}
