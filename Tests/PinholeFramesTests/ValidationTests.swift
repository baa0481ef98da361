import FrameProtocol
import Glibc
import Linux
import PinholeProtocol
import Testing

@testable import PinholeFrames

/// Each field of each message of a producer, wrong by itself.
@Suite struct ValidationTests {
  struct Case: CustomTestStringConvertible {
    let testDescription: String
    let field: UInt32?
    let bytes: [UInt8]
    var fds = 0
    var seals: Seals = [.shrink]

    init<Body>(
      _ name: String, field: UInt32?, _ body: Body, fds: Int = 0, seals: Seals = [.shrink]
    ) {
      self.seals = seals
      testDescription = name
      self.field = field
      bytes = withUnsafeBytes(of: body) { Array($0) }
      self.fds = fds
    }
  }

  static func hello(_ change: (inout pinhole_producer_hello) -> Void) -> pinhole_producer_hello {
    var message = ConsumerBench.hello()
    change(&message)
    return message
  }

  static func output(_ change: (inout pinhole_output) -> Void) -> pinhole_output {
    var message = ConsumerBench.output()
    change(&message)
    return message
  }

  static func buffer(_ change: (inout pinhole_buffer_add) -> Void) -> pinhole_buffer_add {
    var message = ConsumerBench.buffer(2)
    message.buffer = 4
    change(&message)
    return message
  }

  static func frame(_ change: (inout pinhole_frame) -> Void) -> pinhole_frame {
    var message = ConsumerBench.frame(2)
    change(&message)
    return message
  }

  static func cursor(_ change: (inout pinhole_cursor) -> Void) -> pinhole_cursor {
    var message = ConsumerBench.cursor()
    change(&message)
    return message
  }

  static let hellos: [Case] = [
    Case("size", field: 4, hello { $0.header.size = 8 }),
    Case("type", field: 0, hello { $0.header.type = 1 }),
    Case("magic", field: 8, hello { $0.magic = 0 }),
    Case("version", field: 12, hello { $0.version = 2 }),
    Case("max_in_flight", field: 24, hello { $0.max_in_flight = 0 }),
    Case("max_outputs", field: 36, hello { $0.max_outputs = 17 }),
    Case("no outputs", field: 36, hello { $0.max_outputs = 0 }),
    Case("name", field: 40, hello { $0.name.0 = -2 }),
    Case("descriptors", field: nil, hello { _ in }, fds: 1),
    Case("features not asked for", field: 16, hello { $0.features = 2 }),
    Case("another message first", field: 0, ConsumerBench.output()),
    Case("half a header", field: nil, UInt16(0)),
    Case(
      "a long packet", field: nil,
      (ConsumerBench.frame(), ConsumerBench.frame(), ConsumerBench.frame(), ConsumerBench.frame())),
  ]

