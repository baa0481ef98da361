import Foundation
import Testing
import VirtioGPU

@Suite("EDID")
struct EDIDTests {
  static let sizes: [(UInt32, UInt32)] = [
    (1024, 768), (1280, 800), (1366, 768), (1920, 1080), (3840, 2160), (4095, 2160), (64, 64),
    (1080, 1920), (4096, 2160), (7680, 4320), (0, 0), (.max, .max), (100, 60_000),
  ]

  @Test("Blocks are whole and their bytes add up to zero", arguments: sizes)
  func checksums(width: UInt32, height: UInt32) {
    let edid = EDID.make(width: width, height: height)
    #expect(edid.count == 128 || edid.count == 256)
    #expect(Int(edid[126]) == edid.count / 128 - 1)
    for start in stride(from: 0, to: edid.count, by: 128) {
      #expect(edid[start..<start + 128].reduce(0, &+) == 0)
    }
  }

  @Test("It begins as E-EDID 1.4 by Pinhole")
  func header() {
    let edid = EDID.make(width: 1920, height: 1080, output: 3)
    #expect(edid[..<8] == [0, 255, 255, 255, 255, 255, 255, 0])
    let maker = UInt16(edid[8]) << 8 | UInt16(edid[9])
    let letters = [maker >> 10 & 31, maker >> 5 & 31, maker & 31].map { UInt8($0) + 64 }
    #expect(letters == Array("PNH".utf8))
    #expect(edid[12..<16] == [4, 0, 0, 0])
    #expect(edid[18..<20] == [1, 4])
    let descriptors = stride(from: 54, to: 126, by: 18).map { Array(edid[$0..<$0 + 18]) }
    let name = descriptors.first { $0[..<4] == [0, 0, 0, 0xfc] }
    #expect(name.map { Array($0[5...]) } == Array("Pinhole\n     ".utf8))
  }

  @Test("The first timing is the size that was asked for", arguments: sizes[..<8])
  func preferred(width: UInt32, height: UInt32) {
    let edid = EDID.make(width: width, height: height)
    let d = edid[54..<72].map { UInt32($0) }
    let clock = (d[0] | d[1] << 8) * 10_000
    let columns = d[2] | (d[4] & 0xf0) << 4
    let rows = d[5] | (d[7] & 0xf0) << 4
    let blankColumns = d[3] | (d[4] & 15) << 8
    let blankRows = d[6] | (d[7] & 15) << 8
    #expect(columns == width)
    #expect(rows == height)
    let rate = Double(clock) / Double((columns + blankColumns) * (rows + blankRows))
    #expect(abs(rate - 60) < 1.5)
    let front = d[8] | (d[11] & 0xc0) << 2
    let sync = d[9] | (d[11] & 0x30) << 4
    #expect(front + sync < blankColumns)
    let across = d[12] | (d[14] & 0xf0) << 4
    let down = d[13] | (d[14] & 15) << 8
    #expect(abs(Double(across) - Double(width) * 25.4 / 96) < 1)
    #expect(abs(Double(down) - Double(height) * 25.4 / 96) < 1)
    #expect(UInt32(edid[21]) == across / 10 && UInt32(edid[22]) == down / 10, "centimetres")
    #expect(edid[24] & 2 != 0)
  }

  @Test("A mode that the base block cannot hold is in a DisplayID block")
  func displayID() {
    let edid = EDID.make(width: 7680, height: 4320)
    #expect(edid.count == 256)
    let section = edid[129..<129 + 5 + Int(edid[130])]
    #expect(edid[128] == 0x70)
    #expect(section.reduce(0, &+) == 0)
    var at = 133
    while at < 240, edid[at] != 3 { at += 3 + Int(edid[at + 2]) }
    let d = edid[at...].map { UInt32($0) }
    #expect(d[0] == 3 && d[2] == 20)
    #expect((d[7] | d[8] << 8) + 1 == 7680)
    #expect((d[15] | d[16] << 8) + 1 == 4320)
    #expect(d[6] & 0x80 != 0)
  }

  @Test("Every other mode is a multiple of 64 pixels wide")
  func otherModes() {
    let edid = EDID.make(width: 1366, height: 768)
    #expect(edid[35] & ~0x20 == 0 && edid[36] & ~0x08 == 0 && edid[37] == 0)
    let codes = stride(from: 38, to: 54, by: 2).map { (edid[$0], edid[$0 + 1]) }
    let ratios = [(16, 10), (4, 3), (5, 4), (16, 9)]
    let modes = codes.map { width, rest in
      let across = (Int(width) + 31) * 8
      let ratio = ratios[Int(rest >> 6)]
      return [across, across * ratio.1 / ratio.0]
    }
    #expect(modes.allSatisfy { $0[0] % 64 == 0 })
    #expect(modes.contains([1920, 1080]) && modes.contains([1280, 1024]))
    let second = edid[72..<90].map { UInt32($0) }
    #expect((second[2] | (second[4] & 0xf0) << 4) % 64 == 0)
  }

  static let decoder = (ProcessInfo.processInfo.environment["PATH"] ?? "").split(separator: ":")
    .map { "\($0)/edid-decode" }.first(where: FileManager.default.isExecutableFile(atPath:))

  @Test(
    "edid-decode finds nothing wrong", .enabled(if: decoder != nil),
    arguments: [(1024, 768), (1920, 1080), (3840, 2160), (7680, 4320)] as [(UInt32, UInt32)])
  func conformity(width: UInt32, height: UInt32) throws {
    let process = Process()
    process.executableURL = URL(fileURLWithPath: try #require(Self.decoder))
    process.arguments = ["--check"]
    let input = Pipe()
    let output = Pipe()
    process.standardInput = input
    process.standardOutput = output
    try process.run()
    input.fileHandleForWriting.write(Data(EDID.make(width: width, height: height)))
    try input.fileHandleForWriting.close()
    let text = String(decoding: output.fileHandleForReading.readDataToEndOfFile(), as: UTF8.self)
    process.waitUntilExit()
    #expect(text.contains("EDID conformity: PASS"), "\(text)")
  }
}
