import Buffers
import GPUCommands
import GuestMemory
import Linux
import Pixels
import VirtioGPU

/// Stands for the process that draws, and checks that the device asks only for what it may: a
/// guest can reach that process through nothing else.
final class ModelRenderer: Renderer {
  typealias Done = (Result<RenderReply, RenderFailure>) -> Void

  private struct Made {
    let shape: ResourceShape
    let serial: Int
    /// Bytes of the pages behind it.
    var backing: UInt64?
  }

  let capsets = [
    Capset(id: 1, maxVersion: 1, data: [1, 2, 3]),
    Capset(id: 2, maxVersion: 2, data: [UInt8](repeating: 7, count: 100)),
  ]
  var isAlive = true
  weak var client: (any RendererClient)?
  /// Draws into no picture again.
  var retires = false
  /// Its pictures have another size than was asked for.
  var lies = false
  private var contexts: [UInt32: Int] = [:]
  private var resources: [UInt32: Made] = [:]
  private var waiting: [(serial: Int, operation: RenderOperation, done: Done)] = []
  private var serial = 0
  private var pictures: UInt64 = 0
  private var locked = 0

  func perform(_ operation: RenderOperation, _ done: @escaping Done) {
    guard isAlive else { return done(.failure(.lost)) }
    serial += 1
    check(operation)
    claim(waiting.count < 4096, "more waits than a guest's rings hold")
    waiting.append((serial, operation, done))
  }

  func reset() { lose() }

  /// Does the oldest of what waits.
  func work(_ count: Int, refuses: Bool) {
    for _ in 0..<count where !waiting.isEmpty { answer(waiting.removeFirst(), refuses) }
  }

  /// Does the youngest.
  func workLast() { if let last = waiting.popLast() { answer(last, false) } }

  func die(_ why: String) {
    isAlive = false
    lose()
    client?.rendererDied(why)
  }

  /// The guest is gone.
  func finish() {
    claim(waiting.isEmpty, "\(waiting.count) requests wait after the guest is gone")
    claim(locked == 0, "\(locked) pictures are locked after the guest is gone")
  }

  private func lose() {
    contexts = [:]
    resources = [:]
    let lost = waiting
    waiting = []
    for item in lost { item.done(.failure(.lost)) }
  }

  private func answer(
    _ item: (serial: Int, operation: RenderOperation, done: Done), _ refuses: Bool
  ) {
    guard !refuses else {
      forget(item.operation, item.serial)
      return item.done(.failure(.refused))
    }
    switch item.operation {
    case .show(_, _, let crop, _):
      item.done(picture(crop).map { .success(.shown($0)) } ?? .failure(.refused))
    case .readPixels(_, let width, let height):
      item.done(
        .success(.pixels([UInt8](repeating: 9, count: Int(width * height) * 4 + (lies ? 4 : 0)))))
    default: item.done(.success(.done))
    }
  }

  /// What was not made is not there, unless its number was given again since.
  private func forget(_ operation: RenderOperation, _ serial: Int) {
    switch operation {
    case .createContext(let id, _, _): if contexts[id] == serial { contexts[id] = nil }
    case .createResource(let id, _):
      if resources[id]?.serial == serial { resources[id] = nil }
    default: break
    }
  }

  // MARK: What may be asked

  private func check(_ operation: RenderOperation) {
    switch operation {
    case .createContext(let id, _, let name):
      claim(id != 0 && contexts[id] == nil && name.count <= 64, "context \(id) is made twice")
      contexts[id] = serial
      claim(contexts.count <= 8, "\(contexts.count) contexts")
    case .destroyContext(let id):
      claim(contexts.removeValue(forKey: id) != nil, "there is no context \(id) to destroy")
    case .attach(let resource, let context), .detach(let resource, let context):
      claim(contexts[context] != nil && has(resource), "\(operation) names what is not there")
    case .createResource(let id, let shape):
      claim(id != 0 && !has(id), "resource \(id) is made twice")
      claim(shape.width > 0 && shape.height > 0 && shape.depth > 0, "an empty resource")
      claim(
        shape.target == 0 || shape.width <= 512 && shape.height <= 512, "a resource too large")
      resources[id] = Made(shape: shape, serial: serial)
    case .destroyResource(let id):
      claim(resources.removeValue(forKey: id) != nil, "there is no resource \(id) to destroy")
    case .attachBacking(let id, let ranges):
      var count: UInt64 = 0
      for range in ranges {
        let (end, overflow) = range.offset.addingReportingOverflow(range.count)
        claim(!overflow && end <= range.file.size, "pages outside of guest memory")
        count &+= range.count
      }
      claim(has(id) && resources[id]?.backing == nil, "pages for \(id), which has some or is not")
      resources[id]?.backing = count
    case .detachBacking(let id):
      claim(resources[id]?.backing != nil, "pages are taken from \(id), which has none")
      resources[id]?.backing = nil
    default: checkUse(operation)
    }
  }

