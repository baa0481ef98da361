import Buffers
import Linux
import Pixels
import Testing

@testable import Scene

/// Sealed memory that a renderer draws into again, given out as it is.
@Suite struct RendererMemoryTests {
  /// Who does not give pictures back gets copies of a pool, which keep nobody else waiting.
  @Test func whoIsLateGetsCopies() throws {
    let canvas = try Canvas()
    let memory = OfferedBuffer(
      id: 7, generation: 1, layout: canvas.layout, size: canvas.layout.size,
      fd: SharedFD(try OwnedFD.open("/dev/null", 0)), memory: .copy)
    var commit = try canvas.commit()
    commit.buffer = memory
    commit.whyCopied = .pages(.noDevice)
    var wishes = Wishes()
    #expect(Choice(commit, isDrawn: true, wishes) == .buffer)
    wishes.onlyCopies = .untrusted
    #expect(Choice(commit, isDrawn: true, wishes) == .buffer)
    wishes.isLate = true
    #expect(Choice(commit, isDrawn: true, wishes) == .copy(.untrusted))
    wishes.onlyCopies = nil
    #expect(Choice(commit, isDrawn: true, wishes) == .copy(.late))
  }
}
