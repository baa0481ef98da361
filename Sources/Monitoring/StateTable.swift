import Linux

/// A state as a table for people.
package struct StateTable {
  /// What is told.
  package var state: State
  /// What was told before, and how many seconds ago, for what happens in a second; nil takes the
  /// whole time since the start.
  package var before: (state: State, seconds: Double)?
  /// Columns of the terminal; longer lines are cut. 0 for any number.
  package var width = 0
  /// Whether to use colours.
  package var hasColours = false

  /// A table of all that was since the start.
  package init(_ state: State) { self.state = state }

  /// The table, a line each.
  package var lines: [String] {
    var lines = [heading]
    for table in [outputs, buffers, consumers, durations, numbers] where table.rows.count > 1 {
      lines += [""] + table.lines(width: width, colours: hasColours)
    }
    return lines
  }

  private var heading: String {
    let text =
      "pinhole \(state.version.printable), up \(Self.time(state.seconds)), "
      + (state.hasFrontEnd ? "a front-end is connected" : "no front-end is connected")
    return width > 0 ? String(text.prefix(width)) : text
  }

  // MARK: Parts

  private var outputs: TextTable {
    var table = TextTable(
      ["output", "size", "format", "shown", "buffer", "frames", "/s", "last", "why"],
      rightAligned: [5, 6, 7])
    for output in state.outputs {
      let old = before?.state.outputs.first { $0.output == output.output }
      let style: TextTable.Style =
        output.way == "direct" ? .good : output.way == "copy" ? .warning : .plain
      table.rows.append([
        .init("\(output.output)"), .init("\(output.width)x\(output.height)"),
        .init(output.format.printable), .init(output.way.printable, style),
        .init(output.buffer.printable), .init("\(output.frames)"),
        .init(rate(output.frames, old?.frames)),
        .init(output.frames == 0 ? "" : Self.age(output.age)), .init(output.why.printable),
      ])
    }
    return table
  }

  private var buffers: TextTable {
    var table = TextTable(
      ["buffer", "size", "format", "pinned", "pieces", "made", "shown"], rightAligned: [3, 4, 5])
    for buffer in state.buffers {
      let name = "\(buffer.buffer).\(buffer.generation)"
      let places = state.outputs.filter { $0.buffer == name }.map { "\($0.output)" }
      let place = places.isEmpty ? "not now" : "on output " + places.joined(separator: ", ")
      // Each generation but the first follows a discard, or other memory.
      let style: TextTable.Style = buffer.generation > 1 ? .warning : .plain
      table.rows.append([
        .init(name), .init("\(buffer.width)x\(buffer.height)"), .init(buffer.format.printable),
        .init(Self.bytes(buffer.bytes)), .init("\(buffer.pieces)"),
        .init(buffer.generation == 1 ? "once" : "\(buffer.generation) times", style), .init(place),
      ])
    }
    return table
  }

  private var consumers: TextTable {
    var table = TextTable(
      ["consumer", "process", "gets", "frames", "/s", "has", "skipped", "late", ""],
      rightAligned: [1, 3, 4, 5, 6, 7])
    for consumer in state.consumers {
      let old = before?.state.consumers.first {
        $0.process == consumer.process && $0.name == consumer.name && $0.frames <= consumer.frames
      }
      let trouble =
        consumer.lateNow > 0
        ? "late now: gets copies" : consumer.unclosed > 0 ? "keeps revoked buffers" : ""
      table.rows.append([
        .init(String(consumer.name.printable.prefix(24))), .init("\(consumer.process)"),
        .init(consumer.onlyCopies ? "copies" : "all"), .init("\(consumer.frames)"),
        .init(rate(consumer.frames, old?.frames)), .init("\(consumer.inFlight)"),
        .init("\(consumer.skipped)"),
        .init("\(consumer.late)", consumer.late > 0 ? .warning : .plain), .init(trouble, .bad),
      ])
    }
    return table
  }

  private var durations: TextTable {
    var table = TextTable(
      ["took", "times", "half within", "99% within", "longest"], rightAligned: [1, 2, 3, 4])
    for metric in state.durations where metric.count > 0 {
      table.rows.append([
        .init(metric.name), .init("\(metric.count)"), .init(Self.age(metric.percentile(50))),
        .init(Self.age(metric.percentile(99))), .init(Self.age(metric.longest)),
      ])
    }
    return table
  }

  /// What is not zero.
  private var numbers: TextTable {
    var table = TextTable(["what", "total", "/s", ""], rightAligned: [1, 2])
    for metric in state.metrics where metric.value > 0 {
      let isBytes = metric.name.hasSuffix("-bytes")
      let more =
        metric.kind == .counter ? perSecond(metric.value, before?.state[metric.name]) : nil
      table.rows.append([
        .init(metric.name),
        .init(isBytes ? Self.bytes(metric.value) : "\(metric.value)"),
        .init(more.map { isBytes ? Self.bytes($0) : Self.short($0) } ?? ""),
        .init(metric.help.printable),
      ])
    }
    return table
  }

  // MARK: Numbers for people

  private func rate(_ now: UInt64, _ old: UInt64?) -> String { Self.short(perSecond(now, old)) }

  private func perSecond(_ now: UInt64, _ old: UInt64?) -> Double {
    let seconds = before?.seconds ?? Double(max(state.seconds, 1))
    guard seconds > 0 else { return 0 }
    // What was not there before has begun since.
    return Double(now &- min(now, before == nil ? 0 : old ?? 0)) / seconds
  }

  static func short(_ rate: Double) -> String {
    guard rate < 1e15 else { return "?" }
    if rate >= 100 { return "\(Int(rate.rounded()))" }
    let tenths = Int((rate * 10).rounded())
    return "\(tenths / 10).\(tenths % 10)"
  }

  static func bytes(_ count: UInt64) -> String { bytes(Double(count)) }

  /// Any number: what a socket says may be more in a second than an integer holds.
  static func bytes(_ count: Double) -> String {
    var value = count
    for unit in ["B", "KiB", "MiB", "GiB"] {
      if value < 1024 { return unit == "B" ? "\(Int(max(0, value))) B" : short(value) + " " + unit }
      value /= 1024
    }
    return short(value) + " TiB"
  }

  /// Microseconds.
  static func age(_ time: UInt64) -> String {
    switch time {
    case ..<1_000: "\(time) us"
    case ..<1_000_000: short(Double(time) / 1_000) + " ms"
    case ..<60_000_000: short(Double(time) / 1_000_000) + " s"
    default: Self.time(time / 1_000_000)
    }
  }

  /// Seconds.
  static func time(_ seconds: UInt64) -> String {
    func two(_ number: UInt64) -> String { number < 10 ? "0\(number)" : "\(number)" }
    switch seconds {
    case ..<60: return "\(seconds) s"
    case ..<3600: return "\(seconds / 60):\(two(seconds % 60)) min"
    case ..<86_400: return "\(seconds / 3600):\(two(seconds / 60 % 60)) h"
    default: return "\(seconds / 86_400) days, \(seconds / 3600 % 24) h"
    }
  }
}
