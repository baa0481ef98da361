import Buffers
import GPUCommands
import Pixels

/// What a guest has in the renderer: its contexts, and what they may name.
struct RenderTables {
  /// One life of a context: its number may come again.
  private struct Context {
    let serial: UInt64
    var resources: Set<UInt32> = []
  }

  private var contexts: [UInt32: Context] = [:]
  private var lastSerial: UInt64 = 0
  /// Pays for resources, as far as the device can tell what they take.
  let memory: HostBudget
  /// Anything was asked of the renderer since the last reset.
  var isUsed = false

  init(memory bytes: UInt64) { memory = HostBudget(limit: bytes) }

  /// How many contexts there are.
  var count: Int { contexts.count }

  /// Whether there is such a context.
  func has(_ context: UInt32) -> Bool { contexts[context] != nil }

  /// Adds a context; what names this life of it.
  mutating func add(_ context: UInt32) -> UInt64 {
    lastSerial &+= 1
    contexts[context] = Context(serial: lastSerial)
    return lastSerial
  }

  mutating func remove(_ context: UInt32) { contexts[context] = nil }

  /// Removes a context unless there is a younger one of the same number.
  mutating func remove(_ context: UInt32, serial: UInt64) {
    if contexts[context]?.serial == serial { contexts[context] = nil }
  }

  /// False where it was attached already.
  mutating func attach(_ resource: UInt32, to context: UInt32) -> Bool {
    contexts[context]?.resources.insert(resource).inserted ?? false
  }

  /// False where it was not attached.
  mutating func detach(_ resource: UInt32, from context: UInt32) -> Bool {
    contexts[context]?.resources.remove(resource) != nil
  }

  /// A resource is gone.
  mutating func forget(_ resource: UInt32) {
    for context in contexts.keys { contexts[context]?.resources.remove(resource) }
  }

  /// All contexts are gone.
  mutating func removeAll() { contexts = [:] }
}

/// A cursor whose image has not come yet.
struct PendingCursor {
  let serial: UInt64
  let request: CursorRequest
  let resource: Resource
  /// The guest has hidden it meanwhile.
  var isHidden = false
}

/// A picture of the renderer's that was shown.
struct GivenPicture {
  /// Nil once nobody has it and it will not be drawn again: the guest pays for its memory.
  weak var buffer: HostBuffer?
  weak var lock: HostLock?
  /// Somebody may still look at it.
  var isHeld: Bool { buffer.map { lock != nil || $0.hasReaders } ?? false }
}

/// What the renderer shows on an output.
struct RenderedOutput {
  /// The newest picture.
  var frame: HostFrame?
  /// Buffers of this output that somebody may have imported.
  var offered: [HostBuffer] = []
  /// Pictures that were shown, as long as somebody has them.
  private var given: [GivenPicture] = []
  /// Pictures on their way; what changed since the last of them was asked for is `owed`.
  var asked = 0
  /// What is to be shown once one of them has come, relative to the output.
  var owed: Rect?
  /// What changed in pictures that did not come.
  var missed: Rect?
  /// No picture was asked for of what the output shows now: all of the next one is new.
  var isAllNew = true
  /// Another number each time that pictures on their way become useless: they have another size
  /// than the output, or it is off or shows what the guest draws itself.
  private(set) var life: UInt64 = 0
  /// The newest cursor, while its image is on its way.
  var cursor: PendingCursor?
  /// An image is being read, perhaps of an older cursor: one at a time, whatever the guest asks.
  var isReadingCursor = false

  /// Notes a picture that is about to be shown.
  mutating func give(_ new: HostFrame) {
    frame = new
    given.removeAll { !$0.isHeld || $0.buffer === new.buffer }
    given.append(GivenPicture(buffer: new.buffer, lock: new.lock))
  }

  /// How many pictures but the one on screen somebody has.
  var heldPictures: Int { given.count { $0.isHeld && $0.buffer !== frame?.buffer } }

