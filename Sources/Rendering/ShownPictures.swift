import Buffers
import Glibc
import Linux
import Pixels
import RenderWire
import VirtioGPU

/// Copies what outputs show out of the renderer, into buffers that nobody draws into: a guest may
/// go on drawing into its own picture at once.
final class ShownPictures {
  private typealias Done = (Result<RenderReply, RenderFailure>) -> Void

  /// A picture in shared memory, written by the renderer and read by all others.
  private final class Picture {
    let host: HostBuffer
    let memory: SharedPixels
    /// The renderer's number of its memory.
    let file: UInt32
    /// What changed on screen since it was drawn last; nil for nothing.
    var stale: Rect?
    var isBusy = false
    /// The renderer was asked for a twin of it.
    var hasTwin = false
    /// Nobody looks at it, nor draws it.
    var isFree: Bool { !isBusy && !host.hasReaders }

    init(_ host: HostBuffer, in memory: SharedPixels, file: UInt32) {
      self.host = host
      self.memory = memory
      self.file = file
      stale = Rect(x: 0, y: 0, width: host.width, height: host.height)
    }
  }

  private struct Waiting {
    let resource: UInt32
    let crop: Rect
    let done: Done
  }

  private final class Output {
    private(set) var pictures: [Picture] = []
    var size: (width: UInt32, height: UInt32) = (0, 0)
    var fourcc = FourCC.xrgb8888
    var resource: UInt32 = 0
    /// Shows for which no picture was free.
    var waiting: [Waiting] = []

    func add(_ picture: Picture) { pictures.append(picture) }

    /// The pictures that there are will not be drawn again.
    func retirePictures() -> [Picture] {
      for picture in pictures { picture.host.isRetired = true }
      defer { pictures = [] }
      return pictures
    }
  }

  /// Two take turns; the others are made when consumers hold those.
  private static let mostPictures = 6
  /// As `GPUDevice`'s largest picture.
  private static let largestSide: UInt32 = 16384
  private static let largestCursor: UInt32 = 512
  /// Bytes of which strides are multiples.
  private static let strideUnit: UInt32 = 256

  private let lives: RendererLives
  private let files: RenderFiles
  private var outputs: [Int: Output] = [:]
  private var formats: [UInt32: UInt32] = [:]
  private var lastID: UInt64 = 0
  /// Pictures of which consumers got the memfd itself: others are drawn in the same memory, which
  /// stays paid for, since whoever keeps it cannot be told from who does not.
  private var spares: [(picture: Picture, since: UInt64)] = []
  /// The same of renderers that are gone: no other can write to it.
  private var outlived: [SharedPixels] = []
  /// Nanoseconds before a spare is used: consumers may show the old picture until they get the next.
  private static let rest: UInt64 = 100_000_000
  /// Pays for pictures; nil where there is no memory for one.
  var takeMemory: (UInt64) -> AnyObject? = { _ in nil }
  /// Whether pictures get twins in the GPU's memory, where the renderer makes some.
  var hasTwins = false
  /// A renderer made a twin that nobody can be given; once for each renderer.
  var onFlaw: (HostExport.Flaw) -> Void = { _ in }
  private var isFlawKnown = false

  init(_ lives: RendererLives, _ files: RenderFiles, on loop: EventLoop) {
    self.lives = lives
    self.files = files
    loop.everyTurn { [weak self] in self?.serveWaiting() }
  }

  func created(_ resource: UInt32, format: UInt32) { formats[resource] = format }
  func destroyed(_ resource: UInt32) { formats[resource] = nil }

  /// There is a new renderer. Pictures that somebody looks at stay as they are.
  func forget() {
    let lost = outputs.values.flatMap(\.waiting)
    let retired = outputs.values.flatMap { $0.retirePictures() } + spares.map(\.picture)
    outlived += retired.filter(\.host.isGivenAway).map(\.memory)
    spares = []
    outputs = [:]
    formats = [:]
    isFlawKnown = false
    for show in lost { show.done(.failure(.lost)) }
  }

  // MARK: Showing

  /// Copies a part of a resource into a free picture of an output.
  ///
  /// - Parameter damage: relative to `crop`.
  func show(
    _ resource: UInt32, output index: Int, crop: Rect, damage: Rect,
    _ done: @escaping (Result<RenderReply, RenderFailure>) -> Void
  ) {
    guard lives.isAlive else { return done(.failure(.lost)) }
    guard crop.width > 0, crop.height > 0, crop.width <= Self.largestSide,
      crop.height <= Self.largestSide,
      let format = formats[resource].flatMap(PixelFormat.init(rawValue:))
    else { return done(.failure(.refused)) }
    let output = outputs[index] ?? Output()
    outputs[index] = output
    if output.size != (crop.width, crop.height) || output.fourcc != format.fourcc {
      for picture in output.retirePictures() { retire(picture) }
      output.size = (crop.width, crop.height)
      output.fourcc = format.fourcc
    }
    let all = Rect(x: 0, y: 0, width: crop.width, height: crop.height)
    let changed = resource == output.resource ? damage.intersection(all) : all
    output.resource = resource
    if let changed {
      for picture in output.pictures {
        picture.stale = picture.stale.map { $0.union(changed) } ?? changed
      }
    }
    output.waiting.append(Waiting(resource: resource, crop: crop, done: done))
    serve(output)
  }

