/// Describes a virtual monitor to the guest: VESA E-EDID 1.4.
public enum EDID {
  /// Makes an EDID whose preferred mode is `width` x `height`.
  ///
  /// The other modes have widths that are multiples of 64 pixels, so that rows of 4 byte pixels
  /// are multiples of 256 bytes, which some GPUs demand of what they import. A mode beyond the
  /// 4095 pixels of the base block is described in a DisplayID extension.
  ///
  /// - Parameters:
  ///   - width: pixels; taken as 64 to 65,535.
  ///   - height: pixels; taken as 64 to 65,535.
  ///   - output: which output, from 0; gives each monitor a serial number of its own.
  ///   - refresh: pictures a second; taken as 24 to 240.
  /// - Returns: one or two blocks with valid checksums.
  public static func make(
    width: UInt32, height: UInt32, output: Int = 0, refresh: UInt32 = 60
  ) -> [UInt8] {
    let preferred = VideoTiming(
      width: min(max(width, 64), 65_535), height: min(max(height, 64), 65_535),
      refresh: min(max(refresh, 24), 240))
    let serial = UInt32(truncatingIfNeeded: output) &+ 1
    let fits = preferred.fitsDetailedTiming
    let first = fits ? preferred : VideoTiming(width: 3840, height: 2160, refresh: 60)
    let second = VideoTiming(width: 2560, height: 1440, refresh: 60)

    var bytes: [UInt8] = [0, 255, 255, 255, 255, 255, 255, 0]
    bytes += identity(serial: serial)
    bytes += [
      1, 4,  // E-EDID 1.4
      0xa5,  // digital, 8 bits a colour, DisplayPort
      UInt8(clamping: max(1, preferred.widthInMillimetres / 10)),
      UInt8(clamping: max(1, preferred.heightInMillimetres / 10)),
      120,  // gamma 2.2
      0x06,  // RGB 4:4:4, sRGB, the first timing is the native one
    ]
    bytes += [0xee, 0x91, 0xa3, 0x54, 0x4c, 0x99, 0x26, 0x0f, 0x50, 0x54]  // sRGB primaries
    bytes += [0x20, 0x08, 0x00]  // established: 640x480 and 1024x768 at 60 Hz
    for mode in standardModes { bytes += mode.code }
    bytes += first.detailedTiming(size: preferred)
    bytes += second.detailedTiming(size: preferred)
    bytes += rangeLimits(covering: [first, second, preferred])
    bytes += name
    bytes.append(fits ? 0 : 1)
    bytes.append(checksum(of: bytes[...]))
    return fits ? bytes : bytes + displayID(preferred, serial: serial)
  }

  /// Modes of the standard timing list, all at 60 Hz.
  struct StandardMode {
    let width: UInt32
    let height: UInt32

    /// Two bytes of the standard timing list: width and aspect ratio.
    var code: [UInt8] {
      let aspect: UInt8
      switch (width * 9 == height * 16, width * 3 == height * 4, width * 4 == height * 5) {
      case (true, _, _): aspect = 3
      case (_, true, _): aspect = 1
      case (_, _, true): aspect = 2
      default: aspect = 0  // 16:10
      }
      return [UInt8(clamping: width / 8 - 31), aspect << 6]
    }
  }

  static let standardModes = [
    StandardMode(width: 1280, height: 720), StandardMode(width: 1280, height: 800),
    StandardMode(width: 1280, height: 1024), StandardMode(width: 1600, height: 900),
    StandardMode(width: 1600, height: 1200), StandardMode(width: 1920, height: 1080),
    StandardMode(width: 1920, height: 1200), StandardMode(width: 2048, height: 1152),
  ]

  /// Manufacturer PNH, product 1, a serial number, made in 2026.
  private static func identity(serial: UInt32) -> [UInt8] {
    let letters: [UInt16] = [16, 14, 8]
    let maker = letters[0] << 10 | letters[1] << 5 | letters[2]
    return [UInt8(maker >> 8), UInt8(maker & 255), 1, 0] + littleEndian(serial, 4) + [0, 36]
  }

  /// The display descriptor with the monitor's name.
  private static let name: [UInt8] =
    [0, 0, 0, 0xfc, 0] + Array("Pinhole".utf8) + [0x0a] + Array(repeating: 0x20, count: 5)

  private static func rangeLimits(covering timings: [VideoTiming]) -> [UInt8] {
    var clock: UInt64 = 0
    var lines: UInt64 = 0
    var rate: UInt32 = 0
    for timing in timings {
      clock = max(clock, timing.clock)
      lines = max(lines, timing.clock / UInt64(timing.totalWidth) / 1000 + 1)
      rate = max(rate, timing.refresh)
    }
    lines = max(160, lines)
    // Bit 3 adds 255 to the highest line rate.
    let (flags, highest): (UInt8, UInt64) = lines > 255 ? (8, lines - 255) : (0, lines)
    return [
      0, 0, 0, 0xfd, flags, 24, UInt8(clamping: max(75, rate)), 30, UInt8(clamping: highest),
      UInt8(clamping: (clock + 9_999_999) / 10_000_000), 1, 0x0a, 0x20, 0x20, 0x20, 0x20, 0x20,
      0x20,
    ]
  }

