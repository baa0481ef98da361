import Glibc

/// Compares what a consumer sees with what the guest has, byte by byte.
struct StormCheck {
  let scene: StormScene
  let drawing: StormScene.Drawing

  /// A byte that cannot be the guest's; the page has its number in the storm's control.
  struct Stale {
    let page: Int
    let index: Int
    let word: UInt64
  }

  /// Compares a piece of the picture that was shown after the guest's flush.
  ///
  /// A page that nobody has discarded since the guest drew must be the guest's, whatever is in
  /// it. In one that is being discarded a word may be what the guest drew in this frame, zero, or
  /// what was written into the new page.
  func firstStale(_ shown: UnsafeRawPointer, at offset: Int, count: Int) -> Stale? {
    if memcmp(shown, scene.base + offset, count) == 0 { return nil }
    return firstInPages(shown, offset, count) { piece, place, length, page in
      if memcmp(piece, scene.base + place, length) == 0 { return nil }
      // Asked after the comparison: still settled now means settled all the time.
      if scene.isSettled(page) { return firstDifference(piece, place, length, page) }
      return firstOld(piece, place, length, page, drawing.frame, drawing.refills)
    }
  }

  /// Judges a frame that may have been sent before the guest's last flush: nothing in it may be
  /// older than the frame before.
  func firstOlder(_ shown: UnsafeRawPointer, at offset: Int, count: Int) -> Stale? {
    firstInPages(shown, offset, count) { piece, place, length, page in
      firstOld(piece, place, length, page, max(drawing.frame, 2) - 1, drawing.refillsBefore)
    }
  }

  private func firstInPages(
    _ shown: UnsafeRawPointer, _ offset: Int, _ count: Int,
    _ body: (UnsafeRawPointer, _ place: Int, _ length: Int, _ page: Int) -> Stale?
  ) -> Stale? {
    var done = 0
    while done < count {
      let place = offset + done
      let length = min(4096 - place % 4096, count - done)
      if let stale = body(shown + done, place, length, place / 4096) { return stale }
      done += length
    }
    return nil
  }

  private func firstDifference(
    _ piece: UnsafeRawPointer, _ place: Int, _ length: Int, _ page: Int
  ) -> Stale? {
    for at in Swift.stride(from: 0, to: length, by: 8) {
      let word = piece.loadUnaligned(fromByteOffset: at, as: UInt64.self)
      if word != scene.base.load(fromByteOffset: place + at, as: UInt64.self) {
        return Stale(page: scene.first + page, index: (place + at) % 4096 / 8, word: word)
      }
    }
    return nil
  }

  private func firstOld(
    _ piece: UnsafeRawPointer, _ place: Int, _ length: Int, _ page: Int, _ frame: UInt64,
    _ refills: UInt64
  ) -> Stale? {
    for at in Swift.stride(from: 0, to: length, by: 8) {
      let word = piece.loadUnaligned(fromByteOffset: at, as: UInt64.self)
      let index = (place + at) % 4096 / 8
      let isFine =
        switch StormStamp.writer(of: word, page: scene.first + page, index: index) {
        case .zero: true
        case .guest(let number): number >= frame
        // The one that was being written when the guest began to draw may end on top of it.
        case .refill(let number): number >= refills
        case .stray: false
        }
      if !isFine { return Stale(page: scene.first + page, index: index, word: word) }
    }
    return nil
  }
}