  private func serveWaiting() {
    for output in outputs.values where !output.waiting.isEmpty { serve(output) }
  }

  private func serve(_ output: Output) {
    while let show = output.waiting.first {
      let picture: Picture
      if let free = output.pictures.first(where: \.isFree) {
        picture = free
      } else if output.pictures.count < Self.mostPictures {
        guard let made = makePicture(output) else {
          // There is no memory for one more, but those that are held come back.
          if !output.pictures.isEmpty { return }
          output.waiting.removeFirst()
          show.done(.failure(.refused))
          continue
        }
        output.add(made)
        picture = made
      } else {
        return
      }
      output.waiting.removeFirst()
      draw(picture, show)
    }
  }

  private func draw(_ picture: Picture, _ show: Waiting) {
    picture.isBusy = true
    guard let stale = picture.stale else { return finish(picture, show) }
    picture.stale = nil
    let stride = picture.host.pixels.layout.stride
    let box = RenderBox(
      x: show.crop.x &+ stale.x, y: show.crop.y &+ stale.y, width: stale.width,
      height: stale.height)
    let offset = UInt64(stale.y) * UInt64(stride) + UInt64(stale.x) * 4
    let size = UInt64(stride) * UInt64(picture.host.height)
    let run = RenderRun(file: picture.file, offset: offset, count: size - offset)
    lives.send(.readBack(show.resource, box, run, stride: stride)) { [unowned self] outcome in
      guard outcome == .done else {
        picture.stale = Rect(x: 0, y: 0, width: picture.host.width, height: picture.host.height)
        picture.isBusy = false
        return show.done(outcome.result)
      }
      finish(picture, show)
    }
  }

  private func finish(_ picture: Picture, _ show: Waiting) {
    let lock = HostLock { [weak picture] in picture?.isBusy = false }
    show.done(.success(.shown(HostFrame(buffer: picture.host, acquire: nil, lock: lock))))
  }

  private func makePicture(_ output: Output) -> Picture? {
    let (width, height) = output.size
    // As all GPUs import it.
    let stride = (width * 4 + Self.strideUnit - 1) / Self.strideUnit * Self.strideUnit
    let layout = PixelLayout(width: width, height: height, stride: stride, fourcc: output.fourcc)
    guard let (memory, file) = takeSpare(layout.size) ?? makeMemory(layout.size),
      let pixels = PixelSource(
        layout: layout, spans: [HostSpan(base: memory.base, count: memory.count)])
    else { return nil }
    lastID += 1
    let host = HostBuffer(
      id: lastID, width: width, height: height, fourcc: output.fourcc,
      planes: [HostBuffer.Plane(fd: memory.fd, offset: 0, stride: stride)], memory: .memfd,
      pixels: pixels, mapping: memory, charge: memory)
    let picture = Picture(host, in: memory, file: file)
    if hasTwins { makeTwin(of: picture, layout) }
    return picture
  }

  /// Asks for a dma-buf in the GPU's memory; what is read back goes there too. The answer comes
  /// before that of the first read-back, and so before the picture is shown for the first time.
  private func makeTwin(of picture: Picture, _ layout: PixelLayout) {
    guard let share = takeMemory(layout.size) else { return }
    picture.hasTwin = true
    let wanted = RenderPicture(
      width: layout.width, height: layout.height, stride: layout.stride,
      fourcc: layout.fourcc.rawValue)
    lives.export(picture.file, wanted) { [unowned self, weak picture] made in
      guard let picture, let made else { return }
      do throws(HostExport.Flaw) {
        picture.host.exported = try HostExport(
          made.fd, of: layout, stride: made.twin.stride, offset: made.twin.offset,
          modifier: made.twin.modifier, charge: share)
      } catch {
        guard !isFlawKnown else { return }
        isFlawKnown = true
        onFlaw(error)
      }
    }
  }

  // MARK: Memory

  private func retire(_ picture: Picture) {
    if picture.host.isGivenAway {
      // The next one in this memory has another twin, or none.
      if picture.hasTwin { letGo(of: picture, .dropExport(picture.file)) }
      spares.append((picture, Clock.now))
    } else {
      letGo(of: picture, .dropFile(picture.file))
    }
  }

