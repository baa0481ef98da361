import Command
import Linux
import Monitoring
import PinholeFrames

/// `pinhole view` in a terminal: what each output shows at present, and how often it changed.
struct ViewTable {
  struct Row {
    var size = "off"
    var format = ""
    var way = ""
    var buffer = ""
    var frames = 0
    var skipped = 0
    var discards = 0
    var late = 0
  }

  var rows: [UInt32: Row] = [:]
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
  ///
  /// - Parameter width: columns of the terminal; longer lines are cut, for one that wraps could not
  ///   be drawn over.
  func lines(width: Int) -> [String] {
    var table = TextTable([
      "output", "size", "format", "shown", "buffer", "frames", "skipped", "discards", "late",
    ])
    for (output, row) in rows.sorted(by: { $0.key < $1.key }) {
      table.rows.append(
        [
          "\(output)", row.size, row.format, row.way, row.buffer, "\(row.frames)",
          "\(row.skipped)", "\(row.discards)", "\(row.late)",
        ].map { TextTable.Cell($0) })
    }
    return table.lines(width: width)
  }

  /// Draws the table over the last one, at most 20 times a second unless forced.
  ///
  /// - Throws: ``ViewError`` when it cannot be written.
  mutating func draw(force: Bool = false) throws(ViewError) {
    let now = Clock.now
    guard force || now > drawnAt &+ 50_000_000 else { return }
    drawnAt = now
    let size = Terminal.standardOutput?.size ?? (columns: 80, rows: 24)
    // A line that scrolls out of the window could not be drawn over.
    let lines = self.lines(width: size.columns).prefix(max(1, size.rows - 1))
    var text = linesDrawn > 0 ? "\u{1b}[\(linesDrawn)A" : ""
    for line in lines { text += "\u{1b}[2K\(line)\r\n" }
    linesDrawn = lines.count
    try ViewOutput.write(text)
  }
}
