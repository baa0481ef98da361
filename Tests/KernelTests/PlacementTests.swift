import FakeGuest
import Glibc
import Linux
import Testing

@testable import KMS

/// What `pinhole kms` does without a display.
@Suite struct PlacementTests {
  private func place(
    _ width: Int, _ height: Int, on screen: (width: Int, height: Int) = (640, 480)
  ) throws -> Placement {
    try #require(Placement(bytes: width * height * 4, width: width, on: screen))
  }

  @Test func aSmallPictureIsInTheMiddle() throws {
    let small = try place(320, 200)
    #expect(small.across == 320 && small.down == 200 && small.hasBorder)
    #expect(small.from == (0, 0) && small.to == (160, 140))
  }

  @Test func ofALargePictureTheMiddleIsShown() throws {
    let large = try place(800, 600)
    #expect(large.across == 640 && large.down == 480 && !large.hasBorder)
    #expect(large.from == (80, 60) && large.to == (0, 0))
  }

  @Test func aPictureMayBeLargeOneWayAndSmallTheOther() throws {
    let wide = try place(800, 400)
    #expect(wide.across == 640 && wide.down == 400 && wide.hasBorder)
    #expect(wide.from == (80, 0) && wide.to == (0, 40))
    let tall = try place(600, 500)
    #expect(tall.across == 600 && tall.down == 480 && tall.hasBorder)
    #expect(tall.from == (0, 10) && tall.to == (20, 0))
  }

  @Test func oneThatFitsHasNoBorder() throws {
    let exact = try place(640, 480)
    #expect(exact.across == 640 && exact.down == 480 && !exact.hasBorder)
    #expect(exact.from == (0, 0) && exact.to == (0, 0))
  }

  @Test func nothingIsShownOfNothing() throws {
    #expect(Placement(bytes: 400, width: 0, on: (640, 480)) == nil)
    // A row that is not whole does not count.
    let none = try #require(Placement(bytes: 1279, width: 320, on: (640, 480)))
    #expect(none.down == 0 && none.hasBorder)
  }
}

/// devtmpfs takes the node of a device away that is unplugged.
@Suite struct NodeWatchTests {
  private func isReadable(_ watch: NodeWatch) -> Bool {
    var one = pollfd(fd: watch.fd.raw, events: Int16(POLLIN), revents: 0)
    return poll(&one, 1, 0) == 1
  }

  @Test func aChangeIsToldOnce() throws {
    let directory = try TemporaryDirectory()
    let node = directory.file("card0")
    try WholeFile.write([1], to: node)
    let watch = try NodeWatch(node)
    // Reading what has come must not wait for more.
    try #require(UnixSocket.isNonblocking(watch.fd.raw))
    watch.drain()
    #expect(!isReadable(watch))
    #expect(chmod(node, 0o600) == 0)
    #expect(isReadable(watch))
    watch.drain()
    #expect(!isReadable(watch))
    unlink(node)
    #expect(isReadable(watch))
    watch.drain()
    #expect(!isReadable(watch))
    withExtendedLifetime(directory) {}
  }

  @Test func aNodeThatIsNotThereIsNotWatched() {
    #expect(throws: Errno(ENOENT, "inotify_add_watch")) { try NodeWatch("/nonexistent/card0") }
  }
}
