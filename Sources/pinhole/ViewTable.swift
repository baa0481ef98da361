import Linux
import PinholeFrames

/// `pinhole view` in a terminal: what each output shows at present, and how often it changed.
struct ViewTable {
  private struct Row {
    var size = "off"
    var format = ""
    var way = ""
    var buffer = ""
    var frames = 0
    var skipped = 0
    var discards = 0
    var late = 0
  }

  private var rows: [UInt32: Row] = [:]
  /// Which output a buffer was shown on last.
  private var places: [UInt32: UInt32] = [:]
  private var producer: Producer?
  private var linesDrawn = 0
  private var drawnAt: UInt64 = 0

  /// Takes note of what the producer told.
  mutating func note(_ event: FrameConsumer.Event, of consumer: FrameConsumer) {
    switch event {
    case .connected(let producer): self.producer = producer
    case .output(let state):
      rows[state.output, default: Row()].size =
        state.isEnabled ? "\(state.width)x\(state.height)" : "off"
    case .frame(let frame):
      var row = rows[frame.output] ?? Row()
      row.frames += 1
      if frame.hasSkipped { row.skipped += 1 }
      row.buffer = frame.buffer.description
      if let buffer = consumer.buffers[frame.buffer] {
        row.format = "\(buffer)".split(separator: " ").dropFirst().first.map { "\($0)" } ?? ""
        row.way = buffer.memory == .dmaBuf ? "direct" : "copy"
        if let reason = frame.copyReason { row.way += " (\(reason))" }
      }
      rows[frame.output] = row
      places[frame.buffer.number] = frame.output
    case .bufferRemoved(let name, let reason):
      if reason == .discarded, let output = places[name.number] {
        rows[output]?.discards += 1
      }
    case .bufferAdded, .cursor: break
    }
  }

  /// Takes note of when a frame was released.
  mutating func released(_ frame: ReceivedFrame) {
    guard let producer else { return }
    let deadline = UInt64(producer.holdDeadline) &* 1000
    if Clock.now > frame.timestamp &+ deadline { rows[frame.output]?.late += 1 }
  }

  /// The table as text, one line an output.
  var lines: [String] {
    let head = [
      "output", "size", "format", "shown", "buffer", "frames", "skipped", "discards", "late",
    ]
    let body = rows.sorted { $0.key < $1.key }.map { output, row in
      [
        "\(output)", row.size, row.format, row.way, row.buffer, "\(row.frames)", "\(row.skipped)",
        "\(row.discards)", "\(row.late)",
      ]
    }
    let widths = head.indices.map { column in
      ([head] + body).map { $0[column].count }.max() ?? 0
    }
    return ([head] + body).map { cells in
      zip(cells, widths).map { cell, width in
        cell + String(repeating: " ", count: width - cell.count)
      }.joined(separator: "  ")
    }
  }

  /// Draws the table over the last one, at most 20 times a second unless forced.
  ///
  /// - Throws: ``ViewError`` when it cannot be written.
  mutating func draw(force: Bool = false) throws(ViewError) {
    let now = Clock.now
    guard force || now > drawnAt &+ 50_000_000 else { return }
    drawnAt = now
    let lines = self.lines
    var text = linesDrawn > 0 ? "\u{1b}[\(linesDrawn)A" : ""
    for line in lines { text += "\u{1b}[2K\(line)\r\n" }
    linesDrawn = lines.count
    try ViewOutput.write(text)
  }
}
