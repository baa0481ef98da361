import FakeGuest
import Glibc
import Linux
import Testing

/// A device with few descriptors, and what of a guest it keeps out of its core dumps.
@Suite struct ScarceTests {
  /// Descriptors run out while consumers come; the front-end and those who are there are served on,
  /// and newcomers once there is room.
  @Test(arguments: [104, 128])
  func descriptorsThatRunOutComeBack(_ limit: Int) throws {
    let directory = try TemporaryDirectory()
    let script = directory.file("few")
    let text = "#!/bin/sh\nulimit -n \(limit) && exec '\(Puncher.defaultProgram)' \"$@\"\n"
    try WholeFile.write(Array(text.utf8), to: script)
    #expect(chmod(script, 0o700) == 0)
    let pinhole = try PinholeProcess(["--max-consumers", "500"], program: script)
    let watcher = try FrameWatcher(path: pinhole.framesSocket)
    let driver = try GPUDriver(
      try VhostUserFrontEnd(path: pinhole.socket, ram: GuestRAM(size: 16 << 20)))
    let frame = try Framebuffer(driver, resource: 1, width: 320, height: 200)
    try frame.show()
    var number = 0
    func shows(_ watcher: FrameWatcher) throws -> String? {
      number += 1
      let picture = TestPicture.pages.render(width: 320, height: 200, frame: number)
      frame.draw(picture)
      try frame.flush(fence: UInt64(number))
      return watcher.difference(from: picture, milliseconds: 15_000)
    }
    for _ in 0..<8 { #expect(try shows(watcher) == nil, "\(pinhole.log)") }
    let why = "cannot accept a frame consumer: accept4: \(Errno(EMFILE, "").message)"
    var crowd: [SharedFD] = []
    let deadline = Clock.now + 60_000_000_000
    while !pinhole.log.contains(why), Clock.now < deadline {
      // Whoever says nothing is sent away after a while, so more come.
      if let one = try? UnixSocket.connect(pinhole.framesSocket, kind: .seqpacket, patience: 0) {
        crowd.append(SharedFD(one))
      } else {
        usleep(10_000)
      }
    }
    #expect(pinhole.log.contains(why), "\(pinhole.log)")
    for _ in 0..<8 { #expect(try shows(watcher) == nil, "\(pinhole.log)") }
    #expect(try driver.displayInfo()[0].enabled)
    crowd = []
    let late = try FrameWatcher(path: pinhole.framesSocket)
    #expect(try shows(late) == nil, "\(pinhole.log)")
    #expect(watcher.now.failure == nil)
    #expect(!pinhole.log.contains("connection is closed"), "\(pinhole.log)")
    #expect(pinhole.terminate() == 0, "\(pinhole.log)")
  }

  /// Every mapping of the guest's memory is marked `dd` (`MADV_DONTDUMP`, proc_pid_smaps(5)).
  @Test(arguments: ["direct", "copy"])
  func guestMemoryIsInNoCoreDump(_ mode: String) throws {
    let pinhole = try PinholeProcess(["--scanout", mode])
    let watcher = try FrameWatcher(path: pinhole.framesSocket)
    let size: UInt64 = 16 << 20
    let ram = try GuestRAM(size: size, regions: GuestRAM.pcRegions(size: size))
    let driver = try GPUDriver(try VhostUserFrontEnd(path: pinhole.socket, ram: ram))
    let frame = try Framebuffer(driver, resource: 1, width: 320, height: 200)
    let picture = TestPicture.smpte.render(width: 320, height: 200)
    frame.draw(picture)
    try frame.show()
    try frame.flush()
    #expect(watcher.difference(from: picture, milliseconds: 15_000) == nil, "\(pinhole.log)")
    var facts = stat()
    try #require(fstat(ram.fd.raw, &facts) == 0)
    let map = try #require(WholeFile.text("/proc/\(pinhole.child.pid)/smaps"))
    var isGuests = false
    var marks: [Bool] = []
    for line in map.split(separator: "\n") {
      let words = line.split(separator: " ")
      if words.count >= 5, words[0].contains("-"), !words[0].hasSuffix(":") {
        isGuests = words[4] == "\(facts.st_ino)" && line.contains("memfd:")
      } else if isGuests, words.first == "VmFlags:" {
        marks.append(words.contains("dd"))
      }
    }
    #expect(!marks.isEmpty, "no mapping of the guest's file:\n\(map.prefix(4000))")
    #expect(marks.allSatisfy { $0 }, "\(marks)")
    #expect(pinhole.terminate() == 0, "\(pinhole.log)")
  }
}
