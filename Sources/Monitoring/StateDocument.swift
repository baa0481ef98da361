// The state as one JSON document, which is what a control socket sends. Members are added, never
// renamed: whoever watches a fleet reads them.
extension State {
  /// The document.
  package var json: JSON {
    func numbers(_ values: [UInt64]) -> JSON { .array(values.map { .number($0) }) }
    return .object([
      .init("version", .string(version)), .init("uptime-seconds", .number(seconds)),
      .init("front-end", .bool(hasFrontEnd)),
      .init("outputs", .array(outputs.map(\.json))),
      .init("buffers", .array(buffers.map(\.json))),
      .init("consumers", .array(consumers.map(\.json))),
      .init("metrics", .object(metrics.map { .init($0.name, .number($0.value)) })),
      .init(
        "gauges", .array(metrics.filter { $0.kind == .gauge }.map { .string($0.name) })),
      .init(
        "durations",
        .object(
          durations.map {
            .init(
              $0.name,
              .object([
                .init("bounds-us", numbers($0.bounds)), .init("counts", numbers($0.counts)),
                .init("sum-us", .number($0.sum)), .init("longest-us", .number($0.longest)),
              ]))
          })),
      .init(
        "help",
        .object(
          metrics.map { .init($0.name, .string($0.help)) }
            + durations.map { .init($0.name, .string($0.help)) })),
    ])
  }

  /// Reads a document; nil for others. What it does not know is left out.
  package init?(_ json: JSON) {
    guard let version = json["version"]?.string, let seconds = json["uptime-seconds"]?.number,
      let hasFrontEnd = json["front-end"]?.bool, let metrics = json["metrics"]?.members
    else { return nil }
    let gauges = Set((json["gauges"]?.elements ?? []).compactMap(\.string))
    let help = json["help"]
    self.init(version: version, seconds: seconds, hasFrontEnd: hasFrontEnd, metrics: [])
    for member in metrics {
      guard let value = member.value.number, Self.isName(member.name) else { return nil }
      self.metrics.append(
        Metric(
          member.name, value, help?[member.name]?.string ?? "",
          gauges.contains(member.name) ? .gauge : .counter))
    }
    for member in json["durations"]?.members ?? [] {
      let value = member.value
      let bounds = (value["bounds-us"]?.elements ?? []).compactMap(\.number)
      let counts = (value["counts"]?.elements ?? []).compactMap(\.number)
      guard counts.count == bounds.count + 1, Self.isName(member.name) else { return nil }
      durations.append(
        DurationMetric(
          name: member.name, help: help?[member.name]?.string ?? "", bounds: bounds,
          counts: counts, sum: value["sum-us"]?.number ?? 0,
          longest: value["longest-us"]?.number ?? 0))
    }
    outputs = (json["outputs"]?.elements ?? []).compactMap(Output.init)
    buffers = (json["buffers"]?.elements ?? []).compactMap(Buffer.init)
    consumers = (json["consumers"]?.elements ?? []).compactMap(Consumer.init)
  }

  /// What can be a name in a log, in a table and for Prometheus.
  private static func isName(_ name: String) -> Bool {
    !name.isEmpty
      && name.utf8.allSatisfy {
        $0 == UInt8(ascii: "-") || (UInt8(ascii: "a")...UInt8(ascii: "z")).contains($0)
          || (UInt8(ascii: "0")...UInt8(ascii: "9")).contains($0)
      }
  }
}

extension State.Output {
  fileprivate var json: JSON {
    .object([
      .init("output", .number(output)), .init("width", .number(width)),
      .init("height", .number(height)), .init("format", .string(format)),
      .init("way", .string(way)), .init("why", .string(why)), .init("buffer", .string(buffer)),
      .init("frames", .number(frames)), .init("age-us", .number(age)),
    ])
  }

  fileprivate init?(_ json: JSON) {
    guard let output = json["output"]?.number, let width = json["width"]?.number,
      let height = json["height"]?.number
    else { return nil }
    self.init(
      output: output, width: width, height: height, format: json["format"]?.string ?? "",
      way: json["way"]?.string ?? "", why: json["why"]?.string ?? "",
      buffer: json["buffer"]?.string ?? "", frames: json["frames"]?.number ?? 0,
      age: json["age-us"]?.number ?? 0)
  }
}

extension State.Buffer {
  fileprivate var json: JSON {
    .object([
      .init("buffer", .number(buffer)), .init("generation", .number(generation)),
      .init("width", .number(width)), .init("height", .number(height)),
      .init("format", .string(format)), .init("bytes", .number(bytes)),
      .init("pieces", .number(pieces)),
    ])
  }

  fileprivate init?(_ json: JSON) {
    guard let buffer = json["buffer"]?.number, let generation = json["generation"]?.number else {
      return nil
    }
    self.init(
      buffer: buffer, generation: generation, width: json["width"]?.number ?? 0,
      height: json["height"]?.number ?? 0, format: json["format"]?.string ?? "",
      bytes: json["bytes"]?.number ?? 0, pieces: json["pieces"]?.number ?? 0)
  }
}

extension State.Consumer {
  fileprivate var json: JSON {
    .object([
      .init("name", .string(name)), .init("process", .number(process)),
      .init("only-copies", .bool(onlyCopies)), .init("in-flight", .number(inFlight)),
      .init("late-now", .number(lateNow)), .init("unclosed", .number(unclosed)),
      .init("frames", .number(frames)), .init("skipped", .number(skipped)),
      .init("late", .number(late)),
    ])
  }

  fileprivate init?(_ json: JSON) {
    guard let name = json["name"]?.string, let process = json["process"]?.number else {
      return nil
    }
    self.init(
      name: name, process: process, onlyCopies: json["only-copies"]?.bool ?? false,
      inFlight: json["in-flight"]?.number ?? 0, lateNow: json["late-now"]?.number ?? 0,
      unclosed: json["unclosed"]?.number ?? 0, frames: json["frames"]?.number ?? 0,
      skipped: json["skipped"]?.number ?? 0, late: json["late"]?.number ?? 0)
  }
}
