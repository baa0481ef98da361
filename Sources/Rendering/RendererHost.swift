import Buffers
import GPUCommands
import GuestMemory
import Linux
import Logging
import Pixels
import RenderWire
import VirtioGPU

/// Draws for the device by `pinhole-renderer`: turns what the device asks into messages.
public final class RendererHost: Renderer {
  /// How it runs.
  package struct Options: Sendable {
    /// The processes.
    package var starter: RenderStarter.Options
    /// Their deadlines.
    package var patience = RendererLives.Patience()
    /// Has pictures exported from the memory of the GPU that draws them.
    package var exports = true

    package init(program: String) { starter = RenderStarter.Options(program: program) }
  }

  /// Why there is no 3D.
  package struct Failure: Error, CustomStringConvertible {
    /// In one line, with what helps.
    package let description: String

    package init(description: String) { self.description = description }
  }

  /// Those of the first renderer.
  public private(set) var capsets: [Capset] = []
  /// The device.
  public weak var client: (any RendererClient)?
  /// The library has the fixes of its version 1.1.0.
  package private(set) var isRecent = false
  /// The render node that draws; nil for the processor.
  package let node: String?

  private let lives: RendererLives
  private let files = RenderFiles()
  private let pictures: ShownPictures
  private let log: Logger

  /// Most bytes of commands that wait; a guest that sends faster than is drawn gets errors.
  private static let mostEarly = 64 << 20
  private var earlyBytes = 0

  /// Starts the processes, before this one is confined, and waits until one of them can work.
  package init(_ options: Options, on loop: EventLoop, log: Logger) throws(Failure) {
    self.log = log
    node = options.starter.node
    do throws(Errno) {
      lives = try RendererLives(
        options.starter, patience: options.patience, on: loop, log: log)
    } catch { throw Failure(description: "\(options.starter.program): \(error)") }
    pictures = ShownPictures(lives, files, on: loop)
    files.onUnsealed = {
      log.warning(
        """
        the guest's memory is not sealed against becoming smaller: a guest that takes its renderer \
        over could end its QEMU (SIGBUS); memory-backend-memfd seals it, memory-backend-file cannot
        """)
    }
    pictures.takeMemory = { [unowned self] in client?.hostMemory($0) }
    pictures.hasTwins = options.exports && node != nil
    pictures.onFlaw = {
      log.warning(
        """
        the renderer exports a picture that nobody can import: \($0); pictures like it are shown \
        from host memory
        """)
    }
    let reason: String?
    do throws(Errno) { reason = try lives.waitForFirst() } catch { reason = "\(error)" }
    guard let greeting = lives.greeting, reason == nil else {
      throw Failure(description: reason ?? "the renderer says nothing")
    }
    isRecent = greeting.isRecent
    capsets = greeting.capsets.map { Capset(id: $0.id, maxVersion: $0.version, data: $0.data) }
    lives.onDeath = { [unowned self] in died($0) }
  }

  /// A renderer is there, or coming: what it is asked is kept for it.
  public var isAlive: Bool { lives.isAlive }
  /// How many renderers have died.
  package var deaths: UInt64 { lives.deaths }
  /// The present renderer's process id, 0 while there is none.
  package var pid: UInt32 { lives.pid }

  /// What consumers may still have, and no output shows.
  public func giveMemoryBack() -> Bool { pictures.giveMemoryBack() }

  /// Lets the renderer go and begins with a new one.
  public func reset() {
    forget()
    lives.begin()
  }

  private func died(_ why: String) {
    forget()
    log.warning("the renderer is gone, and the guest's 3D with it: \(why)")
    client?.rendererDied(why)
  }

  private func forget() {
    files.forget()
    pictures.forget()
  }

