import Glibc
import Linux
import Scene

/// One display socket of QEMU's: its stream both ways, negotiation and questions.
///
/// It knows nothing of pictures. Whoever owns it must ``close()`` it.
final class QEMULink {
  let outbox: QEMUOutbox
  var encoder = QEMUWire.Encoder()
  /// What both sides know; nil until QEMU has answered.
  private(set) var features: QEMUWire.Features?
  /// Negotiation has ended: ``features`` are known, or QEMU did not answer.
  var onAgreed: (() -> Void)?
  /// The socket took everything that waited for it.
  var onDrained: (() -> Void)?
  /// The connection cannot be used any more.
  var onFailure: ((Failure) -> Void)?

  enum Failure: Error {
    case closed
    case socket(Errno)
    case message(QEMUMessageReader.Failure)
    case reply(request: UInt32, size: UInt32, QEMUQuestions.Refusal)
  }

  private let loop: EventLoop
  private let patience: UInt64
  private var token: EventLoop.Token?
  private let sender: Sender
  private var watchesWriting = false
  private var awaitsRoom = false
  private var timer: LoopTimer?
  private var questions = QEMUQuestions()
  private var awaitsFeatures: [EDIDQuestion] = []
  private var reader = QEMUMessageReader(limit: QEMUQuestions.maxReply)
  private var isOpen = true

  private struct EDIDQuestion {
    let output: UInt32
    let deadline: UInt64
    let completion: ([UInt8]?) -> Void
  }

  /// Takes over a connected stream socket.
  ///
  /// - Parameters:
  ///   - patience: nanoseconds until a question is given up.
  ///   - sendBuffer: bytes asked for SO_SNDBUF; nil leaves it as it is.
  ///   - copies: nothing is sent by reference.
  init(
    _ socket: consuming OwnedFD, on loop: EventLoop, patience: UInt64, sendBuffer: CInt? = nil,
    copies: Bool = false
  ) throws(Errno) {
    self.patience = patience
    // For sendfile(2); all else says MSG_DONTWAIT.
    try UnixSocket.setNonblocking(socket.raw, true)
    UnixSocket.refuseDescriptors(socket.raw)
    sender = socket.sender
    self.loop = loop
    outbox = QEMUOutbox(socket, sendBuffer: sendBuffer, copies: copies)
    timer = LoopTimer(on: loop) { [unowned self] in expire() }
    token = try loop.watch(outbox.fd, for: .readable) { [unowned self] in ready($0) }
  }

  deinit { close() }

  /// Starts to negotiate.
  func negotiate() {
    encoder.clear()
    encoder.getProtocolFeatures()
    questions.ask(.getProtocolFeatures, deadline: Clock.now &+ patience) {
      [weak self] answer in
      guard let self, isOpen else { return }
      if case .features(let offered)? = answer { agree(on: offered) }
      onAgreed?()
    }
    sendEncoded()
    armTimer()
  }

  /// Ends the connection; questions get no answer.
  func close() {
    guard isOpen else { return }
    isOpen = false
    if let token { loop.unwatch(token) }
    token = nil
    timer?.disarm()
    outbox.letGo()
    let calls = questions.abandon()
    let waiting = awaitsFeatures
    awaitsFeatures.removeAll()
    for call in calls { call() }
    for question in waiting { question.completion(nil) }
  }

  // MARK: Sending

  /// Sends what the encoder holds, after everything that waits already.
  func sendEncoded() {
    encoder.bytes.withUnsafeBytes { bytes in
      if let base = bytes.baseAddress { outbox.add(base, bytes.count) }
      outbox.flush()
    }
    settle()
  }

  /// Sends what the encoder holds with a descriptor, while nothing waits for the socket.
  ///
  /// - Returns: false if there is no room: nothing was sent, and ``onDrained`` will tell.
  func sendEncoded(with fd: CInt) -> Bool {
    let isSent = encoder.bytes.withUnsafeBytes { outbox.send($0, with: fd) }
    awaitsRoom = !isSent
    settle()
    return isSent
  }

  /// To be called after bytes were given to the outbox: watches for room, or reports failure.
  func settle() {
    guard isOpen else { return }
    if let failure = outbox.failure { return report(.socket(failure)) }
    let wantsRoom = !outbox.isIdle || awaitsRoom
    guard wantsRoom != watchesWriting, let token else { return }
    watchesWriting = wantsRoom
    do throws(Errno) {
      try loop.change(token, to: wantsRoom ? [.readable, .writable] : .readable)
    } catch {
      report(.socket(error))
    }
  }

  // MARK: Questions

  func displayInfo(_ completion: @escaping (DisplayInfo?) -> Void) {
    guard isOpen, questions.hasRoom(for: 1) else { return completion(nil) }
    questions.ask(.getDisplayInfo, deadline: Clock.now &+ patience) { answer in
      guard case .displayInfo(let info)? = answer else { return completion(nil) }
      completion(info)
    }
    encoder.clear()
    encoder.getDisplayInfo()
    sendEncoded()
    armTimer()
  }

