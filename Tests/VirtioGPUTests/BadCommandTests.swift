import Buffers
import FakeGuest
import Pixels
import Testing

@testable import VirtioGPU

@Suite struct BadCommandTests {
  private static let huge = Rect(width: .max, height: .max)

  /// Commands to a device that has resource 1 (64 by 64, with backing), 2 (64 by 64, without),
  /// blob 3 of one page, and blob 4 of two pages that it has not got.
  static let refused: [(GPUCommand, GPUResponse)] = [
    (GPUCommand(name: "unknown", type: 0x1ff), .unspecified),
    (.whole3D(0x207), .unspecified), (.whole3D(0x200), .unspecified),
    (.whole3D(0x208), .unspecified), (.whole3D(0x108), .invalidParameter),
    (GPUCommand(name: "zero", type: 0), .unspecified),
    (.create2D(0, .b8g8r8x8, width: 1, height: 1), .invalidResource),
    (.create2D(1, .b8g8r8x8, width: 1, height: 1), .invalidResource),
    (.create2D(9, .b8g8r8x8, width: 0, height: 1), .invalidParameter),
    (.create2D(9, .b8g8r8x8, width: 1, height: .max), .invalidParameter),
    (.create2D(9, .b8g8r8x8, width: 16385, height: 1), .invalidParameter),
    (.create2D(9, .b8g8r8x8, width: 1, height: 16385), .invalidParameter),
    (.create2D(9, .b8g8r8x8, width: 16384, height: 16384), .outOfMemory),
    (.unref(9), .invalidResource),
    (.attachBacking(9, [MemoryEntry(address: 4096, length: 4096)]), .invalidResource),
    (.attachBacking(1, [MemoryEntry(address: 4096, length: 4096)]), .unspecified),
    (.attachBacking(2, []), .invalidParameter),
    (.attachBacking(2, [MemoryEntry(address: 1 << 40, length: 4096)]), .invalidParameter),
    (.attachBacking(2, [MemoryEntry(address: .max, length: 4096)]), .invalidParameter),
    (.attachBacking(2, [MemoryEntry(address: 64 << 20, length: 1)]), .invalidParameter),
    (.detachBacking(9), .invalidResource),
    (.detachBacking(2), .unspecified),
    (.setScanout(16, resource: 1, Rect(width: 64, height: 64)), .invalidScanout),
    (.setScanout(0, resource: 9, Rect(width: 64, height: 64)), .invalidResource),
    (.setScanout(0, resource: 1, Rect(width: 65, height: 64)), .invalidParameter),
    (.setScanout(0, resource: 1, Rect(x: 1, width: .max, height: 1)), .invalidParameter),
    (.setScanout(0, resource: 1, Rect(width: 0, height: 0)), .invalidParameter),
    (.setScanout(0, resource: 3, Rect(width: 1, height: 1)), .invalidParameter),
    (.flush(9, Rect(width: 1, height: 1)), .invalidResource),
    (.flush(1, huge), .invalidParameter),
    (.flush(1, Rect(x: 60, y: 0, width: 5, height: 1)), .invalidParameter),
    (.transferToHost2D(9, Rect(width: 1, height: 1), offset: 0), .invalidResource),
    (.transferToHost2D(1, huge, offset: 0), .invalidParameter),
    (.transferToHost2D(1, Rect(width: 64, height: 64), offset: 1), .invalidParameter),
    (.transferToHost2D(1, Rect(width: 64, height: 64), offset: .max), .invalidParameter),
    (.transferToHost2D(2, Rect(width: 64, height: 64), offset: 0), .invalidParameter),
    (.createBlob(9, size: 4097, [MemoryEntry(address: 4096, length: 4096)]), .invalidParameter),
    (.attachBacking(4, [MemoryEntry(address: 4096, length: 8191)]), .invalidParameter),
    (
      .createBlob(9, size: 4096, [MemoryEntry(address: 4096, length: 4096)], memory: 2),
      .invalidParameter
    ),
    (.createBlob(9, size: 4096, [], memory: 3), .invalidParameter),
    (.createBlob(9, size: 0, []), .invalidParameter),
    (.createBlob(9, size: .max, [MemoryEntry(address: 4096, length: 4096)]), .invalidParameter),
    (
      .setScanoutBlob(
        0, resource: 3, Rect(width: 64, height: 17), format: .b8g8r8x8, width: 64, height: 17,
        stride: 256), .invalidParameter
    ),
    (
      .setScanoutBlob(
        0, resource: 3, Rect(width: 64, height: 2), format: .b8g8r8x8, width: 64, height: 2,
        stride: 255), .invalidParameter
    ),
    (
      .setScanoutBlob(
        0, resource: 1, Rect(width: 64, height: 2), format: .b8g8r8x8, width: 64, height: 2,
        stride: 256), .invalidParameter
    ),
    (.getEDID(.max), .invalidScanout),
  ]

  private func bench() throws -> DeviceBench {
    let bench = try DeviceBench()
    _ = try Framebuffer(bench.driver, resource: 1, width: 64, height: 64)
    try bench.driver.perform(.create2D(2, .b8g8r8x8, width: 64, height: 64))
    try bench.driver.perform(
      .createBlob(3, size: 4096, [MemoryEntry(address: 4096, length: 4096)]))
    try bench.driver.perform(.createBlob(4, size: 8192, []))
    return bench
  }

  @Test func eachErrorHasItsOwnAnswer() throws {
    let bench = try bench()
    for (command, expected) in Self.refused {
      let answer = try bench.driver.run(command.fenced(3))
      #expect(answer.response == expected, "\(command.name) \(command.bytes.suffix(24))")
      #expect(answer.fence == 3)
    }
    #expect(bench.seen.frames.isEmpty)
    try bench.driver.perform(.getDisplayInfo)
  }

