import ArgumentParser

/// A number of bytes such as 4096, 512K, 64M or 2G.
package struct ByteCount: ExpressibleByArgument, Equatable {
  package let bytes: UInt64

  package init(_ bytes: UInt64) { self.bytes = bytes }

  package init?(argument: String) {
    let units: [Character: UInt64] = ["K": 1 << 10, "M": 1 << 20, "G": 1 << 30]
    let unit = argument.uppercased().last.flatMap { units[$0] }
    let digits = unit == nil ? Substring(argument) : argument.dropLast()
    guard let number = UInt64(digits), !digits.hasPrefix("+") else { return nil }
    let (bytes, overflow) = number.multipliedReportingOverflow(by: unit ?? 1)
    guard !overflow else { return nil }
    self.bytes = bytes
  }

  package var defaultValueDescription: String {
    if bytes > 0, bytes % (1 << 30) == 0 { return "\(bytes >> 30)G" }
    return bytes % (1 << 20) == 0 ? "\(bytes >> 20)M" : "\(bytes)"
  }
}

/// A size such as 640x480.
package struct PictureSize: ExpressibleByArgument {
  package var width = 640
  package var height = 480

  package init() {}

  package init(width: Int, height: Int) {
    self.width = width
    self.height = height
  }

  package init?(argument: String) {
    let parts = argument.split(separator: "x").map { Int($0) ?? 0 }
    guard parts.count == 2, parts.allSatisfy({ (1...16384).contains($0) }) else { return nil }
    width = parts[0]
    height = parts[1]
  }

  package var defaultValueDescription: String { "\(width)x\(height)" }
}
