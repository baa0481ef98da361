extension CursorState {
  /// A cursor at the origin of an output, without an image.
  package init(hiddenOn output: Int) {
    self.init(output: output, x: 0, y: 0, hotX: 0, hotY: 0, image: nil)
  }
}