  static let messages: [Case] = [
    Case("hello twice", field: 0, ConsumerBench.hello()),
    Case("output", field: 8, output { $0.output = 16 }),
    Case("output flags", field: 12, output { $0.flags = 3 }),
    Case("output width", field: 16, output { $0.width = 0 }),
    Case("output height", field: 20, output { $0.height = 0 }),
    Case("output off with a size", field: 16, output { $0.flags = 0 }),
    Case("output with a descriptor", field: nil, output { _ in }, fds: 1),
    Case("number in use", field: 8, buffer { $0.buffer = 3 }, fds: 1),
    Case("generation", field: 12, buffer { $0.generation = 0 }, fds: 1),
    Case("width", field: 16, buffer { $0.width = 0 }, fds: 1),
    Case("height", field: 20, buffer { $0.height = 0 }, fds: 1),
    Case("format of two planes", field: 24, buffer { $0.fourcc = 0x3231_564e }, fds: 1),
    Case("format of two bytes a pixel", field: 24, buffer { $0.fourcc = 0x3631_4752 }, fds: 1),
    Case("no format", field: 24, buffer { $0.fourcc = 0 }, fds: 1),
    Case("flags", field: 28, buffer { $0.flags |= 8 }, fds: 1),
    Case("neither dma-buf nor copy", field: 28, buffer { $0.flags = 0 }, fds: 1),
    Case("both", field: 28, buffer { $0.flags = 3 }, fds: 1),
    Case("modifier", field: 32, buffer { $0.modifier = 1 }, fds: 1),
    Case("size", field: 40, buffer { $0.size = 8192 }, fds: 1),
    Case("size that is no size", field: 40, buffer { $0.size = .max }, fds: 1),
    Case("num_planes", field: 48, buffer { $0.num_planes = 2 }, fds: 1),
    Case("num_fds", field: 52, buffer { $0.num_fds = 0 }, fds: 1),
    Case("fd_index", field: 56, buffer { $0.planes.0.fd_index = 1 }, fds: 1),
    Case("stride", field: 60, buffer { $0.planes.0.stride = 63 }, fds: 1),
    Case("rows past the end", field: 64, buffer { $0.planes.0.stride = 1024 }, fds: 1),
    Case("offset", field: 64, buffer { $0.planes.0.offset = 4000 }, fds: 1),
    Case("offset that wraps", field: 64, buffer { $0.planes.0.offset = .max - 1 }, fds: 1),
    Case("no descriptor", field: nil, buffer { _ in }),
    Case("two descriptors", field: nil, buffer { _ in }, fds: 2),
    Case("frame output", field: 8, frame { $0.output = 16 }),
    Case("frame of an output that is off", field: 8, frame { $0.output = 1 }),
    Case("frame flags", field: 12, frame { $0.flags = 4 }),
    Case("serial", field: 16, frame { $0.serial = 1 }),
    Case("frame of no buffer", field: 24, frame { $0.buffer = 4 }),
    Case("frame of no generation", field: 24, frame { $0.generation = 2 }),
    Case("empty crop", field: 32, frame { $0.crop.width = 0 }),
    Case("crop that wraps", field: 32, frame { $0.crop.x = .max }),
    Case("crop outside", field: 32, frame { $0.crop.x = 1 }),
    Case(
      "crop of another size", field: 32,
      frame {
        $0.crop.width = 8
        $0.damage.0 = $0.crop
      }),
    Case("acquire_kind", field: 48, frame { $0.acquire_kind = 2 }),
    Case("a fence that is missing", field: 48, frame { $0.acquire_kind = 1 }),
    Case("a fence not agreed on", field: 48, frame { $0.acquire_kind = 1 }, fds: 1),
    Case("acquire_point", field: 56, frame { $0.acquire_point = 1 }),
    Case("no damage", field: 52, frame { $0.num_damage = 0 }),
    Case("much damage", field: 52, frame { $0.num_damage = 17 }),
    Case("damage outside", field: 72, frame { $0.damage.0.y = 1 }),
    Case("empty damage", field: 72, frame { $0.num_damage = 2 }),
    Case("frame with a descriptor", field: nil, frame { _ in }, fds: 1),
    Case("remove another generation", field: 8, ConsumerBench.remove(2)),
    Case("remove with a descriptor", field: nil, ConsumerBench.remove(), fds: 1),
    Case("cursor output", field: 8, cursor { $0.output = 16 }, fds: 1),
    Case("cursor flags", field: 12, cursor { $0.flags = 7 }, fds: 1),
    Case("cursor width", field: 32, cursor { $0.width = 513 }, fds: 1),
    Case("cursor height", field: 36, cursor { $0.height = 0 }, fds: 1),
    Case("cursor stride", field: 44, cursor { $0.stride = 7 }, fds: 1),
    Case("cursor stride limit", field: 44, cursor { $0.stride = 4097 }, fds: 1),
    Case("cursor size", field: 48, cursor { $0.size = 15 }, fds: 1),
    Case("cursor size limit", field: 48, cursor { $0.size = 1 << 30 }, fds: 1),
    Case("cursor format", field: 40, cursor { $0.fourcc = 0x3432_5258 }, fds: 1),
    Case(
      "hot spot of no image", field: 24,
      cursor {
        $0.flags = 0
        $0.hot_x = 512
      }),
    Case("hot spot across", field: 24, cursor { $0.hot_x = 2 }, fds: 1),
    Case("hot spot down", field: 28, cursor { $0.hot_y = .max }, fds: 1),
    Case("an unsealed cursor", field: 12, cursor { _ in }, fds: 1, seals: []),
    Case("a visible cursor without an image", field: 12, cursor { $0.flags = 1 }),
    Case("output width limit", field: 16, output { $0.width = 16385 }),
    Case("buffer width limit", field: 16, buffer { $0.width = 65536 }, fds: 1),
    Case("buffer height limit", field: 20, buffer { $0.height = 65536 }, fds: 1),
    Case("buffer of a terabyte", field: 40, buffer { $0.size = 1 << 40 }, fds: 1),
    Case("buffer stride limit", field: 60, buffer { $0.planes.0.stride = 1 << 19 }, fds: 1),
    Case("FULL, and not all of it", field: 72, frame { $0.damage.0.width = 8 }),
    Case(
      "a file that is called a dma-buf", field: 28,
      buffer { $0.flags = PINHOLE_BUFFER_DMABUF }, fds: 1, seals: []),
    Case("cursor without image file", field: nil, cursor { _ in }),
    Case("cursor file without image", field: nil, cursor { $0.flags = 1 }, fds: 1),
    Case("a consumer's type", field: 0, output { $0.header.type = 2 }),
    Case("an unknown type", field: 0, output { $0.header.type = 0x200 }),
  ]

