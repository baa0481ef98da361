// The OpenMetrics text format 1.0 (github.com/prometheus/OpenMetrics): base units in names, HELP
// and UNIT for each family, `_total` for counters, `# EOF` at the end.
extension State {
  /// The exposition.
  ///
  /// - Parameter labels: these are added to every sample.
  package func openMetrics(labels: [MetricLabel] = []) -> String {
    var out = Exposition(labels)
    // A gauge, and no "info": so older parsers, of text files for example, take it as well.
    out.family("pinhole_build_info", "gauge", "The program that tells this.")
    out.sample("pinhole_build_info", 1, ["version": version])
    out.family("pinhole_uptime_seconds", "gauge", "How long it has run.", unit: "seconds")
    out.sample("pinhole_uptime_seconds", seconds)
    out.family("pinhole_front_end", "gauge", "1 while a front-end, such as QEMU, is connected.")
    out.sample("pinhole_front_end", hasFrontEnd ? 1 : 0)
    for metric in metrics where !metric.name.hasPrefix("copy-") { out.add(metric) }
    let reasons = metrics.filter { $0.name.hasPrefix("copy-") }
    if !reasons.isEmpty {
      out.family("pinhole_not_direct", "counter", "Buffers over guest pages that were not made.")
      for metric in reasons {
        out.sample(
          "pinhole_not_direct_total", metric.value, ["reason": String(metric.name.dropFirst(5))])
      }
    }
    for durations in durations { out.add(durations) }
    addOutputs(to: &out)
    return out.text + "# EOF\n"
  }

  private func addOutputs(to out: inout Exposition) {
    guard !outputs.isEmpty else { return }
    out.family("pinhole_output_frames", "counter", "Pictures shown on an output.")
    for output in outputs {
      out.sample("pinhole_output_frames_total", output.frames, ["output": "\(output.output)"])
    }
    out.family(
      "pinhole_output_direct", "gauge", "1 while consumers get the guest's own pages.")
    for output in outputs {
      out.sample(
        "pinhole_output_direct", output.way == "direct" ? 1 : 0, ["output": "\(output.output)"])
    }
  }
}

/// Text in the making.
private struct Exposition {
  var text = ""
  /// As they stand in every sample.
  private let common: [String]

  init(_ labels: [MetricLabel]) {
    common = labels.map { Self.pair($0.name, $0.value) }
  }

  private static func pair(_ name: String, _ value: String) -> String {
    "\(name)=\"\(escaped(value))\""
  }

  mutating func family(_ name: String, _ type: String, _ help: String, unit: String? = nil) {
    text += "# TYPE \(name) \(type)\n"
    if let unit { text += "# UNIT \(name) \(unit)\n" }
    if !help.isEmpty { text += "# HELP \(name) \(Self.escaped(help))\n" }
  }

  mutating func sample(
    _ name: String, _ value: UInt64, _ labels: KeyValuePairs<String, String> = [:]
  ) {
    sample(name, "\(value)", labels)
  }

  mutating func sample(
    _ name: String, _ value: String, _ labels: KeyValuePairs<String, String> = [:]
  ) {
    let list = (common + labels.map { Self.pair($0.key, $0.value) }).joined(separator: ",")
    text += name + (list.isEmpty ? "" : "{\(list)}") + " \(value)\n"
  }

  mutating func add(_ metric: Metric) {
    var name = metric.name
    var value = "\(metric.value)"
    var unit: String?
    if name.hasSuffix("-us") {
      name = String(name.dropLast(3)) + "-seconds"
      value = seconds(metric.value)
      unit = "seconds"
    } else if name.hasSuffix("-bytes") {
      unit = "bytes"
    }
    name = "pinhole_" + underscored(name)
    family(name, metric.kind.rawValue, metric.help, unit: unit)
    sample(name + (metric.kind == .counter ? "_total" : ""), value)
  }

  mutating func add(_ metric: DurationMetric) {
    let name = "pinhole_\(underscored(metric.name))_seconds"
    family(name, "histogram", metric.help, unit: "seconds")
    var sum: UInt64 = 0
    for (index, count) in metric.counts.enumerated() {
      sum &+= count
      let isLast = index == metric.bounds.count
      sample(name + "_bucket", sum, ["le": isLast ? "+Inf" : seconds(metric.bounds[index])])
    }
    sample(name + "_sum", seconds(metric.sum))
    sample(name + "_count", sum)
  }

  private func underscored(_ name: String) -> String {
    String(name.map { $0 == "-" ? "_" : $0 })
  }

  /// Scalars, and no characters: "\r\n" is one of those, and so is a quote with an accent.
  private static func escaped(_ text: String) -> String {
    var out = String.UnicodeScalarView()
    for scalar in text.unicodeScalars {
      switch scalar {
      case "\\": out.append(contentsOf: "\\\\".unicodeScalars)
      case "\"": out.append(contentsOf: "\\\"".unicodeScalars)
      case "\n": out.append(contentsOf: "\\n".unicodeScalars)
      default: out.append(scalar)
      }
    }
    return String(out)
  }

  /// Microseconds as seconds, exactly: 0.25 for 250,000.
  private func seconds(_ microseconds: UInt64) -> String {
    let rest = String(microseconds % 1_000_000)
    let digits = String(repeating: "0", count: 6 - rest.count) + rest
    let end = digits.lastIndex { $0 != "0" } ?? digits.startIndex
    return "\(microseconds / 1_000_000).\(digits[...end])"
  }
}
