import FakeGuest
import Linux
import PinholeFrames
import Testing

/// A guest with thousands of pictures of one page, each of which it shows once.
@Suite(.serialized, .enabled(if: bufferProblem == nil, "needs userfaultfd"))
struct ManyPicturesTests {
  private static let batch = 100
  /// As `GPUDevice.mostOnOffer`, a descriptor each here and at each consumer.
  private static let most = 64
  private static let page = 4096

  @Test func onlyTheLastOfThemAreOnOffer() throws {
    let pinhole = try startPinhole(["--scanout", "direct"])
    let ram = try GuestRAM(size: 32 << 20)
    let driver = try GPUDriver(try VhostUserFrontEnd(path: pinhole.socket, ram: ram))
    let diary = try Diary(pinhole.framesSocket, .init(name: "diary", isExplicit: true))
    try diary.read(for: "a connection") { $0.consumer.producer != nil }
    var last: Framebuffer?
    var resource: UInt32 = 0
    for _ in 0..<20 {
      for _ in 0..<Self.batch {
        resource += 1
        let picture = try Framebuffer(
          driver, resource: resource, width: 64, height: 16, kind: .blob)
        picture.draw(TestPicture.pages.render(width: 64, height: 16, frame: Int(resource)))
        try driver.send(picture.showCommand())
        try driver.send(.flush(resource, picture.bounds))
        last = picture
      }
      try driver.drain()
      let counters = try pinhole.counters()
      let offered = try #require(counters["offered-bytes"])
      #expect(offered <= Self.most * Self.page, "\(offered / Self.page) pictures are on offer")
      #expect(counters["builds"] == Int(resource), "each was shown in the guest's pages")
      try diary.catchUp()
      #expect(diary.consumer.buffers.count <= Self.most + 1)
    }
    // Its consumer has let all the others go, and sees the last of them.
    let contents = try #require(last).contents
    try diary.read(for: "the last picture") { diary in
      try diary.bytes().map { bytes in contents.pixels.withUnsafeBytes { Array($0) == bytes } }
        ?? false
    }
    try diary.read(for: "the pages of the others to be let go") { _ in
      try pinhole.counters()["pinned-bytes"] == Self.page
    }
    #expect(diary.additionsTooEarly == [])
    #expect(pinhole.terminate() == 0, "\(pinhole.log)")
  }
}