  /// The output shows something else, or another part.
  ///
  /// - Parameter isOver: pictures that are on their way are of no use.
  mutating func leave(isOver: Bool) {
    frame = nil
    owed = nil
    missed = nil
    isAllNew = true
    if isOver { life &+= 1 }
  }
}

extension ResourceShape {
  /// `PIPE_BUFFER`.
  private static let buffer: UInt32 = 0
  /// `PIPE_TEXTURE_2D` and `PIPE_TEXTURE_RECT`.
  private static let flat: ClosedRange<UInt32> = 2...2
  /// Most bytes of a buffer.
  private static let largestBuffer: UInt32 = 256 << 20

  var isBuffer: Bool { target == Self.buffer }

  /// The format of one that an output can show; nil for others. virgl and virtio number these
  /// formats alike.
  var shownAs: FourCC? {
    guard target == 2 || target == 5, samples <= 1 else { return nil }
    return PixelFormat(rawValue: format)?.fourcc
  }

  /// Whether the numbers make sense, whatever the renderer thinks of them.
  ///
  /// - Parameter limit: pixels in either direction.
  func isSound(limit: UInt32) -> Bool {
    // `enum pipe_texture_target` ends with PIPE_TEXTURE_CUBE_ARRAY.
    // Mesa's buffers for results of queries have no layers.
    guard target <= 8, width > 0, height > 0, depth > 0, lastLevel <= 15, samples <= 32
    else { return false }
    if isBuffer {
      return width <= Self.largestBuffer && height == 1 && depth == 1 && arraySize <= 1
        && lastLevel == 0 && samples <= 1
    }
    return width <= limit && height <= limit && depth <= 2048 && arraySize <= 2048
  }

  /// About how many bytes it takes in the renderer; only for sound ones.
  var reckonedSize: UInt64 {
    let pixels = UInt64(width) * UInt64(height) * UInt64(depth) * UInt64(max(1, arraySize))
    guard !isBuffer else { return pixels }
    let (samples, sides) = (UInt64(max(1, samples)), UInt64(target == 4 && arraySize < 6 ? 6 : 1))
    let (bytes, overflow) = pixels.multipliedReportingOverflow(by: bytesPerPixel * samples * sides)
    guard !overflow else { return .max }
    return lastLevel > 0 ? bytes / 3 * 4 : bytes
  }

  /// Bytes of a pixel of the formats that `virgl_hw.h` lists; of others as many as any has.
  private var bytesPerPixel: UInt64 {
    switch format {
    case 1...4, 8, 17...22, 67, 68, 121, 134: 4
    case 5...7, 12, 13, 16: 2
    case 9, 10, 23, 64: 1
    default: 16
    }
  }

  /// Whether a box lies in a mipmap level.
  func holds(_ box: Box, level: UInt32) -> Bool {
    guard level <= lastLevel, level < 32 else { return false }
    func inside(_ start: UInt32, _ count: UInt32, _ limit: UInt32) -> Bool {
      UInt64(start) + UInt64(count) <= UInt64(limit)
    }
    func minified(_ side: UInt32) -> UInt32 { max(1, side >> level) }
    let layers = target == 3 ? minified(depth) : max(1, arraySize, target == 4 ? 6 : 1)
    return inside(box.x, box.width, minified(width))
      && inside(box.y, box.height, isBuffer ? 1 : minified(height))
      && inside(box.z, box.depth, layers)
  }
}

extension Transfer2D {
  /// The same in the words of TRANSFER_TO_HOST_3D, in nobody's name.
  var in3D: GPUCommand {
    var transfer = Transfer3D()
    transfer.resource = resource
    transfer.offset = offset
    transfer.box.x = rect.x
    transfer.box.y = rect.y
    transfer.box.width = rect.width
    transfer.box.height = rect.height
    transfer.box.depth = 1
    return .transfer3D(transfer, toHost: true)
  }
}
