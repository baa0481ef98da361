import Buffers
import Linux
import Pixels
import Testing

@testable import Scene

/// What an operator is told of the outputs.
@Suite struct ReportTests {
  private let scene = Scene()

  @Test func eachWayHasItsName() throws {
    #expect(scene.reports.isEmpty, "outputs that are off")
    scene.resize(2, to: (8, 4))
    var report = try #require(scene.reports.first)
    #expect(scene.reports.count == 1)
    #expect(report.output == 2 && report.width == 8 && report.height == 4)
    #expect(report.way == .nothing && report.fourcc == nil && report.buffer == nil)
    #expect(report.commits == 0 && report.committedAt == 0)

    let canvas = try Canvas(id: 5, generation: 6)
    scene.commit(try canvas.commit(2))
    report = try #require(scene.reports.first)
    #expect(report.way == .direct && report.whyCopied == nil)
    #expect(report.buffer?.id == 5 && report.buffer?.generation == 6)
    #expect(report.fourcc == .xrgb8888)
    #expect(report.commits == 1 && report.committedAt > 0)

    scene.commit(try canvas.commit(2, direct: false))
    report = try #require(scene.reports.first)
    #expect(report.way == .copy && report.whyCopied == .redrawn && report.buffer == nil)

    // Nobody imports buffers: nobody has to be told why there are none.
    var commit = try canvas.commit(2, direct: false)
    commit.whyCopied = nil
    scene.commit(commit)
    #expect(scene.reports.first?.way == .pixels)

    // A renderer's sealed memory, which is a copy to consumers.
    commit.buffer = OfferedBuffer(
      id: 7, generation: 1, layout: canvas.layout, size: canvas.layout.size,
      fd: SharedFD(try OwnedFD.open("/dev/null", 0)), memory: .copy)
    commit.whyCopied = .pages(.noDevice)
    scene.commit(commit)
    #expect(scene.reports.first?.way == .copy)
    #expect(scene.reports.first?.commits == 4)
  }
}
