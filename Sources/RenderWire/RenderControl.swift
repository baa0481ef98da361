/// What the daemon asks of the process that starts renderers, on a socket of their own.
package enum RenderCommand: Equatable, Sendable {
  /// A new renderer, numbered by the daemon.
  case start(UInt32)
  /// Ends one at once.
  case kill(UInt32)

  private static let startCode: UInt32 = 1
  private static let killCode: UInt32 = 2

  package var packet: [UInt8] {
    switch self {
    case .start(let number):
      RenderHeader(operation: Self.startCode, id: number, length: 0).packet([])
    case .kill(let number):
      RenderHeader(operation: Self.killCode, id: number, length: 0).packet([])
    }
  }

  /// Nil for anything else.
  package init?(_ packet: UnsafeRawBufferPointer) {
    guard let header = RenderHeader(packet), header.length == 0, header.flags == 0 else {
      return nil
    }
    switch header.operation {
    case Self.startCode: self = .start(header.id)
    case Self.killCode: self = .kill(header.id)
    default: return nil
    }
  }
}

/// What that process says.
package enum RenderNews: Equatable, Sendable {
  /// A renderer runs; its socket travels along.
  case started(UInt32, pid: UInt32)
  /// None could be started; an error number.
  case failed(UInt32, error: UInt32)
  /// One has ended: exit status, or 128 + the signal's number.
  case ended(UInt32, status: UInt32)

  private static let startedCode: UInt32 = 0x201
  private static let failedCode: UInt32 = 0x202
  private static let endedCode: UInt32 = 0x203

  package var packet: [UInt8] {
    let (code, number, value) =
      switch self {
      case .started(let number, let pid): (Self.startedCode, number, pid)
      case .failed(let number, let error): (Self.failedCode, number, error)
      case .ended(let number, let status): (Self.endedCode, number, status)
      }
    var out = RenderWriter()
    out.put(value)
    return RenderHeader(operation: code, id: number, length: 4).packet(out.bytes)
  }

  /// Nil for anything else.
  package init?(_ packet: UnsafeRawBufferPointer) {
    guard let header = RenderHeader(packet), header.flags == 0 else { return nil }
    var reader = RenderReader(UnsafeRawBufferPointer(rebasing: packet[RenderHeader.size...]))
    let value = reader.u32()
    guard reader.isWhole else { return nil }
    switch header.operation {
    case Self.startedCode: self = .started(header.id, pid: value)
    case Self.failedCode: self = .failed(header.id, error: value)
    case Self.endedCode: self = .ended(header.id, status: value)
    default: return nil
    }
  }
}
