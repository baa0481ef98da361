/// What a viewer looks at.
public protocol RFBPicture: AnyObject {
  /// Pixels across, at most 65535.
  var width: Int { get }
  /// Pixels down, at most 65535.
  var height: Int { get }
  /// Replaces `colours` by those of a rectangle, 0x00RRGGBB, rows from the top. What lies outside
  /// of the picture is black.
  func read(_ area: Area, into colours: inout [UInt32])
}

/// What a viewer does with keyboard and pointer.
public enum RFBInput: Equatable, Sendable {
  /// A key, by its XT scan code if the viewer knows it (0x80 is set for those behind 0xE0), and
  /// its X11 keysym.
  case key(scanCode: UInt32?, keysym: UInt32, isDown: Bool)
  /// The pointer's place in a desktop of this size, and its buttons: left, middle, right, wheel
  /// up, down, left, right, back, from bit 0.
  case pointer(x: Int, y: Int, width: Int, height: Int, buttons: UInt8)
}

/// One viewer, without its socket: bytes come in, bytes go out.
///
/// An update is made piece by piece, each of at most ``pieceLimit`` pixels, when the last one has
/// been sent: a viewer costs little memory, however slow it is, and others get their turn.
public final class RFBSession {
  /// Pixels of a piece at most.
  public static let pieceLimit = 1 << 17

  /// What goes out: append to it nowhere else, take from it with ``sent(_:)``.
  public private(set) var outgoing: [UInt8] = []
  /// Bytes of ``outgoing`` that have gone out.
  public private(set) var sentCount = 0
  /// Past the handshake.
  public private(set) var isGreeted = false
  /// It made its choice badly and has been told: close when ``outgoing`` is out.
  public private(set) var isRefused = false
  /// Updates that were begun.
  public private(set) var updates: UInt64 = 0
  /// What is new for the viewer.
  public private(set) var dirty = Region()

  private let picture: any RFBPicture
  private let name: String
  private var parser = ClientParser()
  private var speaks = RFBVersion.v3_8
  /// The size that the viewer knows.
  private var size = Area(width: 0, height: 0)
  private var request: Area?
  /// What of the present update is still to be encoded.
  private var queue: [Area] = []
  /// What was sent other than exactly.
  private var inexact = Region()
  private var staysExact = false
  /// As the viewer has said, and as the present update has it.
  private var wanted = Wishes()
  private var wishes = Wishes()
  private var cursor: CursorImage?
  private var cursorPlace = (x: 0, y: 0)
  private var cursorIsNews = false
  private var keysAreNews = false
  private var sizeIsAsked = false
  private var deniedResizes = 0
  private var zrle = ZRLEEncoder()
  private var tight = TightEncoder()
  private var colours: [UInt32] = []

  /// What SetPixelFormat and SetEncodings said.
  private struct Wishes: Equatable {
    var pixels = ClientPixels.native
    var encoding: Int32 = 0
    var level = 1
    var quality: Int?
    var resizes = false
    var resizesExtended = false
    var cursor = false
    var cursorWithAlpha = false
    var keys = false

    init() {}

    /// The first of the list that is known counts.
    mutating func take(_ encodings: [Int32]) {
      self = Wishes(pixels)
      let known: [Int32] = [0, TightEncoder.number, ZRLEEncoder.number]
      encoding = encodings.first { known.contains($0) } ?? 0
      for number in encodings {
        switch number {
        case PseudoEncoding.qualities:
          quality = Int(number - PseudoEncoding.qualities.lowerBound)
        case PseudoEncoding.levels: level = Int(number - PseudoEncoding.levels.lowerBound)
        case PseudoEncoding.desktopSize: resizes = true
        case PseudoEncoding.extendedDesktopSize: resizesExtended = true
        case PseudoEncoding.cursor: cursor = true
        case PseudoEncoding.cursorWithAlpha: cursorWithAlpha = true
        case PseudoEncoding.qemuKeys: keys = true
        default: break
        }
      }
    }

    private init(_ pixels: ClientPixels) { self.pixels = pixels }

    var drawsCursor: Bool { cursor || cursorWithAlpha }
  }

  /// A viewer that has just connected.
  ///
  /// - Parameters:
  ///   - name: the desktop's name.
  ///   - picture: what it looks at.
  public init(name: String, picture: any RFBPicture) {
    self.name = name
    self.picture = picture
    outgoing += "RFB 003.008\n".utf8
  }

  // MARK: Bytes

  /// Takes what the viewer sent.
  ///
  /// - Returns: what it did with keyboard and pointer.
  /// - Throws: ``RFBError``: it is to be disconnected.
  public func receive(_ bytes: Span<UInt8>) throws(RFBError) -> [RFBInput] {
    guard !isRefused else { return [] }
    parser.feed(bytes)
    var inputs: [RFBInput] = []
    while !isRefused, let message = try parser.message() {
      if let input = try take(message) { inputs.append(input) }
    }
    return inputs
  }

