import FrameProtocol
import Linux
import PinholeFrames
import PinholeProtocol

/// A producer that says anything to the consumers' library.
enum ConsumerTarget {
  /// What the bytes of an input mean.
  enum Step: UInt8, CaseIterable {
    /// Gifts, bytes as they are.
    case raw
    /// Type, gifts, the bytes behind a right header of the right size.
    case message
    case hello
    case output
    case bufferAdd
    case frame
    case bufferRemove
    case cursor
    case read
    case leave
  }

  static func run(_ input: consuming Input) throws {
    var input = input
    let (peer, far) = try sockets(.seqpacket)
    let isLazy = input.flag()
    let options = FrameConsumer.Options(name: "fuzz", closesRemovedBuffers: !isLazy)
    let consumer = try FrameConsumer(socket: OwnedFD(adopting: far), options: options)
    do throws(FramesError) {
      for _ in 0..<256 where !input.isEmpty {
        do { try step(&input, peer) } catch { claim(false, "cannot send: \(error)") }
        try read(consumer, isLazy: isLazy)
        while peer.receive(limit: 2048) != nil {}
      }
    } catch { claim(!"\(error)".isEmpty, "an error without words") }
  }

  private static func read(_ consumer: FrameConsumer, isLazy: Bool) throws(FramesError) {
    while let event = try consumer.next(timeout: 0) {
      claim(!event.description.isEmpty, "an event without words")
      switch event {
      case .frame(let frame):
        guard let buffer = consumer.buffers[frame.buffer] else {
          return claim(false, "a frame of a buffer that is not there")
        }
        if UInt64(frame.crop.width) * UInt64(frame.crop.height) <= 1 << 16 {
          _ = try? buffer.pixels(of: frame.crop)
        }
        try consumer.done(frame)
      case .bufferRemoved(let name, _):
        claim(consumer.buffers[name] == nil, "a removed buffer is still there")
        if isLazy { try consumer.closed(name) }
      default: break
      }
    }
  }

  private static func step(_ input: inout Input, _ peer: Peer) throws {
    switch Step(rawValue: input.u8() % UInt8(Step.allCases.count)) {
    case .raw:
      let gifts = Peer.gifts(&input)
      try peer.send(input.take(Int(input.u16()) % 1100), gifts: gifts)
    case .message:
      let type = UInt32(input.u8()) | (input.flag() ? 0x100 : 0)
      let gifts = Peer.gifts(&input)
      let body = input.take(Int(input.u16()) % 1100)
      var out = Script()
      out.put(type)
      out.put(UInt32(body.count + 8))
      try peer.send(out.bytes + body, gifts: gifts)
    case .hello: try hello(&input, peer)
    case .output: try output(&input, peer)
    case .bufferAdd: try bufferAdd(&input, peer)
    case .frame: try frame(&input, peer)
    case .bufferRemove:
      var removal = pinhole_buffer_remove()
      removal.buffer = input.number()
      removal.generation = input.number()
      removal.reason = input.number()
      try send(PINHOLE_BUFFER_REMOVE, &removal, \.header, peer)
    case .cursor: try cursor(&input, peer)
    case .read: break
    case .leave, nil: if input.flag() { peer.close() } else { peer.shutWriting() }
    }
  }

  private static func send<Body: BitwiseCopyable>(
    _ type: pinhole_message, _ body: inout Body, _ header: WritableKeyPath<Body, pinhole_header>,
    _ peer: Peer, gifts: [UInt8] = []
  ) throws {
    body[keyPath: header] = pinhole_header(
      type: type.rawValue, size: UInt32(MemoryLayout<Body>.size))
    try peer.send(withUnsafeBytes(of: body) { [UInt8]($0) }, gifts: gifts)
  }

  private static func hello(_ input: inout Input, _ peer: Peer) throws {
    var hello = pinhole_producer_hello()
    hello.magic = PINHOLE_MAGIC
    hello.version = UInt32(input.u8())
    hello.max_in_flight = input.number()
    hello.max_outputs = input.number()
    WireText.write(
      String(decoding: input.take(Int(input.u8()) % 32), as: UTF8.self), to: &hello.name)
    try send(PINHOLE_PRODUCER_HELLO, &hello, \.header, peer)
  }

  private static func output(_ input: inout Input, _ peer: Peer) throws {
    var output = pinhole_output()
    output.output = input.number()
    output.flags = UInt32(input.u8())
    output.width = input.number()
    output.height = input.number()
    try send(PINHOLE_OUTPUT, &output, \.header, peer)
  }

  private static func bufferAdd(_ input: inout Input, _ peer: Peer) throws {
    var buffer = pinhole_buffer_add()
    buffer.buffer = input.number()
    buffer.generation = input.number()
    buffer.width = input.number()
    buffer.height = input.number()
    buffer.fourcc = input.flag() ? 0x3432_5258 : input.u32()
    buffer.flags = UInt32(input.u8())
    buffer.size = UInt64(input.number()) << (input.flag() ? 12 : 0)
    buffer.num_planes = input.number()
    buffer.num_fds = input.number()
    buffer.planes.0.stride = input.number() &* 4
    buffer.planes.0.offset = UInt64(input.number())
    let gifts = Peer.gifts(&input)
    try send(PINHOLE_BUFFER_ADD, &buffer, \.header, peer, gifts: gifts)
  }

  private static func frame(_ input: inout Input, _ peer: Peer) throws {
    var frame = pinhole_frame()
    frame.output = input.number()
    frame.flags = UInt32(input.u8())
    frame.serial = UInt64(input.number())
    frame.buffer = input.number()
    frame.generation = input.number()
    frame.crop = rect(&input)
    frame.num_damage = input.number()
    frame.damage.0 = rect(&input)
    frame.damage.1 = rect(&input)
    frame.acquire_kind = UInt32(input.u8())
    try send(PINHOLE_FRAME, &frame, \.header, peer, gifts: Peer.gifts(&input))
  }

  private static func rect(_ input: inout Input) -> pinhole_rect {
    pinhole_rect(
      x: input.number(), y: input.number(), width: input.number(), height: input.number())
  }

  private static func cursor(_ input: inout Input, _ peer: Peer) throws {
    var cursor = pinhole_cursor()
    cursor.output = input.number()
    cursor.flags = UInt32(input.u8())
    cursor.x = Int32(bitPattern: input.number())
    cursor.hot_x = input.number()
    cursor.width = input.number()
    cursor.height = input.number()
    cursor.fourcc = input.flag() ? 0x3432_5241 : input.u32()
    cursor.stride = input.number() &* 4
    cursor.size = UInt64(input.number()) << (input.flag() ? 12 : 0)
    try send(PINHOLE_CURSOR, &cursor, \.header, peer, gifts: Peer.gifts(&input))
  }
}
