import Buffers
import GPUCommands
import GuestMemory
import Linux
import Pixels
import VirtioGPU

/// A renderer that writes down what it is asked and does it when told to; its pictures are memfds
/// of one colour. What it stands for is a process, whose own tests use the real one.
final class ScriptedRenderer: Renderer {
  typealias Done = (Result<RenderReply, RenderFailure>) -> Void

  var capsets = [
    Capset(id: 1, maxVersion: 1, data: [1, 2, 3]),
    Capset(id: 2, maxVersion: 2, data: [UInt8](repeating: 7, count: 100)),
  ]
  var isAlive = true
  weak var client: (any RendererClient)?
  /// Does everything at once.
  var isEager = true
  /// Says no to everything but fences.
  var refuses = false
  /// Draws into no buffer again.
  var retires = false
  /// What was drawn into last.
  private(set) var newest: HostBuffer?
  private var made: [WeakPicture] = []
  /// Pictures that somebody still has, or may be drawn again.
  var picturesAlive: Int { made.count { $0.buffer != nil } }
  private(set) var asked: [String] = []
  private(set) var submitted: [[UInt8]] = []
  private(set) var resets = 0
  private(set) var released = 0
  private var waiting: [(RenderOperation, Done)] = []
  private var pictures: UInt64 = 0

  func perform(_ operation: RenderOperation, _ done: @escaping Done) {
    guard isAlive else { return done(.failure(.lost)) }
    asked.append(Self.describe(operation))
    if case .submit(_, let stream) = operation {
      var bytes = [UInt8](repeating: 0, count: stream.count)
      bytes.withUnsafeMutableBytes { _ = stream.copy(into: $0) }
      submitted.append(bytes)
    }
    waiting.append((operation, done))
    if isEager { finish() }
  }

  /// Does what waits, all or some of it.
  func finish(_ count: Int = .max) {
    var left = count
    while left > 0, !waiting.isEmpty {
      left -= 1
      let (operation, done) = waiting.removeFirst()
      done(reply(to: operation))
    }
  }

  /// Does the youngest of what waits, such as a fence that has nothing to wait for.
  func finishLast() {
    guard let (operation, done) = waiting.popLast() else { return }
    done(reply(to: operation))
  }

  func reset() {
    resets += 1
    fail()
  }

  func die() {
    isAlive = false
    fail()
    client?.rendererDied("it was told to die")
  }

  private func fail() {
    let all = waiting
    waiting = []
    for (_, done) in all { done(.failure(.lost)) }
  }

  private func reply(to operation: RenderOperation) -> Result<RenderReply, RenderFailure> {
    switch operation {
    case .fence: .success(.done)
    case _ where refuses: .failure(.refused)
    case .show(_, _, let crop, _): picture(crop).map { .success(.shown($0)) } ?? .failure(.refused)
    case .readPixels(_, let width, let height):
      .success(.pixels([UInt8](repeating: 9, count: Int(width * height) * 4)))
    default: .success(.done)
    }
  }

  /// Every byte of the nth picture is n.
  private func picture(_ crop: Rect) -> HostFrame? {
    pictures += 1
    let layout = PixelLayout(
      width: crop.width, height: crop.height, stride: crop.width * 4, fourcc: .xrgb8888)
    guard let memory = Pages(Int(layout.size), UInt8(truncatingIfNeeded: pictures)),
      let pixels = PixelSource(
        layout: layout, spans: [HostSpan(base: memory.base, count: memory.count)])
    else { return nil }
    let buffer = HostBuffer(
      id: pictures, width: crop.width, height: crop.height, fourcc: .xrgb8888,
      planes: [.init(fd: memory.fd, offset: 0, stride: layout.stride)], memory: .memfd,
      pixels: pixels, mapping: memory)
    if retires { newest?.isRetired = true }
    newest = buffer
    made.append(WeakPicture(buffer: buffer))
    return HostFrame(
      buffer: buffer, acquire: nil, lock: HostLock { [weak self] in self?.released += 1 })
  }

  /// Draws into no picture that there is now.
  func forgetNewest() { newest = nil }

  private struct WeakPicture {
    weak var buffer: HostBuffer?
  }

  private final class Pages {
    let fd: SharedFD
    private let mapping: Mapping
    var base: UnsafeMutableRawPointer { mapping.base }
    var count: Int { mapping.count }

    init?(_ count: Int, _ byte: UInt8) {
      do {
        let file = try MemFD.create("scripted", size: count, seals: [.shrink, .grow])
        mapping = try Mapping(fd: file.raw, offset: 0, count: count, writable: true)
        fd = SharedFD(file)
      } catch { return nil }
      base.initializeMemory(as: UInt8.self, repeating: byte, count: count)
    }
  }

  private static func describe(_ operation: RenderOperation) -> String {
    switch operation {
    case .createContext(let id, _, let name):
      "context \(id) \(String(decoding: name, as: UTF8.self))"
    case .destroyContext(let id): "destroy context \(id)"
    case .attach(let resource, let context): "attach \(resource) to \(context)"
    case .detach(let resource, let context): "detach \(resource) from \(context)"
    case .createResource(let id, let shape): "resource \(id) \(shape.width)x\(shape.height)"
    case .destroyResource(let id): "destroy \(id)"
    case .attachBacking(let id, let ranges):
      "back \(id) by \(ranges.reduce(0) { $0 + $1.count }) bytes"
    case .detachBacking(let id): "unback \(id)"
    case .transfer(let transfer, let toHost):
      "transfer \(transfer.resource) \(toHost ? "to" : "from") host in \(transfer.context)"
    case .submit(let context, let stream): "submit \(stream.count) bytes in \(context)"
    case .fence(let context, let ring): "fence \(context)\(ring.map { ":\($0)" } ?? "")"
    case .show(let id, let output, let crop, let damage):
      "show \(id) on \(output) \(crop.width)x\(crop.height) \(damage.width)x\(damage.height)"
    case .readPixels(let id, let width, let height): "read \(id) \(width)x\(height)"
    }
  }
}