  /// So many bytes of ``outgoing`` have gone out.
  public func sent(_ count: Int) {
    sentCount += min(max(count, 0), outgoing.count - sentCount)
    guard sentCount == outgoing.count else { return }
    // A large piece is not kept for a viewer that looks at a still picture.
    outgoing.removeAll(keepingCapacity: outgoing.capacity <= 1 << 16)
    sentCount = 0
  }

  /// There are bytes to be sent.
  public var hasOutgoing: Bool { sentCount < outgoing.count }

  // MARK: What is new

  /// Some of the picture is new.
  public func damaged(_ area: Area) {
    dirty.add(area.intersection(bounds))
  }

  /// The picture has another size, or another content altogether.
  public func replaced() { dirty.add(bounds) }

  /// Another cursor, nil for none.
  public func show(cursor image: CursorImage?, x: Int, y: Int) {
    damageCursor()
    if image != cursor {
      cursor = image
      cursorIsNews = true
    }
    cursorPlace = (x, y)
    damageCursor()
  }

  /// Sends again, exactly, what was sent otherwise: for times when nothing else is new.
  public func refine() {
    guard !inexact.isEmpty, dirty.isEmpty, queue.isEmpty else { return }
    for area in inexact.areas { dirty.add(area) }
    inexact = Region()
    staysExact = true
  }

  /// It waits for something new.
  public var isHungry: Bool {
    isGreeted && request != nil && queue.isEmpty && !hasOutgoing && !hasNews
  }

  /// An update has begun that is not out.
  public var isBusy: Bool { hasOutgoing || !queue.isEmpty }

  /// There is something new that it has not asked for.
  public var isBehind: Bool { isGreeted && request == nil && !dirty.isEmpty }

  /// ``produce()`` has something to do.
  public var hasWork: Bool { isGreeted && !hasOutgoing && (!queue.isEmpty || hasNews) }

  /// The size that the viewer was told or will be told, and what is outside of it.
  private var bounds: Area {
    wanted.resizes || wanted.resizesExtended
      ? Area(width: picture.width, height: picture.height) : size
  }

  private func damageCursor() {
    guard let cursor, !wanted.drawsCursor else { return }
    dirty.add(cursor.area(x: cursorPlace.x, y: cursorPlace.y).intersection(bounds))
  }

  private var sizeIsNews: Bool {
    (wanted.resizes || wanted.resizesExtended)
      && (size.width != picture.width || size.height != picture.height)
  }

  private var hasNews: Bool {
    if deniedResizes > 0 { return true }
    guard let request else { return false }
    return sizeIsNews || sizeIsAsked || keysAreNews || (cursorIsNews && wanted.drawsCursor)
      || !dirty.intersection(request).isEmpty
  }

  // MARK: Messages

  private func take(_ message: ClientMessage) throws(RFBError) -> RFBInput? {
    switch message {
    case .version(let version):
      speaks = version
      // Security None (1), of the server's choice or as the only one offered.
      if version == .v3_3 { outgoing.put(UInt32(1)) } else { outgoing += [1, 1] }
    case .security(let type): choose(type)
    case .start: start()
    case .pixels(let format): wanted.pixels = format
    case .encodings(let list): take(list)
    case .request(let area, let isIncremental):
      let area = area.intersection(bounds)
      request = request?.union(area) ?? area
      if !isIncremental {
        dirty.add(area)
        sizeIsAsked = wanted.resizesExtended
      }
    case .key(let keysym, let isDown):
      return .key(scanCode: nil, keysym: keysym, isDown: isDown)
    case .scanCode(let code, let keysym, let isDown):
      return .key(scanCode: code == 0 ? nil : code, keysym: keysym, isDown: isDown)
    case .pointer(let x, let y, let buttons):
      guard !size.isEmpty else { return nil }
      return .pointer(
        x: min(Int(x), size.width - 1), y: min(Int(y), size.height - 1), width: size.width,
        height: size.height, buttons: buttons)
    case .resize: deniedResizes = min(deniedResizes + 1, 16)
    }
    return nil
  }

  private func choose(_ type: UInt8) {
    guard type != 1 else {
      if speaks == .v3_8 { outgoing.put(UInt32(0)) }
      return
    }
    isRefused = true
    guard speaks == .v3_8 else { return }
    let reason = "security type \(type) was not offered"
    outgoing.put(UInt32(1))
    outgoing.put(UInt32(reason.utf8.count))
    outgoing += reason.utf8
  }

  private func start() {
    size = Area(width: picture.width, height: picture.height)
    outgoing.put16(size.width)
    outgoing.put16(size.height)
    outgoing += ClientPixels.native.field
    outgoing.put(UInt32(name.utf8.count))
    outgoing += name.utf8
    isGreeted = true
    replaced()
  }

  private func take(_ encodings: [Int32]) {
    let old = wanted
    wanted.take(encodings)
    keysAreNews = keysAreNews || (wanted.keys && !old.keys)
    cursorIsNews = cursorIsNews || (wanted.drawsCursor && !old.drawsCursor && cursor != nil)
    sizeIsAsked = sizeIsAsked || (wanted.resizesExtended && !old.resizesExtended)
    // Who draws the cursor from now on has it in its picture, or lacks it there.
    if let cursor, wanted.drawsCursor != old.drawsCursor {
      dirty.add(cursor.area(x: cursorPlace.x, y: cursorPlace.y).intersection(bounds))
    }
    if bounds != size { dirty.add(bounds) }
  }

