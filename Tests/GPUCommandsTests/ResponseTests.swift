import Pixels
import Testing

@testable import GPUCommands

@Suite struct ResponseTests {
  private func bytes(_ response: GPUResponse, flags: UInt32 = 0) -> [UInt8] {
    var header = GPUHeader()
    header.type = 0x104
    header.flags = flags
    header.fence = 0x1122_3344_5566_7788
    header.context = 7
    header.ring = 5
    return response.withBytes(answering: header) { Array($0) }
  }

  @Test func headersAnswerFencesOnly() {
    let silent = [UInt8](repeating: 0, count: 20)
    #expect(bytes(.ok) == [0, 0x11, 0, 0] + silent)
    #expect(bytes(.ok, flags: 0xffff_fffe) == [0, 0x11, 0, 0] + silent)
    let echo: [UInt8] = [0x88, 0x77, 0x66, 0x55, 0x44, 0x33, 0x22, 0x11, 7, 0, 0, 0, 5, 0, 0, 0]
    #expect(bytes(.ok, flags: 1) == [0, 0x11, 0, 0, 1, 0, 0, 0] + echo)
    #expect(bytes(.ok, flags: .max) == [0, 0x11, 0, 0, 3, 0, 0, 0] + echo)
  }

  @Test func errorsHaveTheirNumbers() {
    let errors: [(GPUError, UInt8)] = [
      (.unspecified, 0), (.outOfMemory, 1), (.invalidScanout, 2), (.invalidResource, 3),
      (.invalidContext, 4), (.invalidParameter, 5),
    ]
    for (error, number) in errors {
      #expect(bytes(.error(error)).prefix(4) == [number, 0x12, 0, 0])
      #expect(bytes(.error(error)).count == 24)
    }
  }

  @Test func dataFollowsTheHeader() {
    let one = GPUResponse.Display(
      rect: Rect(x: 1, y: 2, width: 3, height: 0x0102_0304), isEnabled: true, flags: 6)
    let info = bytes(.displayInfo([one]), flags: 1)
    #expect(info.count == 408 && info.prefix(8) == [1, 0x11, 0, 0, 1, 0, 0, 0])
    #expect(
      info[24..<48] == [
        1, 0, 0, 0, 2, 0, 0, 0, 3, 0, 0, 0, 4, 3, 2, 1, 1, 0, 0, 0, 6, 0, 0, 0,
      ])
    #expect(info[48...].allSatisfy { $0 == 0 })
    #expect(bytes(.displayInfo([GPUResponse.Display](repeating: one, count: 17))).count == 408)

    let capset = bytes(.capsetInfo(id: 2, maxVersion: 1, maxSize: 1376))
    #expect(capset.prefix(4) == [2, 0x11, 0, 0] && capset.count == 40)
    #expect(capset[24...] == [2, 0, 0, 0, 1, 0, 0, 0, 0x60, 5, 0, 0, 0, 0, 0, 0])
    #expect(bytes(.capset([9, 8, 7])).suffix(4) == [0, 9, 8, 7])
    #expect(bytes(.capset([9, 8, 7])).prefix(2) == [3, 0x11])

    let edid = bytes(.edid([1, 2, 3]))
    #expect(edid.count == 1056 && edid.prefix(2) == [4, 0x11])
    #expect(edid[24..<36] == [3, 0, 0, 0, 0, 0, 0, 0, 1, 2, 3, 0])
    let long = bytes(.edid([UInt8](repeating: 5, count: 2000)))
    #expect(long.count == 1056 && long[24..<28] == [0, 4, 0, 0] && long.last == 5)

    let uuid = bytes(.uuid(Array(0..<16)))
    #expect(uuid.count == 40 && uuid.prefix(2) == [5, 0x11] && uuid.last == 15)
  }
}