  /// A DisplayID 1.3 extension of a display of its own, with one type I detailed timing.
  private static func displayID(_ timing: VideoTiming, serial: UInt32) -> [UInt8] {
    var section: [UInt8] = [0x13, 121, 3, 0]
    section += [0, 0, 12] + Array("PNH".utf8) + [1, 0] + littleEndian(serial, 4) + [1, 26, 0]
    section += displayParameters(timing)
    section += [15, 0, 10, 0xa1, 0x14, 2, 0, 0, 0, 0, 0, 0, 0]  // DisplayPort 1.4, 8 bits RGB
    section += [3, 0, 20] + littleEndian(UInt32(clamping: timing.clock / 10_000) &- 1, 3)
    section.append(0x88)  // preferred, aspect ratio not given
    let horizontal = [
      timing.width, timing.blankWidth, VideoTiming.frontPorch | 0x8000, VideoTiming.syncWidth,
    ]
    let vertical = [
      timing.height, timing.blankHeight, VideoTiming.frontLines, timing.syncHeight,
    ]
    for value in horizontal + vertical { section += littleEndian(value &- 1, 2) }
    section += Array(repeating: 0, count: 4 + 121 - section.count)
    section.append(checksum(of: section[...]))
    let block: [UInt8] = [0x70] + section
    return block + [checksum(of: block[...])]
  }

  /// The DisplayID block with size, pixels, gamma 2.2 and 8 bits a colour.
  private static func displayParameters(_ timing: VideoTiming) -> [UInt8] {
    let tenths = [timing.widthInMillimetres * 10, timing.heightInMillimetres * 10]
    var block: [UInt8] = [1, 0, 12]
    for value in tenths + [timing.width, timing.height] {
      block += littleEndian(min(value, 65_535), 2)
    }
    let long = max(timing.width, timing.height)
    let short = min(timing.width, timing.height)
    let aspect = UInt8(clamping: (long * 100 + short / 2) / short - 100)
    return block + [0, 120, aspect, 0x77]
  }

  /// What makes the sum of a block's bytes a multiple of 256.
  static func checksum(of bytes: ArraySlice<UInt8>) -> UInt8 {
    0 &- bytes.reduce(0, &+)
  }

  static func littleEndian(_ value: UInt32, _ count: Int) -> [UInt8] {
    (0..<count).map { UInt8(truncatingIfNeeded: value >> (8 * UInt32($0))) }
  }
}

/// Timings after VESA CVT 1.1 with reduced blanking.
struct VideoTiming {
  static let frontPorch: UInt32 = 48
  static let syncWidth: UInt32 = 32
  static let frontLines: UInt32 = 3
  private static let backLines: UInt32 = 6

  let width: UInt32
  let height: UInt32
  let refresh: UInt32
  let blankWidth: UInt32 = 160
  let blankHeight: UInt32
  let syncHeight: UInt32

  /// - Parameters:
  ///   - width: pixels, below 2^16.
  ///   - height: pixels, below 2^16.
  ///   - refresh: pictures a second, 24 to 240.
  init(width: UInt32, height: UInt32, refresh: UInt32) {
    self.width = width
    self.height = height
    self.refresh = refresh
    switch (width * 3 == height * 4, width * 9 == height * 16, width * 10 == height * 16) {
    case (true, _, _): syncHeight = 4
    case (_, true, _): syncHeight = 5
    case (_, _, true): syncHeight = 6
    default: syncHeight = 10
    }
    // At least 460 µs between two pictures, in lines.
    let picture = 1_000_000 / UInt64(refresh) - 460
    let lines = UInt32(clamping: 460 * UInt64(height) / picture + 1)
    blankHeight = max(lines, Self.frontLines + syncHeight + Self.backLines)
  }

  var totalWidth: UInt32 { width + blankWidth }

  /// Pixels a second, in steps of 250,000, or of 10,000 where that would be too coarse.
  var clock: UInt64 {
    let pixels = UInt64(totalWidth) * UInt64(height + blankHeight) * UInt64(refresh)
    let step: UInt64 = pixels < 25_000_000 ? 10_000 : 250_000
    return pixels / step * step
  }

  var widthInMillimetres: UInt32 { millimetres(width) }
  var heightInMillimetres: UInt32 { millimetres(height) }

  /// At 96 pixels an inch.
  private func millimetres(_ pixels: UInt32) -> UInt32 { (pixels * 254 + 480) / 960 }

  /// Whether an 18 byte descriptor can hold it.
  var fitsDetailedTiming: Bool {
    width <= 4095 && height <= 4095 && blankHeight <= 4095 && clock / 10_000 <= 65_535
  }

  /// The 18 byte descriptor of a timing that fits.
  ///
  /// - Parameter size: gives the size of the monitor's glass.
  func detailedTiming(size: VideoTiming) -> [UInt8] {
    let mm = (min(size.widthInMillimetres, 4095), min(size.heightInMillimetres, 4095))
    func low(_ value: UInt32) -> UInt8 { UInt8(truncatingIfNeeded: value) }
    func high(_ a: UInt32, _ b: UInt32) -> UInt8 { low(a >> 4 & 0xf0 | b >> 8 & 0x0f) }
    return EDID.littleEndian(UInt32(clamping: clock / 10_000), 2) + [
      low(width), low(blankWidth), high(width, blankWidth),
      low(height), low(blankHeight), high(height, blankHeight),
      low(Self.frontPorch), low(Self.syncWidth), low(Self.frontLines << 4 | syncHeight), 0,
      low(mm.0), low(mm.1), high(mm.0, mm.1), 0, 0,
      0x1a,  // digital separate sync, horizontal positive, vertical negative
    ]
  }
}