  func edid(output: UInt32, _ completion: @escaping ([UInt8]?) -> Void) {
    let deadline = Clock.now &+ patience
    guard isOpen, questions.hasRoom(for: 2) else { return completion(nil) }
    let question = EDIDQuestion(output: output, deadline: deadline, completion: completion)
    if features == nil {
      guard awaitsFeatures.count < QEMUQuestions.limit else { return completion(nil) }
      awaitsFeatures.append(question)
      return armTimer()
    }
    ask(question)
  }

  /// Sends what the encoder holds, which ends with a DMABUF_UPDATE.
  ///
  /// - Parameters:
  ///   - patience: nanoseconds until it is given up.
  ///   - completion: whether QEMU has presented it.
  func sendUpdate(patience: UInt64, _ completion: @escaping (Bool) -> Void) {
    questions.ask(.dmabufUpdate, deadline: Clock.now &+ patience) { completion($0 != nil) }
    sendEncoded()
    armTimer()
  }

  /// Whether QEMU can be asked more now.
  var hasRoomForQuestions: Bool { questions.hasRoom(for: 4) }

  /// Finds out when QEMU has taken everything that was sent.
  ///
  /// - Parameter completion: true once it has; false at the deadline, or when the link closes.
  /// - Returns: whether QEMU could be asked.
  func barrier(_ completion: @escaping (Bool) -> Void) -> Bool {
    guard isOpen, questions.hasRoom(for: 1) else { return false }
    questions.ask(.getProtocolFeatures, deadline: Clock.now &+ patience) { completion($0 != nil) }
    encoder.clear()
    encoder.getProtocolFeatures()
    sendEncoded()
    armTimer()
    return true
  }

  /// QEMU does not answer for an output it does not have. A second request, which it always
  /// answers, follows each GET_EDID: its reply tells that the first one will get none.
  private func ask(_ question: EDIDQuestion) {
    guard let features, features.contains(.edid), questions.hasRoom(for: 2) else {
      return question.completion(nil)
    }
    let completion = question.completion
    questions.ask(.getEDID, deadline: question.deadline) { answer in
      guard case .edid(let bytes)? = answer else { return completion(nil) }
      completion(bytes)
    }
    questions.ask(.getProtocolFeatures, deadline: question.deadline) { _ in }
    encoder.clear()
    encoder.getEDID(output: question.output)
    encoder.getProtocolFeatures()
    sendEncoded()
    armTimer()
  }

  private func agree(on offered: QEMUWire.Features) {
    let agreed = offered.intersection([.edid, .dmabuf2])
    features = agreed
    encoder.clear()
    encoder.setProtocolFeatures(agreed)
    sendEncoded()
    let waiting = awaitsFeatures
    awaitsFeatures.removeAll()
    for question in waiting { ask(question) }
  }

  private func armTimer() {
    guard isOpen else { return }
    let waiting = awaitsFeatures.lazy.map(\.deadline).min()
    guard let next = [questions.nextDeadline, waiting].compactMap({ $0 }).min() else {
      timer?.disarm()
      return
    }
    let now = Clock.now
    timer?.arm(after: next > now ? next - now : 1)
  }

  private func expire() {
    let now = Clock.now
    let calls = questions.expire(now: now)
    let late = awaitsFeatures.filter { $0.deadline <= now }
    awaitsFeatures.removeAll { $0.deadline <= now }
    armTimer()
    for call in calls { call() }
    for question in late { question.completion(nil) }
  }

  // MARK: Receiving

  private func ready(_ events: EventLoop.Events) {
    // A completion may replace this link.
    withExtendedLifetime(self) {
      if isOpen, events.contains(.writable) { makeRoom() }
      if isOpen, !events.isDisjoint(with: [.readable, .hangUp, .error]) { receive() }
    }
  }

  private func makeRoom() {
    outbox.drain()
    awaitsRoom = false
    settle()
    if isOpen, outbox.isIdle { onDrained?() }
  }

  /// Reads once; epoll tells when there is more, so nobody can keep the loop here.
  private func receive() {
    do throws(Failure) {
      try readOnce()
      while isOpen, let message = try nextMessage() { try take(message) }
      armTimer()
    } catch {
      report(error)
    }
  }

  private func readOnce() throws(Failure) {
    var buffer = InlineArray<2048, UInt8>(repeating: 0)
    var strays: [CInt] = []
    var span = buffer.mutableSpan
    let count: Int
    do throws(Errno) {
      count = try span.withUnsafeMutableBytes { (bytes) throws(Errno) -> Int in
        let received = try UnixSocket.receive(
          outbox.fd, into: bytes, fds: &strays, maxFDs: 0, dontWait: true, from: sender)
        reader.append(UnsafeRawBufferPointer(rebasing: bytes[..<received.count]))
        return received.count
      }
    } catch {
      if error.code == EAGAIN { return }
      throw .socket(error)
    }
    if count == 0 { throw .closed }
  }

  private func nextMessage() throws(Failure) -> QEMUMessageReader.Message? {
    do throws(QEMUMessageReader.Failure) { return try reader.next() } catch {
      throw .message(error)
    }
  }

  private func take(_ message: QEMUMessageReader.Message) throws(Failure) {
    do throws(QEMUQuestions.Refusal) {
      for call in try questions.take(message) { call() }
    } catch {
      throw .reply(request: message.header.request, size: message.header.size, error)
    }
  }

  private func report(_ failure: Failure) {
    guard isOpen else { return }
    onFailure?(failure)
  }
}