  /// The renderer still has its own hold on a twin until it says that it does not: only then can
  /// others be told from it.
  private func letGo(of picture: Picture, _ request: RenderRequest) {
    let twin = picture.host.exported
    lives.send(request) { _ in withExtendedLifetime(twin) {} }
  }

  /// The smallest spare that is large enough and that nobody here has any more.
  private func takeSpare(_ need: UInt64) -> (SharedPixels, UInt32)? {
    let now = Clock.now
    let fits = spares.indices.filter { index in
      let (picture, since) = spares[index]
      return UInt64(picture.memory.count) >= need && picture.isFree && now &- since >= Self.rest
    }
    func size(_ index: Int) -> Int { spares[index].picture.memory.count }
    guard let best = fits.min(by: { size($0) < size($1) }) else { return nil }
    let spare = spares.remove(at: best)
    guard spare.picture.memory.pay(for: need, with: takeMemory) else {
      spares.append(spare)
      return nil
    }
    return (spare.picture.memory, spare.picture.file)
  }

  /// Gives up what lies idle, the oldest first: the guest needs the room.
  func giveMemoryBack() -> Bool {
    if !outlived.isEmpty {
      outlived.removeFirst()
      return true
    }
    guard let idle = spares.firstIndex(where: { $0.picture.isFree }) else { return false }
    lives.send(.dropFile(spares.remove(at: idle).picture.file)) { _ in }
    return true
  }

  private func makeMemory(_ need: UInt64) -> (SharedPixels, UInt32)? {
    // Pieces double in size, so that a guest whose outputs change their size uses few of them. What
    // is not needed of a piece takes no memory.
    var capacity = UInt64(pageSize)
    while capacity < need { capacity *= 2 }
    guard let memory = SharedPixels("pinhole-render-picture", bytes: capacity),
      memory.pay(for: need, with: takeMemory)
    else { return nil }
    let file = files.newID()
    // Not sealed against writing yet, which udmabuf would refuse: see BufferStore.offer.
    lives.send(.addFile(file, size: UInt64(memory.count)), gift: memory.fd) { _ in }
    return (memory, file)
  }

  // MARK: Reading

  /// Reads a resource's first rows, as `DRM_FORMAT_ARGB8888` whatever its own format.
  func read(
    _ resource: UInt32, width: UInt32, height: UInt32,
    _ done: @escaping (Result<RenderReply, RenderFailure>) -> Void
  ) {
    let bytes = UInt64(width) * UInt64(height) * 4
    guard width > 0, height > 0, width <= Self.largestCursor, height <= Self.largestCursor,
      let order = formats[resource].flatMap(PixelFormat.init(rawValue:)).flatMap({
        ByteOrder($0.fourcc)
      }), let memory = SharedPixels("pinhole-render-cursor", bytes: bytes)
    else { return done(.failure(.refused)) }
    let file = files.newID()
    lives.send(.addFile(file, size: UInt64(memory.count)), gift: memory.fd) { _ in }
    let run = RenderRun(file: file, offset: 0, count: bytes)
    let box = RenderBox(width: width, height: height)
    lives.send(.readBack(resource, box, run, stride: width * 4)) { outcome in
      guard outcome == .done else { return done(outcome.result) }
      var pixels = memory.bytes(Int(bytes))
      order.makeARGB8888(&pixels)
      done(.success(.pixels(pixels)))
    }
    lives.send(.dropFile(file)) { _ in }
  }
}

/// A memfd for pixels, mapped for reading.
private final class SharedPixels {
  let fd: SharedFD
  private let mapping: Mapping
  /// What it is paid with: most bytes that were needed of it at a time.
  private var shares: [AnyObject] = []
  private var paid: UInt64 = 0

  /// Nil where there is no memory for it.
  init?(_ name: String, bytes: UInt64) {
    guard let count = Int(exactly: bytes), count > 0 else { return nil }
    let whole = (count + pageSize - 1) / pageSize * pageSize
    do throws(Errno) {
      let file = try MemFD.create(name, size: whole, seals: [.shrink, .grow])
      mapping = try Mapping(fd: file.raw, offset: 0, count: whole, writable: false)
      fd = SharedFD(file)
    } catch { return nil }
  }

  /// Pays for so many bytes of it, as far as they are not paid for yet; false where it cannot.
  func pay(for need: UInt64, with take: (UInt64) -> AnyObject?) -> Bool {
    guard need > paid else { return true }
    guard let share = take(need - paid) else { return false }
    shares.append(share)
    paid = need
    return true
  }

  var base: UnsafeMutableRawPointer { mapping.base }
  var count: Int { mapping.count }

  func bytes(_ count: Int) -> [UInt8] { Array(mapping.bytes.prefix(count)) }
}
