import Buffers
import Pixels
import Scene

/// One output of the device and what it shows.
final class Scanout {
  let index: Int
  /// What it shows; survives the guest's UNREF until the guest shows something else.
  private(set) var resource: Resource?
  /// The part of the resource that it shows.
  private(set) var rect = Rect(x: 0, y: 0, width: 0, height: 0)
  var policy = ScanoutPolicy()
  /// Shows something else since its last frame: whatever the guest says changed, all of it did.
  var isNew = false
  /// Whether anything was flushed since the guest set it.
  var hasPicture = false
  /// What the renderer shows on it.
  var rendering = RenderedOutput()
  var cursor: CursorState
  /// The image of a cursor that the guest has hidden.
  var hiddenCursor: CursorImage?

  init(index: Int) {
    self.index = index
    cursor = CursorState(output: index, x: 0, y: 0, hotX: 0, hotY: 0, image: nil)
  }

  /// The whole output, as damage.
  var everything: Rect { Rect(x: 0, y: 0, width: rect.width, height: rect.height) }

  /// Shows a part of a resource, or nothing; true if the size of the output changed.
  func show(_ new: Resource?, _ part: Rect) -> Bool {
    let resized =
      (new == nil) != (resource == nil) || part.width != rect.width
      || part.height != rect.height
    resource?.scanouts -= 1
    new?.scanouts += 1
    if resource !== new {
      hasPicture = hasPicture && new != nil
      // What no output shows can be written into.
      if let resource, resource.scanouts == 0 { resource.snapshots.hide() }
    }
    if resource !== new || part != rect {
      isNew = true
      rendering.leave(isOver: resized || new?.shape == nil)
    }
    resource = new
    rect = part
    if new == nil { hasPicture = false }
    return resized
  }
}
