/// What a running program tells of itself, for `pinhole status` and the log.
package struct State: Equatable, Sendable {
  /// An output of the guest.
  package struct Output: Equatable, Sendable {
    package var output: UInt64
    package var width: UInt64
    package var height: UInt64
    /// Four letters, empty before the first picture.
    package var format: String
    /// `nothing`, `direct`, `copy` or `pixels`.
    package var way: String
    /// Why pictures are copied, in words; empty where they are not.
    package var why: String
    /// The buffer on offer, such as `3.2` for the second generation of buffer 3; empty without.
    package var buffer: String
    /// Pictures since the start.
    package var frames: UInt64
    /// Microseconds since the last one.
    package var age: UInt64

    package init(
      output: UInt64, width: UInt64, height: UInt64, format: String, way: String, why: String,
      buffer: String, frames: UInt64, age: UInt64
    ) {
      self.output = output
      self.width = width
      self.height = height
      self.format = format
      self.way = way
      self.why = why
      self.buffer = buffer
      self.frames = frames
      self.age = age
    }
  }

  /// A buffer over the guest's pages.
  package struct Buffer: Equatable, Sendable {
    package var buffer: UInt64
    package var generation: UInt64
    package var width: UInt64
    package var height: UInt64
    package var format: String
    /// Guest memory that it pins.
    package var bytes: UInt64
    /// Runs of neighbouring pages.
    package var pieces: UInt64

    package init(
      buffer: UInt64, generation: UInt64, width: UInt64, height: UInt64, format: String,
      bytes: UInt64, pieces: UInt64
    ) {
      self.buffer = buffer
      self.generation = generation
      self.width = width
      self.height = height
      self.format = format
      self.bytes = bytes
      self.pieces = pieces
    }
  }

  /// A consumer of frames.
  package struct Consumer: Equatable, Sendable {
    /// As it calls itself, whatever that is.
    package var name: String
    package var process: UInt64
    /// It may have nothing but copies.
    package var onlyCopies: Bool
    /// Frames it has not answered.
    package var inFlight: UInt64
    /// Frames it has past their deadline.
    package var lateNow: UInt64
    /// Buffers it has not closed in time.
    package var unclosed: UInt64
    package var frames: UInt64
    package var skipped: UInt64
    package var late: UInt64

    package init(
      name: String, process: UInt64, onlyCopies: Bool, inFlight: UInt64, lateNow: UInt64,
      unclosed: UInt64, frames: UInt64, skipped: UInt64, late: UInt64
    ) {
      self.name = name
      self.process = process
      self.onlyCopies = onlyCopies
      self.inFlight = inFlight
      self.lateNow = lateNow
      self.unclosed = unclosed
      self.frames = frames
      self.skipped = skipped
      self.late = late
    }
  }

  /// Which program, with its commit where it is known.
  package var version: String
  /// Since it started.
  package var seconds: UInt64
  /// Whether QEMU is connected.
  package var hasFrontEnd: Bool
  package var outputs: [Output] = []
  package var buffers: [Buffer] = []
  package var consumers: [Consumer] = []
  /// The numbers, in the order in which they are shown.
  package var metrics: [Metric]
  package var durations: [DurationMetric] = []

  /// A state without pictures.
  package init(version: String, seconds: UInt64, hasFrontEnd: Bool, metrics: [Metric]) {
    self.version = version
    self.seconds = seconds
    self.hasFrontEnd = hasFrontEnd
    self.metrics = metrics
  }

  /// As the log shows its numbers: `name number` pairs.
  package var line: String {
    let pairs =
      metrics.map { ($0.name, $0.value) }
      + durations.flatMap {
        [("\($0.name)-count", $0.count), ("\($0.name)-longest-us", $0.longest)]
      }
    return pairs.map { "\($0.0) \($0.1)" }.joined(separator: ", ")
  }

  /// A number by name; nil if there is none.
  package subscript(_ name: String) -> UInt64? { metrics.first { $0.name == name }?.value }
}
