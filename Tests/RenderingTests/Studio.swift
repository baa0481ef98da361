import Buffers
import GPUCommands
import Glibc
import GuestMemory
import Linux
import Logging
import Pixels
import Testing
import VirtioGPU

@testable import Rendering

/// A guest's pages and pictures, drawn by the real renderer through the device's seam.
final class Studio: RendererClient {
  let loop: EventLoop
  let host: RendererHost
  let file: GuestFile
  private(set) var deaths: [String] = []
  static let width: UInt32 = 64
  static let height: UInt32 = 32
  private static let bytes = Int(width * height * 4)

  /// Warnings.
  let lines = Locked<[String]>([])

  init(seals: Seals = []) throws {
    let lines = lines
    loop = try EventLoop()
    var options = RendererHost.Options(program: RendererRig.program)
    if let mode = getenv("PINHOLE_SANDBOX") { options.starter.sandbox = String(cString: mode) }
    options.patience.operation = 60_000_000_000
    host = try RendererHost(
      options, on: loop, log: Logger(label: "test") { _ in LineLog(lines) })
    file = try GuestFile(try MemFD.create("studio", size: Self.bytes * 2, seals: seals))
    host.client = self
  }

  func rendererDied(_ why: String) { deaths.append(why) }
  /// Bytes that pictures may still take.
  var memory: UInt64 = 1 << 30
  func hostMemory(_ bytes: UInt64) -> AnyObject? {
    guard bytes <= memory else { return nil }
    memory -= bytes
    return self
  }

  func turn(until isSo: () -> Bool) throws {
    let bound = Clock.now + 120_000_000_000
    while !isSo() {
      try loop.turn(timeout: 100)
      try #require(Clock.now < bound, "nothing came for two minutes")
    }
  }

  @discardableResult
  func perform(_ operation: RenderOperation) throws -> Result<RenderReply, RenderFailure> {
    var result: Result<RenderReply, RenderFailure>?
    host.perform(operation) { result = $0 }
    try turn { result != nil }
    return try #require(result)
  }

  func picture(_ id: UInt32, format: UInt32 = 2) throws {
    var shape = ResourceShape()
    shape.target = 2
    shape.format = format
    shape.bind = 0x14_000a
    shape.width = Self.width
    shape.height = Self.height
    shape.depth = 1
    shape.arraySize = 1
    _ = try perform(.createResource(id, shape)).get()
    let half = UInt64(Self.bytes / 2)
    // The picture's halves are the other way round in the guest's memory.
    let ranges = [
      FileRange(file: file, offset: half, count: half),
      FileRange(file: file, offset: 0, count: half),
    ]
    _ = try perform(.attachBacking(id, ranges)).get()
  }

  /// Draws one colour with the guest's CPU, and transfers a part of it.
  func paint(_ id: UInt32, _ pixel: UInt32, x: UInt32 = 0, y: UInt32 = 0, width: UInt32 = width)
    throws
  {
    let base = try #require(file.pointer(at: 0, count: UInt64(Self.bytes)))
    for at in stride(from: 0, to: Self.bytes, by: 4) {
      base.storeBytes(of: pixel, toByteOffset: at, as: UInt32.self)
    }
    var transfer = Transfer3D()
    transfer.resource = id
    transfer.box.x = x
    transfer.box.y = y
    transfer.box.width = width
    transfer.box.height = Self.height - y
    transfer.box.depth = 1
    transfer.stride = Self.width * 4
    _ = try perform(.transfer(transfer, toHost: true)).get()
  }

  static let all = Rect(x: 0, y: 0, width: width, height: height)

  func show(_ id: UInt32, crop: Rect = all, damage: Rect? = nil) throws -> HostFrame {
    let reply = try perform(
      .show(
        resource: id, output: 0, crop: crop,
        damage: damage ?? Rect(x: 0, y: 0, width: crop.width, height: crop.height)))
    guard case .shown(let frame) = try reply.get() else { throw Errno(EPROTO, "show") }
    return frame
  }
}

func pixel(_ frame: HostFrame, _ x: UInt32, _ y: UInt32) -> UInt32? {
  var value: UInt32?
  frame.buffer.pixels.forEachPiece(of: Rect(x: x, y: y, width: 1, height: 1)) { piece, _ in
    value = piece.loadUnaligned(as: UInt32.self) & 0xff_ffff
  }
  return value
}

extension Result where Success == RenderReply, Failure == RenderFailure {
  var isSuccess: Bool { failure == nil }
  var failure: RenderFailure? {
    if case .failure(let error) = self { return error }
    return nil
  }
}