  /// QEMU's devices take rectangles without pixels, up to the picture's far edges.
  @Test func emptyRectanglesAreNoErrors() throws {
    let bench = try bench()
    for rect in [
      Rect(width: 0, height: 0), Rect(x: 64, y: 64, width: 0, height: 0),
      Rect(x: 3, y: 4, width: 5, height: 0), Rect(x: 64, y: 0, width: 0, height: 64),
    ] {
      try bench.driver.perform(.transferToHost2D(1, rect, offset: .max))
      try bench.driver.perform(.flush(1, rect))
    }
    try bench.driver.perform(.setScanout(0, resource: 1, Rect(width: 64, height: 64)))
    try bench.driver.perform(.flush(1, Rect(width: 0, height: 0)))
    #expect(bench.seen.frames.isEmpty)
    let outside = Rect(x: 65, y: 0, width: 0, height: 0)
    let transfer = GPUCommand.transferToHost2D(1, outside, offset: 0)
    #expect(try bench.driver.run(transfer).response == .invalidParameter)
    #expect(try bench.driver.run(.flush(1, outside)).response == .invalidParameter)
  }

  @Test func aBlobsFlushIsCutToWhatIsShown() throws {
    let bench = try bench()
    let area = Rect(width: 64, height: 16)
    try bench.driver.perform(
      .setScanoutBlob(
        0, resource: 3, area, format: .b8g8r8x8, width: 64, height: 16, stride: 256))
    try bench.driver.perform(.flush(3, area))
    try bench.driver.perform(.flush(3, Rect(x: 60, y: 2, width: .max, height: .max)))
    try bench.driver.perform(.flush(3, Rect(x: 64, y: 2, width: .max, height: .max)))
    #expect(bench.seen.frames.count == 2)
    let damage = Rect(x: 60, y: 2, width: 4, height: 14)
    #expect(bench.seen.last?.damage == damage)
  }

  @Test func shortCommandsAreAnswered() throws {
    let bench = try bench()
    let whole: [GPUCommand] = [
      .create2D(9, .b8g8r8x8, width: 8, height: 8), .unref(2), .flush(1, Rect(width: 1, height: 1)),
      .setScanout(0, resource: 1, Rect(width: 8, height: 8)), .detachBacking(1),
      .transferToHost2D(1, Rect(width: 1, height: 1), offset: 0),
    ]
    for command in whole {
      for count in [0, 1, 23, 24, command.bytes.count - 1] {
        var short = command
        short.bytes.removeLast(command.bytes.count - count)
        let answer = try bench.driver.run(short)
        #expect(answer.response == (count < 24 ? .unspecified : .invalidParameter))
      }
    }
    var entries = GPUCommand.attachBacking(2, [MemoryEntry(address: 4096, length: 16384)])
    entries.put(UInt32(2), at: 28)
    #expect(try bench.driver.run(entries).response == .invalidParameter)
    entries.put(UInt32.max, at: 28)
    #expect(try bench.driver.run(entries).response == .outOfMemory)
  }

  @Test func aGuestWithoutRoomForTheAnswerGetsWhatFits() throws {
    let bench = try bench()
    for room in [0, 1, 23, 24, 100] {
      var command = GPUCommand.getDisplayInfo
      command.responseSize = room
      #expect(try bench.driver.run(command).length == room)
    }
  }

  @Test func memoryIsBudgeted() throws {
    let bench = try DeviceBench { $0.hostMemory = 1 << 20 }
    try bench.driver.perform(.create2D(1, .b8g8r8x8, width: 512, height: 256))
    try bench.driver.perform(.create2D(2, .b8g8r8x8, width: 512, height: 256))
    let third = GPUCommand.create2D(3, .b8g8r8x8, width: 1, height: 1)
    #expect(try bench.driver.run(third).response == .outOfMemory)
    try bench.driver.perform(.unref(1))
    try bench.driver.perform(third)
  }

  @Test func randomCommandsNeverEndTheDevice() throws {
    let seed = UInt64.random(in: 0 ... .max)
    print("randomCommandsNeverEndTheDevice: seed \(seed)")
    var random = SeededRandom(seed: seed)
    let bench = try bench()
    let types: [UInt32] = Array(0x100...0x10d) + [0x300, 0x301, 0x200]
    let values: [UInt32] = [0, 1, 2, 3, 4, 15, 16, 64, 256, 4096, 65536, .max, 1 << 31]
    for _ in 0..<5000 {
      let type = types.randomElement(using: &random) ?? 0
      var command = GPUCommand(name: "random", type: type)
      command.queue = type >= 0x300 ? .cursor : .control
      let count = Int.random(in: 0...120, using: &random)
      command.bytes += [UInt8](repeating: 0, count: count)
      for at in stride(from: 24, to: command.bytes.count - 4, by: 4) {
        command.put(values.randomElement(using: &random) ?? 0, at: at)
      }
      try bench.driver.send(command)
    }
    try bench.driver.drain()
    try bench.driver.perform(.getDisplayInfo)
    try bench.driver.restart()
    #expect(try bench.inDevice { device, _ in device.hostBytes } == 0)
  }
}

extension GPUCommand {
  /// A command of a type, long enough for any.
  fileprivate static func whole3D(_ type: UInt32) -> GPUCommand {
    var command = GPUCommand(name: "3D", type: type)
    command.bytes += [UInt8](repeating: 0, count: 72)
    return command
  }
}
