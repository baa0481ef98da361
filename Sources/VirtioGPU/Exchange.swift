import GPUCommands
import Virtqueue

/// What became of a request.
enum Outcome {
  /// It is answered.
  case reply(GPUResponse)
  /// Somebody holds an ``Answer`` and gives it later.
  case later

  /// Nothing is to be said but that it is done.
  static let done = Outcome.reply(.ok)
}

/// A request that waits for its answer.
struct Exchange {
  unowned let device: GPUDevice
  let queue: VirtioQueue
  let chain: DescriptorChain
  let header: GPUHeader
  /// Counts the requests; never the same again.
  let number: UInt64

  /// Answers, as soon as all older fences of its timeline are answered.
  func send(_ response: GPUResponse) {
    guard device.fences.keep(response, of: self) else { return write(response) }
    device.sendFences(of: self)
  }

  /// Answers; what the guest left no room for is cut off.
  func write(_ response: GPUResponse) {
    let written = response.withBytes(answering: header) { chain.write($0, offset: 0) }
    device.complete(
      queue, chain, written: written, isAwaited: header.isFenced || response.hasData)
  }
}

/// The right to answer a request later, used once.
final class Answer {
  private var exchange: Exchange?
  private let fallback: () -> GPUResponse
  let queue: VirtioQueue

  init(_ exchange: Exchange, fallback: @escaping () -> GPUResponse) {
    self.exchange = exchange
    self.fallback = fallback
    queue = exchange.queue
  }

  var isPending: Bool { exchange != nil }

  func send(_ response: GPUResponse) {
    exchange?.send(response)
    exchange = nil
  }

  /// Answers with what can be said at once.
  func finish() { send(fallback()) }
}

/// Requests without an answer yet.
struct AnswerList {
  private var answers: [Answer] = []

  /// Remembers a request that is answered later.
  mutating func add(
    _ exchange: Exchange, fallback: @escaping () -> GPUResponse
  ) -> Answer {
    answers.removeAll { !$0.isPending }
    let answer = Answer(exchange, fallback: fallback)
    answers.append(answer)
    return answer
  }

  /// Answers everything that waits on a queue, which is about to stop.
  mutating func finish(of queue: VirtioQueue) {
    let mine = answers.filter { $0.queue === queue }
    answers.removeAll { $0.queue === queue }
    for answer in mine { answer.finish() }
  }
}
