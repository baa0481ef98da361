import RenderWire

/// What a renderer makes of the packets that it gets: a daemon's, or whatever lies in a ring.
enum RequestTarget {
  static func run(_ input: consuming Input) throws {
    var input = input
    let kind = input.u8()
    let bytes = input.rest()
    bytes.withUnsafeBytes { bytes in
      packet(bytes)
      commands(bytes)
      let opcode = RenderOpcode.allCases[Int(kind) % RenderOpcode.allCases.count]
      request(opcode, bytes)
    }
  }

  /// A whole packet, as a renderer takes it apart.
  private static func packet(_ bytes: UnsafeRawBufferPointer) {
    guard let header = RenderHeader(bytes) else { return }
    claim(Int(header.length) == bytes.count - RenderHeader.size, "a header of another length")
    let payload = UnsafeRawBufferPointer(rebasing: bytes[RenderHeader.size...])
    if header.flags & RenderHeader.isInRing != 0 {
      guard let place = RingPlace(payload, ringSize: RenderWire.ringSize) else { return }
      claim(place.count <= UInt64(RenderWire.ringSize), "more than the ring has")
      claim(
        place.offset <= UInt64(RenderWire.ringSize) - place.count, "a place outside of the ring")
    } else if let opcode = RenderOpcode(rawValue: header.operation) {
      request(opcode, payload)
    }
  }

  /// What can be read is exactly what was written: nothing is left out, and nothing invented.
  private static func request(_ opcode: RenderOpcode, _ payload: UnsafeRawBufferPointer) {
    guard let request = RenderRequest(opcode, payload) else { return }
    claim(request.opcode == opcode, "\(opcode) becomes \(request.opcode)")
    claim(request.payload.elementsEqual(payload), "\(opcode) is read as something else")
    switch request {
    case .createContext(_, _, let name):
      claim(name.count <= RenderWire.longestName, "a name of \(name.count) bytes")
    case .submit(let context, let bytes):
      let found = SubmittedCommands(payload)
      claim(found?.context == context, "commands of another context")
      claim(found?.bytes.elementsEqual(bytes) == true, "other commands")
    default: break
    }
  }

  private static func commands(_ payload: UnsafeRawBufferPointer) {
    guard let found = SubmittedCommands(payload) else { return }
    claim(found.bytes.count == payload.count - 4, "\(found.bytes.count) bytes of commands")
    claim(found.bytes.count % 4 == 0, "half a command")
  }
}

/// A request of each kind, alone and in a packet.
enum RequestSeeds {
  private static let requests: [RenderRequest] = [
    .setUp(version: RenderWire.version, ringSize: UInt64(RenderWire.ringSize)),
    .addFile(1, size: 4096), .dropFile(1), .createContext(1, capset: 2, name: Array("cube".utf8)),
    .destroyContext(1), .attach(context: 1, resource: 2), .detach(context: 1, resource: 2),
    .createResource(2, RenderShape(target: 2, format: 1, bind: 2, width: 64, height: 64)),
    .destroyResource(2),
    .attachBacking(2, Array(repeating: RenderRun(file: 1, offset: 4096, count: 4096), count: 3)),
    .detachBacking(2),
    .transferToHost(RenderTransfer(context: 1, resource: 2, box: RenderBox(width: 64))),
    .transferFromHost(RenderTransfer(context: 0, resource: 2, box: RenderBox(width: 64))),
    .submit(context: 1, [1, 0, 0, 0, 7, 0, 0, 0]), .fence,
    .readBack(
      2, RenderBox(width: 64), RenderRun(file: 1, offset: 0, count: 4096), stride: 256),
    .exportPicture(1, RenderPicture(width: 64, height: 64, stride: 256, fourcc: 0x3432_5258)),
    .dropExport(1),
  ]

  static var all: [String: [UInt8]] {
    var seeds: [String: [UInt8]] = [:]
    for (index, request) in requests.enumerated() {
      seeds["\(request.opcode)"] = [UInt8(index)] + request.payload
      let header = RenderHeader(
        operation: request.opcode.rawValue, id: 7, length: UInt32(request.payload.count))
      seeds["packet-\(request.opcode)"] = [0] + header.packet(request.payload)
    }
    let place = RingPlace(offset: 4096, count: 1 << 20).bytes
    seeds["ring"] =
      [0]
      + RenderHeader(
        operation: RenderOpcode.submit.rawValue, id: 8, length: UInt32(place.count),
        flags: RenderHeader.isInRing
      ).packet(place)
    return seeds
  }
}
