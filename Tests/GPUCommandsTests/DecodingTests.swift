import Pixels
import Testing

@testable import GPUCommands

/// Bytes of requests as a driver writes them, by hand from virtio 1.3 §5.7.6.8.
@Suite struct DecodingTests {
  private static func u32(_ values: UInt32...) -> [UInt8] {
    values.flatMap { value in (0..<4).map { UInt8(truncatingIfNeeded: value >> UInt32(8 * $0)) } }
  }

  /// A header of type, context 7, fence 0x1122334455667788 on ring 5, then numbers.
  private static func golden(_ type: UInt32, _ body: [UInt8]) -> [UInt8] {
    let header: [UInt8] = [
      3, 0, 0, 0, 0x88, 0x77, 0x66, 0x55, 0x44, 0x33, 0x22, 0x11, 7, 0, 0, 0, 5, 0, 0, 0,
    ]
    return u32(type) + header + body
  }

  private static func decode(_ bytes: [UInt8]) throws(GPUError) -> GPUCommand {
    try request(bytes).command()
  }

  private static func request(_ bytes: [UInt8]) -> GPURequest {
    var request = GPURequest()
    request.load { buffer in
      buffer.copyBytes(from: bytes.prefix(buffer.count))
      return bytes.count
    }
    return request
  }

  private static let rect = Rect(x: 1, y: 2, width: 3, height: 4)
  private static let shape: ResourceShape = {
    var shape = ResourceShape()
    shape.target = 2
    shape.format = 67
    shape.bind = 0x1_4000a
    shape.width = 640
    shape.height = 480
    shape.depth = 1
    shape.arraySize = 6
    shape.lastLevel = 9
    shape.samples = 4
    shape.flags = 1
    return shape
  }()
  private static let transfer: Transfer3D = {
    var transfer = Transfer3D()
    transfer.context = 7
    transfer.resource = 11
    transfer.level = 12
    transfer.stride = 13
    transfer.layerStride = 14
    transfer.offset = 0x0000_0009_0000_000a
    transfer.box.x = 1
    transfer.box.y = 2
    transfer.box.z = 3
    transfer.box.width = 4
    transfer.box.height = 5
    transfer.box.depth = 6
    return transfer
  }()
  private static let cursor = CursorRequest(
    scanout: 1, x: -2, y: 3, resource: 5, hotX: 6, hotY: -1)
  private static let name = Array("Weston".utf8)

  /// Every command: its type, what comes behind the header, what that means.
  static let commands: [(type: UInt32, body: [UInt8], command: GPUCommand)] = [
    (0x100, [], .getDisplayInfo),
    (
      0x101, u32(9, 67, 640, 480),
      .createImage(CreateImage(resource: 9, format: 67, width: 640, height: 480))
    ),
    (0x102, u32(9, 0), .unref(resource: 9)),
    (
      0x103, u32(1, 2, 3, 4, 15, 9),
      .setScanout(SetScanout(rect: rect, scanout: 15, resource: 9))
    ),
    (0x104, u32(1, 2, 3, 4, 9, 0), .flush(resource: 9, rect)),
    (
      0x105, u32(1, 2, 3, 4, 10, 9, 8, 0),
      .transferToHost(Transfer2D(rect: rect, offset: 0x9_0000_000a, resource: 8))
    ),
    (0x106, u32(9, 3), .attachBacking(resource: 9, MemoryEntries(offset: 32, count: 3))),
    (0x107, u32(9, 0), .detachBacking(resource: 9)),
    (0x108, u32(1, 0), .getCapsetInfo(index: 1)),
    (0x109, u32(2, 1), .getCapset(id: 2, version: 1)),
    (0x10a, u32(3, 0), .getEDID(scanout: 3)),
    (0x10b, u32(9, 0), .assignUUID(resource: 9)),
    (
      0x10c, u32(9, 1, 2, 3, 0x2222_1111, 0x4444_3333, 0x1000, 1),
      .createBlob(
        CreateBlob(
          resource: 9, memory: 1, flags: 2, blob: 0x4444_3333_2222_1111, size: 0x1_0000_1000,
          entries: MemoryEntries(offset: 56, count: 3)))
    ),
    (
      0x10d, u32(1, 2, 3, 4, 5, 9, 640, 480, 2, 0, 2560, 21, 22, 23, 4096, 31, 32, 33),
      .setScanoutBlob(
        SetScanoutBlob(
          rect: rect, scanout: 5, resource: 9, width: 640, height: 480, format: 2, stride: 2560,
          offset: 4096))
    ),
    (
      0x200, u32(6, 0x104) + name + [UInt8](repeating: 0x41, count: 58),
      .createContext(CreateContext(context: 7, flags: 0x104, name: name))
    ),
    (0x201, [], .destroyContext(context: 7)),
    (0x202, u32(9, 0), .attachToContext(context: 7, resource: 9)),
    (0x203, u32(9, 0), .detachFromContext(context: 7, resource: 9)),
    (
      0x204, u32(9, 2, 67, 0x1_4000a, 640, 480, 1, 6, 9, 4, 1, 0), .createResource(9, shape)
    ),
    (
      0x205, u32(1, 2, 3, 4, 5, 6, 10, 9, 11, 12, 13, 14), .transfer3D(transfer, toHost: true)
    ),
    (
      0x206, u32(1, 2, 3, 4, 5, 6, 10, 9, 11, 12, 13, 14), .transfer3D(transfer, toHost: false)
    ),
    (0x207, u32(64, 0), .submit(context: 7, CommandBytes(offset: 32, count: 64))),
    (0x208, u32(9, 0, 10, 9), .mapBlob(resource: 9, offset: 0x9_0000_000a)),
    (0x209, u32(9, 0), .unmapBlob(resource: 9)),
    (0x300, u32(1, 0xffff_fffe, 3, 0, 5, 6, .max, 0), .updateCursor(cursor)),
    (0x301, u32(1, 0xffff_fffe, 3, 0, 5, 6, .max, 0), .moveCursor(cursor)),
  ]

