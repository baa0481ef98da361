/// How large a picture may be in its window.
///
/// A window that floats is as large as its picture. xdg-shell has a compositor end the connection of
/// one that is maximized and not of the size it was told, or that has all of the screen and is
/// larger than it.
enum Fit: Equatable {
  /// As large as it is.
  case free
  /// At most so large, in pixels of the surface: all of the screen.
  case within(width: UInt32, height: UInt32)
  /// Exactly so large: maximized, or beside others.
  case exactly(width: UInt32, height: UInt32)

  /// The size in the window of a picture that can be scaled: whole, and as wide for its height as it
  /// is where that is permitted.
  func size(width: UInt32, height: UInt32) -> (width: UInt32, height: UInt32) {
    switch self {
    case .free: return (width, height)
    case .exactly(let across, let down): return (across, down)
    case .within(let across, let down):
      guard width > across || height > down, width > 0, height > 0 else { return (width, height) }
      // width : height as before, with one of them at its limit.
      if UInt64(width) * UInt64(down) > UInt64(height) * UInt64(across) {
        let scaled = UInt64(height) * UInt64(across) / UInt64(width)
        return (across, UInt32(clamping: max(1, scaled)))
      }
      let scaled = UInt64(width) * UInt64(down) / UInt64(height)
      return (UInt32(clamping: max(1, scaled)), down)
    }
  }

  /// The part of a picture that is the window where nothing can be scaled: what is beyond it is not
  /// shown.
  func cut(width: UInt32, height: UInt32) -> (width: UInt32, height: UInt32) {
    switch self {
    case .free: (width, height)
    case .exactly(let across, let down), .within(let across, let down):
      (min(width, across), min(height, down))
    }
  }
}
