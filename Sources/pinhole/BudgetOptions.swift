import ArgumentParser
import Buffers
import Display
import VirtioGPU

/// Bounds on what a guest and its viewers can make this process take.
struct BudgetOptions: ParsableArguments {
  @Option(help: "Host memory for a guest's pictures and the copies of them, such as 512M.")
  var maxHostMemory = ByteCount(512 << 20)

  @Option(help: "Guest memory that dma-bufs may pin, such as 1G.")
  var maxPinned = ByteCount(BufferStore.defaultPinBudget)

  @Option(help: "Resources that a guest may have.")
  var maxResources = 4096

  @Option(help: "Pieces of memory that a guest may give to one resource.")
  var maxEntries: UInt32 = 65536

  @Option(help: "Frame consumers that may be connected.")
  var maxConsumers = 32

  @Option(help: "Log lines a second; 0 for as many as there are.")
  var maxLogLines = 100

  func validate() throws {
    guard maxResources > 0, maxEntries > 0 else {
      throw ValidationError("--max-resources and --max-entries must be at least 1")
    }
    // The list of one resource is held in memory while it is read.
    guard maxEntries <= 1 << 20 else {
      throw ValidationError("--max-entries can be 1048576 at most")
    }
    guard maxConsumers >= 0, maxLogLines >= 0 else {
      throw ValidationError("--max-consumers and --max-log-lines cannot be negative")
    }
  }

  func apply(to configuration: inout GPUConfiguration) {
    configuration.hostMemory = maxHostMemory.bytes
    configuration.maxResources = maxResources
    configuration.maxEntries = maxEntries
  }
}

/// A number of bytes such as 4096, 512K, 64M or 2G.
struct ByteCount: ExpressibleByArgument, Equatable {
  let bytes: UInt64

  init(_ bytes: UInt64) { self.bytes = bytes }

  init?(argument: String) {
    let units: [Character: UInt64] = ["K": 1 << 10, "M": 1 << 20, "G": 1 << 30]
    let unit = argument.uppercased().last.flatMap { units[$0] }
    let digits = unit == nil ? Substring(argument) : argument.dropLast()
    guard let number = UInt64(digits), !digits.hasPrefix("+") else { return nil }
    let (bytes, overflow) = number.multipliedReportingOverflow(by: unit ?? 1)
    guard !overflow else { return nil }
    self.bytes = bytes
  }

  var defaultValueDescription: String {
    if bytes > 0, bytes % (1 << 30) == 0 { return "\(bytes >> 30)G" }
    return bytes % (1 << 20) == 0 ? "\(bytes >> 20)M" : "\(bytes)"
  }
}
