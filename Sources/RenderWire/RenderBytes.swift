/// Collects the bytes of a message; numbers are in the machine's own order, as both ends run on it.
struct RenderWriter {
  private(set) var bytes: [UInt8] = []

  mutating func put<Number: FixedWidthInteger>(_ number: Number) {
    withUnsafeBytes(of: number) { bytes.append(contentsOf: $0) }
  }

  mutating func put(all numbers: UInt32...) { for number in numbers { put(number) } }

  /// A count and the bytes.
  mutating func put(counted data: [UInt8]) {
    put(UInt32(clamping: data.count))
    bytes.append(contentsOf: data)
  }

  /// The bytes alone.
  mutating func put(raw data: [UInt8]) { bytes.append(contentsOf: data) }
}

/// Takes numbers off the front of a message; after one that is missing `isWhole` is false.
struct RenderReader {
  private let bytes: UnsafeRawBufferPointer
  private var at = 0
  private var isShort = false

  init(_ bytes: UnsafeRawBufferPointer) { self.bytes = bytes }

  /// Nothing was missing and nothing is left.
  var isWhole: Bool { !isShort && at == bytes.count }
  /// Bytes that were not taken yet.
  var left: Int { bytes.count - at }

  mutating func take<Number: FixedWidthInteger & BitwiseCopyable>(_ type: Number.Type) -> Number {
    let size = MemoryLayout<Number>.size
    guard left >= size else {
      isShort = true
      return 0
    }
    defer { at += size }
    return bytes.loadUnaligned(fromByteOffset: at, as: type)
  }

  mutating func u32() -> UInt32 { take(UInt32.self) }
  mutating func u64() -> UInt64 { take(UInt64.self) }

  /// Bytes behind their count.
  mutating func counted(atMost limit: Int) -> [UInt8] {
    let count = Int(u32())
    guard !isShort, count <= limit, count <= left else {
      isShort = true
      return []
    }
    defer { at += count }
    return Array(bytes[at..<(at + count)])
  }
}
