import GuestMemory
import Testing
import VhostUser
import Virtqueue

@Suite("The bytes of vhost-user messages")
struct WireTests {
  @Test("Headers")
  func headers() {
    #expect(VhostUserMessage(.getFeatures).encoded == [1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0])
    #expect(
      VhostUserMessage(.setFeatures, needReply: true, WordPayload(0x0123_4567_89ab_cdef).bytes)
        .encoded == [
          2, 0, 0, 0, 9, 0, 0, 0, 8, 0, 0, 0,
          0xef, 0xcd, 0xab, 0x89, 0x67, 0x45, 0x23, 0x01,
        ])
    #expect(
      VhostUserMessage(replyTo: .getStatus, [7]).encoded == [
        40, 0, 0, 0, 5, 0, 0, 0, 1, 0, 0, 0, 7,
      ])
    let header = VhostUserHeader([0x21, 0, 0, 0, 1, 0, 0, 0, 2, 1, 0, 0])
    #expect(header == VhostUserHeader(request: 33, flags: 1, payloadSize: 258))
  }

  @Test("Ring messages")
  func rings() throws {
    #expect(VringState(index: 1, num: 0x102).bytes == [1, 0, 0, 0, 2, 1, 0, 0])
    let ring = RingAddresses(descriptors: 0x10, available: 0x20, used: 0x30)
    let address = VringAddress(index: 1, flags: 2, ring, log: 0x40)
    #expect(
      address.bytes == [
        1, 0, 0, 0, 2, 0, 0, 0,
        0x10, 0, 0, 0, 0, 0, 0, 0,
        0x30, 0, 0, 0, 0, 0, 0, 0,
        0x20, 0, 0, 0, 0, 0, 0, 0,
        0x40, 0, 0, 0, 0, 0, 0, 0,
      ])
    #expect(VringAddress(address.bytes) == address)
    #expect(VringDescriptor(index: 3).bytes == [3, 0, 0, 0, 0, 0, 0, 0])
    #expect(VringDescriptor(index: 3, hasDescriptor: false).bytes == [3, 1, 0, 0, 0, 0, 0, 0])
    #expect(VringDescriptor([3, 2, 0, 0, 0, 0, 0, 0]) == nil)
  }

  @Test("Memory messages")
  func memory() throws {
    let region = MemoryRegion(guestAddress: 1, size: 2, userAddress: 3, fileOffset: 4)
    let bytes: [UInt8] = [
      1, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0,
      3, 0, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0,
    ]
    #expect(SingleRegion(region).bytes == [0, 0, 0, 0, 0, 0, 0, 0] + bytes)
    #expect(SingleRegion(SingleRegion(region).bytes)?.region == region)
    let table = MemoryTable([region, region])
    #expect(table.bytes == [2, 0, 0, 0, 0, 0, 0, 0] + bytes + bytes)
    #expect(MemoryTable(table.bytes) == table)
    #expect(MemoryTable(Array(table.bytes.dropLast())) == nil)
    #expect(MemoryTable([1, 0, 0, 0, 0, 0, 0, 0] + bytes + bytes) == nil)
    #expect(MemoryTable([0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0]) == nil)
    #expect(MemoryTable([]) == nil)
  }

  @Test("Configuration messages")
  func config() {
    let config = ConfigPayload(offset: 4, flags: 1, contents: [7, 8])
    #expect(config.bytes == [4, 0, 0, 0, 2, 0, 0, 0, 1, 0, 0, 0, 7, 8])
    #expect(ConfigPayload(config.bytes) == config)
    #expect(ConfigPayload(config.bytes + [0]) == nil)
    #expect(ConfigPayload([0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0]) == nil)
    #expect(ConfigPayload([0xff, 0xff, 0xff, 0xff, 1, 0, 0, 0, 0, 0, 0, 0, 0]) == nil)
  }

  @Test("Request numbers are those of the specification")
  func numbers() {
    #expect(FrontEndRequest.allCases.map(\.rawValue) == Array(1...44))
    #expect(FrontEndRequest.getVringBase.rawValue == 11)
    #expect(FrontEndRequest.setBackendRequestFD.rawValue == 21)
    #expect(FrontEndRequest.addMemoryRegion.rawValue == 37)
    #expect(BackEndRequest.allCases.map(\.rawValue) == Array(1...10))
  }
}