  private func checkUse(_ operation: RenderOperation) {
    switch operation {
    case .transfer(let transfer, _):
      claim(transfer.context == 0 || contexts[transfer.context] != nil, "\(transfer): no context")
      guard let made = resources[transfer.resource], let backing = made.backing else {
        return claim(false, "\(transfer): no resource, or no pages")
      }
      claim(transfer.offset <= backing, "\(transfer) begins behind \(backing) bytes of pages")
      claim(made.shape.lastLevel >= transfer.level, "\(transfer): no such level")
      let (w, h) = (made.shape.width >> transfer.level, made.shape.height >> transfer.level)
      let box = transfer.box
      claim(
        UInt64(box.x) + UInt64(box.width) <= UInt64(max(1, w))
          && UInt64(box.y) + UInt64(box.height) <= UInt64(max(1, h)),
        "\(transfer) is outside of \(made.shape)")
    case .submit(let context, let stream):
      claim(contexts[context] != nil, "commands for context \(context), which is not there")
      claim(stream.count % 4 == 0 && stream.count <= 4096, "\(stream.count) bytes of commands")
      var bytes = [UInt8](repeating: 0, count: stream.count)
      let copied = bytes.withUnsafeMutableBytes { stream.copy(into: $0) }
      claim(copied == stream.count, "\(copied) of \(stream.count) bytes of commands")
    case .fence(let context, _):
      claim(context == 0 || contexts[context] != nil, "a fence of context \(context)")
    case .show(let id, let output, let crop, let damage):
      guard let made = resources[id] else { return claim(false, "there is no \(id) to show") }
      claim(output < 16, "output \(output)")
      claim(
        crop.width > 0 && crop.height > 0
          && crop.fits(width: made.shape.width, height: made.shape.height),
        "\(crop) of \(made.shape) is shown")
      claim(damage.fits(width: crop.width, height: crop.height), "\(damage) of \(crop) is shown")
    case .readPixels(let id, let width, let height):
      guard let made = resources[id] else { return claim(false, "there is no \(id) to read") }
      claim(width <= made.shape.width && height <= made.shape.height, "rows that are not there")
    default: break
    }
  }

  private func has(_ id: UInt32) -> Bool { resources[id] != nil }

  // MARK: Pictures

  private func picture(_ crop: Rect) -> HostFrame? {
    let width = crop.width + (lies ? 1 : 0)
    let layout = PixelLayout(
      width: width, height: crop.height, stride: width * 4, fourcc: .xrgb8888)
    guard client?.hostMemory(layout.size) != nil, let memory = Memory(Int(layout.size)),
      let pixels = PixelSource(
        layout: layout, spans: [HostSpan(base: memory.mapping.base, count: memory.mapping.count)])
    else { return nil }
    pictures += 1
    let buffer = HostBuffer(
      id: pictures, width: width, height: crop.height, fourcc: .xrgb8888,
      planes: [.init(fd: memory.fd, offset: 0, stride: layout.stride)], memory: .memfd,
      pixels: pixels, mapping: memory)
    buffer.isRetired = retires
    locked += 1
    return HostFrame(
      buffer: buffer, acquire: nil, lock: HostLock { [weak self] in self?.locked -= 1 })
  }

  private final class Memory {
    let fd: SharedFD
    let mapping: Mapping

    init?(_ count: Int) {
      do throws(Errno) {
        let file = try MemFD.create("fuzz-picture", size: count, seals: [.shrink, .grow])
        mapping = try Mapping(fd: file.raw, offset: 0, count: count, writable: false)
        fd = SharedFD(file)
      } catch { return nil }
    }
  }
}