  private func check(_ wrong: Case, _ bench: ConsumerBench) throws {
    let label = "frames-test-\(UInt64.random(in: 0 ... .max))"
    let memory = try ConsumerBench.memory(label, seals: wrong.seals)
    _ = try wrong.bytes.withUnsafeBytes {
      try UnixSocket.send(
        bench.producer.raw, $0, fds: [CInt](repeating: memory.raw, count: wrong.fds),
        dontWait: true)
    }
    guard case .malformed(_, let field, let text) = bench.failure() else {
      Issue.record("it was accepted")
      return
    }
    #expect(field == wrong.field, "\(text)")
    #expect(!text.isEmpty)
    #expect(openCount(label) == 1)
  }

  @Test(arguments: hellos) func aBadFirstMessage(_ wrong: Case) throws {
    let bench = try ConsumerBench(greets: false)
    try check(wrong, bench)
  }

  @Test(arguments: messages) func aBadMessage(_ wrong: Case) throws {
    let bench = try ConsumerBench()
    try bench.showFrame()
    try check(wrong, bench)
  }

  @Test func memoryThatCanShrinkIsRefused() throws {
    let bench = try ConsumerBench()
    let memory = try ConsumerBench.memory(seals: [.grow])
    try bench.send(ConsumerBench.buffer(), fds: [memory.raw])
    guard case .malformed(_, let field, _) = bench.failure() else {
      Issue.record("it was accepted")
      return
    }
    #expect(field == 28)
  }

  @Test func aCursorFileThatIsTooShortIsRefused() throws {
    let bench = try ConsumerBench()
    let memory = try ConsumerBench.image(size: 12)
    try bench.send(ConsumerBench.cursor(), fds: [memory.raw])
    guard case .malformed(_, let field, _) = bench.failure() else {
      Issue.record("it was accepted")
      return
    }
    #expect(field == 48)
  }

  @Test(arguments: 0..<4) func rubbishNeverCrashes(_ run: Int) throws {
    let seed = UInt64.random(in: 1 ... .max)
    var state = seed
    func random(_ limit: Int) -> Int {
      state = state &* 6_364_136_223_846_793_005 &+ 1_442_695_040_888_963_407
      return Int(state >> 33) % limit
    }
    let memory = try ConsumerBench.memory()
    for _ in 0..<400 {
      let bench = try ConsumerBench()
      try bench.showFrame()
      for _ in 0..<4 {
        let kinds = Self.messages
        var bytes = kinds[random(kinds.count)].bytes
        for _ in 0..<random(3) {
          bytes[random(bytes.count)] = UInt8(truncatingIfNeeded: random(256))
        }
        _ = try bytes.withUnsafeBytes {
          try UnixSocket.send(
            bench.producer.raw, $0, fds: [CInt](repeating: memory.raw, count: random(3)),
            dontWait: true)
        }
      }
      guard let error = bench.failure() else { continue }
      #expect(!"\(error)".isEmpty, "seed \(seed)")
    }
  }
}
