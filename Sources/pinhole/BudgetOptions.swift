import ArgumentParser
import Buffers
import Command
import Daemon
import VirtioGPU

/// Bounds on what a guest and its viewers can make this process take.
struct BudgetOptions: ParsableArguments {
  @Option(help: "Host memory for what a guest makes, such as 512M.")
  var maxHostMemory = ByteCount(512 << 20)

  @Option(help: "Host memory for the copies that consumers get, such as 512M.")
  var maxCopyMemory = ByteCount(512 << 20)

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

  /// What they say to the daemon.
  func apply(to options: inout DaemonOptions) {
    options.device.hostMemory = maxHostMemory.bytes
    options.device.copyMemory = maxCopyMemory.bytes
    options.device.maxResources = maxResources
    options.device.maxEntries = maxEntries
    options.maxPinned = maxPinned.bytes
    options.maxConsumers = maxConsumers
  }
}