  // MARK: Updates

  /// Makes the next piece of what goes out, if there is anything.
  ///
  /// - Throws: ``RFBError`` when there is no memory for it.
  public func produce() throws(RFBError) {
    guard hasWork else { return }
    if queue.isEmpty { begin() }
    guard let area = queue.popLast() else { return }
    picture.read(area, into: &colours)
    if let cursor, !wishes.drawsCursor {
      cursor.draw(x: cursorPlace.x, y: cursorPlace.y, over: area, &colours)
    }
    outgoing.put(area, encoding: wishes.encoding)
    switch wishes.encoding {
    case ZRLEEncoder.number:
      try zrle.encode(
        colours, width: area.width, height: area.height, as: wishes.pixels, level: wishes.level,
        to: &outgoing)
    case TightEncoder.number:
      let isExact = try tight.encode(
        colours, width: area.width, height: area.height, as: wishes.pixels, level: wishes.level,
        quality: staysExact ? nil : wishes.quality, to: &outgoing)
      if isExact { inexact.remove(area) } else { inexact.add(area) }
    default: wishes.pixels.append(colours.span, to: &outgoing)
    }
    if queue.isEmpty { staysExact = false }
  }

  private func begin() {
    if wishes.pixels != wanted.pixels, wanted.pixels.isMapped { appendMap() }
    wishes = wanted
    updates &+= 1
    outgoing += [0, 0]
    if request != nil, sizeIsNews {
      // Nothing else may follow in this update: the viewer starts anew.
      size = Area(width: picture.width, height: picture.height)
      outgoing.put(UInt16(1))
      appendSize(reason: 0, status: 0)
      sizeIsAsked = false
      request = nil
      dirty = Region()
      inexact = Region()
      dirty.add(size)
      return
    }
    let count = outgoing.count
    outgoing.put(UInt16(0))
    var rectangles = 0
    while deniedResizes > 0 {
      deniedResizes -= 1
      rectangles += 1
      appendSize(reason: 1, status: 1)
    }
    if let request {
      rectangles += appendNews()
      queue = dirty.intersection(request).flatMap { Self.pieces(of: $0, wishes.encoding) }
      dirty.remove(request)
      // Their number has 16 bits; the others' turn comes with the next request.
      while queue.count > 60_000, let area = queue.popLast() { dirty.add(area) }
      queue.reverse()
      self.request = nil
      rectangles += queue.count
    }
    outgoing[count] = UInt8(truncatingIfNeeded: rectangles >> 8)
    outgoing[count + 1] = UInt8(truncatingIfNeeded: rectangles)
  }

  /// - Returns: how many rectangles.
  private func appendNews() -> Int {
    var count = 0
    if sizeIsAsked, wishes.resizesExtended {
      appendSize(reason: 0, status: 0)
      count += 1
    }
    sizeIsAsked = false
    if keysAreNews, wishes.keys {
      outgoing.put(Area(width: 0, height: 0), encoding: PseudoEncoding.qemuKeys)
      count += 1
    }
    keysAreNews = false
    if cursorIsNews, wishes.drawsCursor {
      if let cursor {
        if wishes.cursorWithAlpha {
          cursor.appendWithAlpha(to: &outgoing)
        } else {
          cursor.append(as: wishes.pixels, to: &outgoing)
        }
      } else {
        CursorImage.appendNone(withAlpha: wishes.cursorWithAlpha, to: &outgoing)
      }
      count += 1
    }
    cursorIsNews = false
    return count
  }

  private func appendSize(reason: Int, status: Int) {
    guard wishes.resizesExtended else {
      return outgoing.put(size, encoding: PseudoEncoding.desktopSize)
    }
    outgoing.put(
      Area(x: reason, y: status, width: size.width, height: size.height),
      encoding: PseudoEncoding.extendedDesktopSize)
    // One screen, number 0, that is all of the desktop; no flags.
    outgoing += [1, 0, 0, 0]
    outgoing.put(UInt32(0))
    outgoing += [0, 0, 0, 0]
    outgoing.put16(size.width)
    outgoing.put16(size.height)
    outgoing.put(UInt32(0))
  }

  private func appendMap() {
    outgoing += [1, 0, 0, 0, 1, 0]
    for value in wanted.pixels.map { outgoing.put(value) }
  }

  /// Cuts a rectangle so that each piece stays small, and its zlib data too; for Tight in
  /// squares, each of which is a palette or a photo by itself.
  private static func pieces(of area: Area, _ encoding: Int32) -> [Area] {
    let isTight = encoding == TightEncoder.number
    let (width, height) = isTight ? (256, 256) : (2048, 64)
    var pieces: [Area] = []
    for y in stride(from: area.y, to: area.bottom, by: height) {
      for x in stride(from: area.x, to: area.right, by: width) {
        pieces.append(
          area.intersection(Area(x: x, y: y, width: width, height: height)))
      }
    }
    return pieces
  }
}
