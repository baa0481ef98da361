import FrameProtocol
import Glibc
import Linux
import PinholeProtocol
import Pixels
import Testing

@testable import PinholeFrames

/// What a consumer says to a producer that reads late, or not at all.
@Suite struct AnswerTests {
  /// A consumer that may say things without being asked, with little room for them.
  private func bench() throws -> ConsumerBench {
    let bench = try ConsumerBench(greets: false, options: .init(takesTimelines: true))
    _ = try bench.heard()
    var hello = ConsumerBench.hello()
    hello.features = PINHOLE_FEATURE_TIMELINE
    try bench.send(hello)
    _ = try bench.consumer.next(timeout: 0)
    UnixSocket.setSendBuffer(bench.consumer.fd, 4096)
    return bench
  }

  @Test func whatWaitsKeepsItsOrderAndItsDescriptors() throws {
    let bench = try bench()
    let first: UInt32 = 100
    for index in 0..<first { try bench.consumer.removeTimeline(output: index % 16) }
    do {
      // They are closed before they are sent.
      let null = try OwnedFD.open("/dev/null", O_RDWR)
      try bench.consumer.addTimeline(output: 3, syncobj: null.raw, node: null.raw)
    }
    func hear(_ descriptors: Int = 0) throws -> String {
      for _ in 0..<100 {
        if let text = try bench.heard(descriptors: descriptors) { return text }
        #expect(try bench.consumer.next(timeout: 0) == nil)
      }
      throw Errno(ENODATA, "recvmsg")
    }
    for index in 0..<first {
      #expect(
        try hear()
          == "05000000" + "10000000" + hex([UInt8(index % 16), 0, 0, 0]) + "00000000")
    }
    #expect(
      try hear(2) == "04000000" + "18000000" + "03000000" + "00000000" + "00000000" + "01000000")
  }

  /// It is given up, and costs no memory without end.
  @Test func aProducerThatNeverReadsIsGivenUp() throws {
    let bench = try bench()
    var failure: FramesError?
    var said = 0
    while failure == nil, said < 20_000 {
      said += 1
      do throws(FramesError) { try bench.consumer.removeTimeline(output: 1) } catch {
        failure = error
      }
    }
    #expect(failure?.description == "the producer does not read what it is told")
    #expect(said > 4000, "one that is only slow is waited for")
  }

  /// An answer that is not taken any more says less than the producer's own reason.
  @Test func aProducersLastWordsAreHeard() throws {
    let bench = try ConsumerBench()
    try bench.send(ConsumerBench.output())
    let memory = try ConsumerBench.memory()
    try bench.send(ConsumerBench.buffer(), fds: [memory.raw])
    try bench.send(ConsumerBench.frame())
    var shown: ReceivedFrame?
    while let event = try bench.consumer.next(timeout: 0) {
      if case .frame(let frame) = event { shown = frame }
    }
    let refusal = Refusal(code: PINHOLE_ERROR_TOO_SLOW.rawValue, text: "too late")
    try bench.send(refusal.wire)
    shutdown(bench.producer.raw, CInt(SHUT_RDWR))
    try bench.consumer.done(try #require(shown))
    #expect(bench.failure()?.description == "the producer refused: TOO_SLOW: too late")
  }
}
