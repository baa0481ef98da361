import Command
import FakeGuest
import Linux
import Testing

@testable import pinhole

@Suite struct StatusAnswerTests {
  private let directory: TemporaryDirectory
  private var path: String { directory.file("control.sock") }

  init() throws { directory = try TemporaryDirectory() }

  /// The words of a failure; nil without one.
  private func complaint() -> String? {
    do throws(Failure) {
      _ = try StatusAnswer(from: path, patience: 50)
      return nil
    } catch { return error.message }
  }

  @Test func whoeverSaysNothingIsNotWaitedForForEver() throws {
    let silent = try UnixSocket.listen(path, kind: .stream)
    let said = try #require(complaint())
    #expect(said.hasPrefix("nothing answers on \(path) in 50 ms: it is no control socket, or"))
    #expect(said.contains("give what --control has"))
    withExtendedLifetime(silent) {}
  }

  @Test func whereNobodyListensTheCommandIsNamed() throws {
    let said = try #require(complaint())
    #expect(said.hasPrefix("nothing answers on \(path): "))
    #expect(said.contains("; start `pinhole serve --control \(path)`"))
  }

  @Test func anotherKindOfSocketIsRefused() throws {
    let frames = try UnixSocket.listen(path, kind: .seqpacket)
    #expect(complaint()?.contains("give what `pinhole serve --control") == true)
    withExtendedLifetime(frames) {}
  }
}
