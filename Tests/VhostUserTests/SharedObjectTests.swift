import Glibc
import Linux
import Testing
import VhostUser
import Virtqueue

@Suite("Objects that other devices ask for")
struct SharedObjectTests {
  private static let name = (0..<16).map { UInt8($0 * 11) }

  @Test("A descriptor comes with the reply, with and without a name", arguments: [true, false])
  func found(named: Bool) throws {
    let peer = try FrontEnd()
    try peer.handshake()
    let file = SharedFD(try MemFD.create("object", size: 4096))
    peer.device.object = file
    try peer.send(.getSharedObject, named ? Self.name : [])
    var bytes = [UInt8](repeating: 0, count: 64)
    var fds: [CInt] = []
    let count = try peer.receive(into: &bytes, &fds)
    defer { for fd in fds { close(fd) } }
    #expect(Array(bytes[..<count]) == VhostUserMessage(replyTo: .getSharedObject, []).encoded)
    #expect(fds.count == 1)
    #expect(try FileFacts(of: try #require(fds.first)).identity == FileFacts(of: file.raw).identity)
    #expect(peer.device.asked == .some(named ? SharedObjectID(Self.name) : nil))
    #expect(peer.reason == nil)
  }

  @Test("Replies wait in order, each with its descriptor, for a front-end that does not read")
  func late() throws {
    let peer = try FrontEnd()
    try peer.handshake()
    let file = SharedFD(try MemFD.create("object", size: 4096))
    peer.device.object = file
    let object = VhostUserMessage(.getSharedObject, needReply: false, Self.name).encoded
    let features = VhostUserMessage(.getFeatures, needReply: false, []).encoded
    var expected: [Bool] = []
    while expected.count < 5000 {
      let isObject = expected.count % 7 == 3
      do { try peer.sendNow(isObject ? object : features) } catch { break }
      expected.append(isObject)
      try peer.spin()
    }
    #expect(expected.count > 100 && expected.count < 5000, "the back-end stops reading, too")
    var replies: [Bool] = []
    var objects = 0
    for _ in 0..<20_000 where replies.count < expected.count {
      var bytes = [UInt8](repeating: 0, count: 12)
      var fds: [CInt] = []
      guard try peer.receive(into: &bytes, &fds) == 12 else { continue }
      let header = VhostUserHeader(bytes)
      replies.append(header.request == FrontEndRequest.getSharedObject.rawValue)
      #expect(fds.count == (replies.last == true ? 1 : 0))
      for fd in fds {
        if try FileFacts(of: fd).identity == FileFacts(of: file.raw).identity { objects += 1 }
        close(fd)
      }
      var payload = [UInt8](repeating: 0, count: Int(header.payloadSize))
      if !payload.isEmpty { _ = try peer.receive(into: &payload, &fds) }
      try peer.spin()
    }
    #expect(replies == expected)
    #expect(objects == expected.count { $0 })
    #expect(peer.reason == nil)
  }

  @Test("What is not there is answered without a descriptor")
  func missing() throws {
    let peer = try FrontEnd()
    try peer.handshake()
    #expect(try peer.ask(.getSharedObject, Self.name) == [])
    try peer.send(.getSharedObject, [1, 2, 3])
    #expect(peer.reason == .badPayload("getSharedObject", size: 3))
  }

  @Test("Names keep their bytes")
  func names() throws {
    let id = try #require(SharedObjectID(Self.name))
    #expect(id.bytes == Self.name)
    #expect("\(id)" == "000b1621-2c37-424d-5863-6e79848f9aa5")
    #expect(SharedObjectID(Self.name.dropLast()) == nil)
    #expect(SharedObjectID.random() != SharedObjectID.random())
  }

  @Test("The front-end is told only over a channel that it gave")
  func announcements() throws {
    let peer = try FrontEnd()
    try peer.handshake()
    let id = try #require(SharedObjectID(Self.name))
    peer.session?.announce(id)
    let pair = try UnixSocket.Pair(.stream)
    var ends: (SharedFD?, SharedFD?) = (nil, nil)
    pair.split { ends = (SharedFD($0), SharedFD($1)) }
    let ours = try #require(ends.0)
    try peer.send(.setBackendRequestFD, fds: [try #require(ends.1).raw])
    ends.1 = nil
    peer.session?.announce(id)
    peer.session?.retract(id)
    var bytes = [UInt8](repeating: 0, count: 128)
    var fds: [CInt] = []
    let count = try bytes.withUnsafeMutableBytes {
      try UnixSocket.receive(ours.raw, into: $0, fds: &fds, dontWait: true).count
    }
    let expected = [BackEndRequest.sharedObjectAdd, .sharedObjectRemove].flatMap {
      VhostUserMessage(request: $0.rawValue, flags: 1, payload: Self.name).encoded
    }
    #expect(Array(bytes[..<count]) == expected)
  }

  /// It would take a request that it does not know for an error.
  @Test(
    "A front-end that has not asked to be told is not told",
    arguments: [ProtocolFeatures.sharedObject, .backEndRequest])
  func unasked(_ missing: ProtocolFeatures) throws {
    let peer = try FrontEnd()
    let chosen = ProtocolFeatures.offered.subtracting(missing)
    try peer.send(.setProtocolFeatures, WordPayload(chosen.rawValue).bytes)
    let pair = try UnixSocket.Pair(.stream)
    var ends: (SharedFD?, SharedFD?) = (nil, nil)
    pair.split { ends = (SharedFD($0), SharedFD($1)) }
    let ours = try #require(ends.0)
    try peer.send(.setBackendRequestFD, fds: [try #require(ends.1).raw])
    #expect(peer.reason == nil && peer.session?.backendChannel != nil)
    peer.session?.announce(try #require(SharedObjectID(Self.name)))
    var bytes = [UInt8](repeating: 0, count: 128)
    var fds: [CInt] = []
    let error = #expect(throws: Errno.self) {
      try bytes.withUnsafeMutableBytes {
        try UnixSocket.receive(ours.raw, into: $0, fds: &fds, dontWait: true).count
      }
    }
    #expect(error?.code == EAGAIN)
  }
}