  @Test func everyCommandIsRead() throws {
    #expect(Set(Self.commands.map(\.type)) == Set(CommandType.allCases.map(\.rawValue)))
    for (type, body, command) in Self.commands {
      let bytes = Self.golden(type, body)
      #expect(bytes.count == CommandType(rawValue: type)?.size)
      #expect(try Self.decode(bytes) == command)
      // What lies behind the fixed part changes nothing.
      #expect(try Self.decode(bytes + [1, 2, 3]) == command)
    }
  }

  @Test func headersAreRead() {
    let header = Self.request(Self.golden(0x102, [])).header
    #expect(header.type == 0x102 && header.flags == 3 && header.context == 7 && header.ring == 5)
    #expect(header.fence == 0x1122_3344_5566_7788 && header.isFenced && header.hasRing)
    #expect(Self.request([]).header == GPUHeader())
  }

  @Test func shortCommandsAreRefused() {
    for (type, body, _) in Self.commands {
      let bytes = Self.golden(type, body)
      for count in 0..<bytes.count {
        #expect(throws: count < 24 ? GPUError.unspecified : .invalidParameter) {
          try Self.decode(Array(bytes.prefix(count)))
        }
      }
    }
  }

  @Test func unknownTypesAreRefused() {
    for type: UInt32 in [0, 0xff, 0x10e, 0x1ff, 0x20a, 0x2ff, 0x302, 0x1100, .max] {
      #expect(throws: GPUError.unspecified) {
        try Self.decode(Self.golden(type, [UInt8](repeating: 0, count: 72)))
      }
    }
  }

  @Test func lyingLengthsDoNoHarm() throws {
    // A name that says it is longer than its field, and one that is not there.
    for (length, expected) in [(UInt32.max, 64), (65, 64), (64, 64), (0, 0)] {
      let body = Self.u32(length, 0) + [UInt8](repeating: 0x41, count: 64)
      guard case .createContext(let new) = try Self.decode(Self.golden(0x200, body)) else {
        Issue.record("no CTX_CREATE")
        continue
      }
      #expect(new.name == [UInt8](repeating: 0x41, count: expected))
    }
    let entries = try Self.decode(Self.golden(0x106, Self.u32(9, .max)))
    #expect(entries == .attachBacking(resource: 9, MemoryEntries(offset: 32, count: .max)))
    #expect(MemoryEntries(offset: 32, count: .max).byteCount == 16 * Int(UInt32.max))
  }

  @Test func onlyWholeEntriesAreRead() {
    let bytes = Self.u32(0x1000, 1, 4096, 99, 0x3000, 0, .max, 0, 5, 6, 7)
    let entries = bytes.withUnsafeBytes { MemoryEntries.decode($0) }
    #expect(entries.map(\.address) == [0x1_0000_1000, 0x3000])
    #expect(entries.map(\.count) == [4096, .max])
    #expect(MemoryEntries.decode(UnsafeRawBufferPointer(start: nil, count: 0)).isEmpty)
  }

  @Test func randomBytesNeverTrap() {
    let seed = UInt64.random(in: 0 ... .max)
    print("randomBytesNeverTrap: seed \(seed)")
    var state = seed | 1
    func next() -> UInt64 {
      state ^= state << 13
      state ^= state >> 7
      state ^= state << 17
      return state
    }
    let types = CommandType.allCases.map(\.rawValue)
    for _ in 0..<20_000 {
      var bytes = (0..<Int(next() % 120)).map { _ in UInt8(truncatingIfNeeded: next() >> 24) }
      let type = types[Int(next() % UInt64(types.count))]
      bytes.replaceSubrange(0..<min(4, bytes.count), with: Self.u32(type).prefix(bytes.count))
      let size = CommandType(rawValue: type)?.size ?? 0
      do {
        _ = try Self.decode(bytes)
        #expect(bytes.count >= size)
      } catch { #expect(bytes.count < size) }
    }
  }
}