  /// Sends what one operation needs.
  public func perform(
    _ operation: RenderOperation,
    _ done: @escaping (Result<RenderReply, RenderFailure>) -> Void
  ) {
    switch operation {
    case .createContext(let id, let capset, let name):
      ask(.createContext(id, capset: capset, name: name), done)
    case .destroyContext(let id): ask(.destroyContext(id), done)
    case .attach(let resource, let context):
      ask(.attach(context: context, resource: resource), done)
    case .detach(let resource, let context):
      ask(.detach(context: context, resource: resource), done)
    case .createResource(let id, let shape):
      pictures.created(id, format: shape.format)
      ask(.createResource(id, RenderShape(shape)), done)
    case .destroyResource(let id):
      pictures.destroyed(id)
      ask(.destroyResource(id), done)
      files.release(of: id, through: lives)
    case .attachBacking(let id, let ranges):
      let runs = files.runs(of: id, ranges, through: lives)
      ask(.attachBacking(id, runs)) { [unowned self] result in
        if case .failure(.refused) = result { files.release(of: id, through: lives) }
        done(result)
      }
    case .detachBacking(let id):
      ask(.detachBacking(id), done)
      files.release(of: id, through: lives)
    case .transfer(let transfer, let toHost):
      let transfer = RenderTransfer(transfer)
      ask(toHost ? .transferToHost(transfer) : .transferFromHost(transfer), done)
    case .submit(let context, let stream): submit(context, stream, done)
    case .fence: ask(.fence, done)
    case .show(let resource, let output, let crop, let damage):
      pictures.show(resource, output: output, crop: crop, damage: damage, done)
    case .readPixels(let resource, let width, let height):
      pictures.read(resource, width: width, height: height, done)
    }
  }

  private func ask(
    _ request: RenderRequest, _ done: @escaping (Result<RenderReply, RenderFailure>) -> Void
  ) {
    lives.send(request) { done($0.result) }
  }

  private func submit(
    _ context: UInt32, _ stream: CommandStream,
    _ done: @escaping (Result<RenderReply, RenderFailure>) -> Void
  ) {
    let count = stream.count
    if let link = lives.current {
      guard link.bytesWaiting + count <= Self.mostEarly else { return done(.failure(.refused)) }
      link.submit(context: context, count: count, filling: { Self.fill($0, from: stream) }) {
        done($0.result)
      }
      return
    }
    guard lives.isAlive else { return done(.failure(.lost)) }
    guard earlyBytes + count <= Self.mostEarly else { return done(.failure(.refused)) }
    earlyBytes += count
    let bytes = [UInt8](unsafeUninitializedCapacity: count) { room, filled in
      Self.fill(UnsafeMutableRawBufferPointer(start: room.baseAddress, count: count), from: stream)
      filled = count
    }
    lives.ask { [unowned self] link in
      earlyBytes -= count
      guard let link else { return done(.failure(.lost)) }
      link.submit(context: context, count: count, filling: { $0.copyBytes(from: bytes) }) {
        done($0.result)
      }
    }
  }

  /// Zeros, which are commands that do nothing, where the guest's buffer is shorter than it says.
  private static func fill(_ room: UnsafeMutableRawBufferPointer, from stream: CommandStream) {
    let copied = stream.copy(into: room)
    guard copied < room.count else { return }
    UnsafeMutableRawBufferPointer(rebasing: room[copied...])
      .initializeMemory(as: UInt8.self, repeating: 0)
  }
}

extension RenderOutcome {
  /// What the device makes of it.
  var result: Result<RenderReply, RenderFailure> {
    switch self {
    case .done: .success(.done)
    case .refused: .failure(.refused)
    case .lost: .failure(.lost)
    }
  }
}

extension RenderShape {
  fileprivate init(_ s: ResourceShape) {
    self.init(
      target: s.target, format: s.format, bind: s.bind, width: s.width, height: s.height,
      depth: s.depth, arraySize: s.arraySize, lastLevel: s.lastLevel, samples: s.samples,
      flags: s.flags)
  }
}

extension RenderTransfer {
  fileprivate init(_ t: Transfer3D) {
    let b = t.box
    self.init(
      context: t.context, resource: t.resource, level: t.level, stride: t.stride,
      layerStride: t.layerStride, offset: t.offset,
      box: RenderBox(x: b.x, y: b.y, z: b.z, width: b.width, height: b.height, depth: b.depth))
  }
}
