/// The colours of a tile, if they are few.
struct Palette {
  /// What a look at a tile showed.
  struct Facts {
    /// Runs of equal colours.
    var runs = 0
    /// Of these, how many are of one pixel.
    var singles = 0
    /// All colours are in the palette.
    var isComplete = true
  }

  private var colours: [UInt32] = []
  /// An open hash table of 512 places: the number of a colour, from 1.
  private var places = [UInt16](repeating: 0, count: 512)
  /// The number of each pixel's colour; there may be more than the tile has.
  private var numbers: [UInt8] = []
  private var pixelCount = 0

  /// How many colours there are.
  var count: Int { colours.count }
  /// The colour of a number below ``count``.
  subscript(index: Int) -> UInt32 { colours[index] }
  /// Bits that a number takes: 1, 2 or 4.
  var bits: Int { count <= 2 ? 1 : count <= 4 ? 2 : 4 }

  /// Starts anew with a tile's colours, each 0x00RRGGBB.
  ///
  /// - Parameter limit: more colours than that, 2 to 256, are not collected.
  mutating func collect(_ tile: [UInt32], limit: Int) -> Facts {
    for colour in colours { clear(colour) }
    colours.removeAll(keepingCapacity: true)
    pixelCount = tile.count
    if numbers.count < pixelCount {
      numbers += repeatElement(0, count: pixelCount - numbers.count)
    }
    return collectTwo(tile) ?? collectRuns(tile, limit)
  }

  /// As ``collect(_:limit:)`` for one or two colours, which most tiles of text have; nil for more.
  ///
  /// Without a branch at each pixel: in text a processor would guess every second one wrong.
  private mutating func collectTwo(_ tile: [UInt32]) -> Facts? {
    guard let one = tile.first else { return Facts() }
    let other = tile.first { $0 != one } ?? one
    var facts = Facts()
    let isOfTwo = tile.withUnsafeBufferPointer { pixels in
      numbers.withUnsafeMutableBufferPointer { out in
        var strange: UInt32 = 0
        for index in 0..<pixels.count {
          let colour = pixels[index]
          strange |= colour == one ? 0 : colour ^ other
          out[index] = colour == one ? 0 : 1
        }
        guard strange == 0 else { return false }
        // A run begins where a number differs from the one before; one of a single pixel is where
        // another begins behind it.
        var begins: UInt8 = 1
        for index in 1..<pixels.count {
          let next = out[index] ^ out[index - 1]
          facts.runs &+= Int(next)
          facts.singles &+= Int(begins & next)
          begins = next
        }
        facts.runs &+= 1
        facts.singles &+= Int(begins)
        return true
      }
    }
    guard isOfTwo else { return nil }
    _ = number(of: one, 2)
    _ = number(of: other, 2)
    return facts
  }

  private mutating func collectRuns(_ tile: [UInt32], _ limit: Int) -> Facts {
    // Taken out of `self`, which `number(of:_:)` changes.
    var numbers: [UInt8] = []
    swap(&numbers, &self.numbers)
    defer { swap(&numbers, &self.numbers) }
    var facts = Facts()
    let pixels = tile.span
    var out = numbers.mutableSpan
    // Few colours come to and fro: that of the run before the last one comes again.
    var last = (colour: UInt32.max, number: UInt8(0))
    var older = last
    var index = 0
    while index < pixels.count {
      let colour = pixels[index]
      let start = index
      repeat { index += 1 } while index < pixels.count && pixels[index] == colour
      facts.runs += 1
      if index - start == 1 { facts.singles += 1 }
      guard facts.isComplete else { continue }
      var now = (colour: colour, number: older.number)
      if colour != older.colour {
        guard let number = self.number(of: colour, limit) else {
          facts.isComplete = false
          continue
        }
        now.number = number
      }
      for place in start..<index { out[place] = now.number }
      (older, last) = (last, now)
    }
    return facts
  }

  /// The number of the colour of a tile's pixel; all colours are in the palette.
  func number(at pixel: Int) -> UInt8 { numbers[pixel] }

  /// Appends the tile's numbers of `bits` bits, the first in the highest ones; a row ends with a
  /// byte. All colours are in the palette.
  ///
  /// - Parameter bits: 1, 2, 4 or 8.
  func pack(width: Int, bits: Int, to out: inout [UInt8]) {
    guard bits < 8 else { return out += numbers[..<pixelCount] }
    let all = numbers.span
    let shift = UInt8(truncatingIfNeeded: bits)
    let inByte = 8 / bits
    var index = 0
    while index < pixelCount {
      let end = min(index + width, pixelCount)
      while index < end {
        let last = min(index + inByte, end)
        var byte: UInt8 = 0
        for pixel in index..<last { byte = byte &<< shift | all[pixel] }
        out.append(byte &<< UInt8(truncatingIfNeeded: (inByte - (last - index)) * bits))
        index = last
      }
    }
  }

  private func place(of colour: UInt32) -> Int {
    var place = Int((colour &* 0x9e37_79b1) >> 23)
    while places[place] != 0, colours[Int(places[place]) - 1] != colour {
      place = (place + 1) & 511
    }
    return place
  }

  /// - Returns: nil for a new colour that would be one too many.
  private mutating func number(of colour: UInt32, _ limit: Int) -> UInt8? {
    let place = place(of: colour)
    if places[place] != 0 { return UInt8(truncatingIfNeeded: places[place] &- 1) }
    guard colours.count < limit else { return nil }
    colours.append(colour)
    places[place] = UInt16(truncatingIfNeeded: colours.count)
    return UInt8(truncatingIfNeeded: colours.count - 1)
  }

  /// The tables' places are few: all that a colour could have taken.
  private mutating func clear(_ colour: UInt32) {
    var place = Int((colour &* 0x9e37_79b1) >> 23)
    while places[place] != 0 {
      places[place] = 0
      place = (place + 1) & 511
    }
  }
}
