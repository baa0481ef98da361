import Glibc
import Linux
import PinholeFrames
import Pixels
import RFB

/// What an output shows: the newest frame where it lies, or what was kept of the last one.
final class Screen: RFBPicture {
  private(set) var width = 640
  private(set) var height = 480
  private var shown: (buffer: ReceivedBuffer, crop: Rect)?
  /// The last picture, when its buffer is gone.
  private var kept: (area: Area, colours: [UInt32])?

  /// Another size, or nothing: black until the next frame. Without one the last size stays.
  func resize(to size: (width: UInt32, height: UInt32)?) {
    if let size {
      width = Int(min(size.width, 65535))
      height = Int(min(size.height, 65535))
    }
    blank()
  }

  /// Black.
  func blank() {
    shown = nil
    kept = nil
  }

  /// Another frame.
  func show(_ buffer: ReceivedBuffer, _ crop: Rect) {
    shown = (buffer, crop)
    kept = nil
  }

  /// Whether the picture lies in this buffer.
  func shows(_ name: BufferName) -> Bool { shown?.buffer.name == name }

  /// Takes a copy of what is shown, if it lies in this buffer.
  func keep(_ name: BufferName) {
    guard shows(name) else { return }
    let area = Area(width: width, height: height)
    var colours: [UInt32] = []
    read(area, into: &colours)
    shown = nil
    kept = (area, colours)
  }

  func read(_ area: Area, into colours: inout [UInt32]) {
    if let shown, read(shown.buffer, shown.crop, area, &colours) { return }
    colours.removeAll(keepingCapacity: true)
    colours.append(contentsOf: repeatElement(0, count: area.count))
    guard let kept else { return }
    let inside = area.intersection(kept.area)
    for y in inside.y..<inside.bottom {
      let from = y * kept.area.width + inside.x
      let to = (y - area.y) * area.width + inside.x - area.x
      colours.replaceSubrange(
        to..<to + inside.width, with: kept.colours[from..<from + inside.width])
    }
  }

  /// - Returns: false if the frame cannot be read.
  private func read(
    _ buffer: ReceivedBuffer, _ crop: Rect, _ area: Area, _ colours: inout [UInt32]
  ) -> Bool {
    let inside = area.intersection(Area(width: Int(crop.width), height: Int(crop.height)))
    // A viewer that does not follow a new size asks for what is not there.
    guard inside == area, !area.isEmpty else {
      guard !inside.isEmpty else { return false }
      var part: [UInt32] = []
      guard read(buffer, crop, inside, &part) else { return false }
      colours = [UInt32](repeating: 0, count: area.count)
      for y in 0..<inside.height {
        let to = (inside.y + y - area.y) * area.width + inside.x - area.x
        colours.replaceSubrange(
          to..<to + inside.width, with: part[y * inside.width..<(y + 1) * inside.width])
      }
      return true
    }
    let rect = Rect(
      x: crop.x + UInt32(area.x), y: crop.y + UInt32(area.y), width: UInt32(area.width),
      height: UInt32(area.height))
    do throws(FramesError) {
      try buffer.read(colours: &colours, of: rect)
      return true
    } catch { return false }
  }
}
