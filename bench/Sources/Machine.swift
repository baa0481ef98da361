import FakeGuest
import Glibc
import Linux

/// Facts of the machine that a reader needs to judge numbers, from proc(5).
enum Machine {
  /// Nanoseconds of processor time of all threads of a process that still run.
  static func processorTime(of pid: CInt) -> UInt64 {
    tasks(of: pid).reduce(0) {
      let first = text("/proc/\(pid)/task/\($1)/schedstat").split(separator: " ").first
      return $0 + (first.flatMap { UInt64($0) } ?? 0)
    }
  }

  private static func tasks(of pid: CInt) -> [String] {
    (try? Folder.names(in: "/proc/\(pid)/task")) ?? []
  }

  /// The share of all processors that somebody used while nothing was measured, 0 to 1.
  static func business(seconds: UInt32 = 2) -> Double {
    func ticks() -> (idle: Double, all: Double) {
      let fields =
        text("/proc/stat").split(separator: "\n").first?
        .split(separator: " ").dropFirst().compactMap { Double($0) } ?? []
      guard fields.count > 4 else { return (0, 0) }
      return (fields[3] + fields[4], fields.prefix(8).reduce(0, +))
    }
    let before = ticks()
    sleep(seconds)
    let after = ticks()
    guard after.all > before.all else { return 0 }
    return 1 - (after.idle - before.idle) / (after.all - before.all)
  }

  /// Lines that belong above each table.
  static var header: [String] {
    let model =
      text("/proc/cpuinfo").split(separator: "\n")
      .first { $0.hasPrefix("model name") }?
      .split(separator: ":").last.map { String($0.drop { $0 == " " }) } ?? "unknown processor"
    let count = sysconf(CInt(_SC_NPROCESSORS_ONLN))
    return [
      "\(count) x \(model), Linux \(line("/proc/sys/kernel/osrelease"))",
      "load \(line("/proc/loadavg")), net.core.wmem_default \(line("/proc/sys/net/core/wmem_default")),"
        + " net.core.wmem_max \(line("/proc/sys/net/core/wmem_max"))",
    ]
  }

  private static func line(_ path: String) -> String {
    text(path).split(separator: "\n").first.map(String.init) ?? "unknown"
  }

  private static func text(_ path: String) -> String {
    WholeFile.text(path) ?? ""
  }
}

extension Machine {
  /// Whether a dma-buf of a guest's pages can be had here.
  static var hasUdmabuf: Bool { access("/dev/udmabuf", R_OK | W_OK) == 0 }

  /// Bytes that could be had without swapping (`MemAvailable`).
  static var availableMemory: UInt64 { (field("/proc/meminfo", "MemAvailable") ?? 0) << 10 }

  /// KiB of memory that only this process has (`RssAnon` and `RssShmem` would count the guest's).
  static func ownMemory(of pid: CInt) -> UInt64 { field("/proc/\(pid)/status", "RssAnon") ?? 0 }

  /// How often all threads of a process went to sleep and were woken.
  static func switches(of pid: CInt) -> UInt64 {
    tasks(of: pid).reduce(0) {
      $0 + (field("/proc/\(pid)/task/\($1)/status", "voluntary_ctxt_switches") ?? 0)
    }
  }

  private static func field(_ path: String, _ name: String) -> UInt64? {
    for line in text(path).split(separator: "\n") where line.hasPrefix("\(name):") {
      let digits = line.dropFirst(name.count + 1).drop { !$0.isNumber }.prefix { $0.isNumber }
      return UInt64(digits)
    }
    return nil
  }

  /// Up to this share of all processors used by others counts as a quiet machine.
  static let quiet = 0.05
}
