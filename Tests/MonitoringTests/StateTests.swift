import Linux
import Testing

@testable import Monitoring

@Suite struct StateTests {
  /// The state of a guest with two outputs, one of them copied, and of a consumer that is late.
  private func state(frames: UInt64 = 100) -> State {
    var waits = Durations(bounds: [1_000, 20_000])
    for time in [500_000, 900_000, 12_500_000] as [UInt64] { waits.add(time) }
    var state = State(
      version: "1.2.3 (0123456789ab)", seconds: 3725, hasFrontEnd: true,
      metrics: [
        Metric("frames", frames, "pictures that were shown"),
        Metric("errors", 0, "mistakes"),
        Metric("copied-bytes", 3 << 20, "bytes of pixels copied"),
        Metric("pinned-bytes", 4096, "bytes that are pinned", .gauge),
        Metric("copy-no-device", 3, "not shown directly: there is no /dev/udmabuf"),
        Metric("copy-too-large", 1, "not shown directly"),
      ])
    state.durations = [DurationMetric("fence-wait", waits, "answers that waited")]
    state.outputs = [
      State.Output(
        output: 0, width: 1024, height: 768, format: "XR24", way: "direct", why: "",
        buffer: "3.2", frames: frames, age: 16_000),
      State.Output(
        output: 1, width: 640, height: 480, format: "XR24", way: "copy",
        why: "the guest draws into the picture on screen", buffer: "", frames: 7, age: 2_000_000),
    ]
    state.buffers = [
      State.Buffer(
        buffer: 3, generation: 2, width: 1024, height: 768, format: "XR24", bytes: 3 << 20,
        pieces: 12)
    ]
    state.consumers = [
      State.Consumer(
        name: "a \"viewer\"\u{1b}[2J\\", process: 4242, onlyCopies: false, inFlight: 2,
        lateNow: 1, unclosed: 0, frames: 90, skipped: 4, late: 5)
    ]
    return state
  }

  private func row(_ word: String, of table: StateTable) -> String {
    table.lines.first { $0.hasPrefix(word + " ") } ?? "no row \(word)"
  }

  @Test func whatOneSideSaysTheOtherUnderstands() throws {
    let told = state()
    #expect(told.json.text.utf8.allSatisfy { $0 >= 0x20 && $0 < 0x7f }, "one line of ASCII")
    let json = try #require(JSON(parsing: told.json.text))
    #expect(json == told.json)
    #expect(State(json) == told)
  }

  @Test func whatIsNewIsLeftOut() throws {
    let text =
      #"{"version":"9","uptime-seconds":1,"front-end":false,"metrics":{"x":1},"new":[{"a":null}]}"#
    let state = try #require(JSON(parsing: text).flatMap(State.init))
    #expect(state["x"] == 1)
    #expect(state.outputs.isEmpty && state.durations.isEmpty)
  }

  @Test(arguments: [
    "", "{}", "hello", #"{"version":"1"}"#, "[1,2", #"{"a" 1}"#, "{}{}", "nul", "\"\u{1}\"",
    String(repeating: "[", count: 4000),
    // A name that would break a line of a log, or of Prometheus' format.
    #"{"version":"1","uptime-seconds":1,"front-end":true,"metrics":{"a b":1}}"#,
    #"{"version":"1","uptime-seconds":1,"front-end":true,"metrics":{"a":-1}}"#,
  ])
  func otherDocumentsAreRefused(_ text: String) {
    #expect(JSON(parsing: text).flatMap(State.init) == nil)
  }

  @Test(arguments: [
    ("\"\\u00e9\\n\\\"\\\\\\/\"", "é\n\"\\/"), ("\"\\ud83d\\ude00\"", "😀"), ("\"ü\"", "ü"),
  ])
  func textsAreRead(_ json: String, _ text: String) {
    #expect(JSON(parsing: json) == .string(text))
    #expect(JSON(parsing: JSON.string(text).text) == .string(text))
  }

  @Test func ratesAreOfTheLastMoment() {
    var table = StateTable(state(frames: 160))
    table.before = (state(frames: 100), 2)
    #expect(
      table.lines.first == "pinhole 1.2.3 (0123456789ab), up 1:02 h, a front-end is connected")
    #expect(row("0", of: table).contains("160  30.0"), "\(row("0", of: table))")
    #expect(row("frames", of: table).contains("160  30.0"))
    // Nothing more, and no rate of what is no counter.
    #expect(row("copied-bytes", of: table).contains("3.0 MiB   0 B  bytes"))
    #expect(row("pinned-bytes", of: table).contains("4.0 KiB        bytes"))
    #expect(!table.lines.contains { $0.hasPrefix("errors") }, "what never happened is left out")
  }

  @Test func whatAPersonLooksFor() {
    let table = StateTable(state())
    #expect(row("1", of: table).contains("the guest draws into the picture on screen"))
    #expect(row("3.2", of: table).contains("2 times  on output 0"))
    #expect(row("a", of: table).contains("late now"))
    #expect(row("fence-wait", of: table).contains("1.0 ms"), "half of them")
    #expect(row("fence-wait", of: table).hasSuffix("12.5 ms"), "the longest")
  }

  /// One with fewer frames than before is another one, which has had all of them since.
  @Test func aConsumerThatCameAgainHasItsOwnRate() {
    var (old, new) = (state(), state())
    old.consumers[0].frames = 500
    new.consumers[0].frames = 40
    new.consumers[0].lateNow = 0
    new.consumers[0].unclosed = 1
    var table = StateTable(new)
    table.before = (old, 2)
    #expect(row("a", of: table).contains("40  20.0"), "\(row("a", of: table))")
    #expect(row("a", of: table).hasSuffix("keeps revoked buffers"))
  }

  @Test func nobodyDrawsOnTheTerminalButThis() {
    var table = StateTable(state())
    #expect(!table.lines.joined().contains("\u{1b}"), "a consumer's name has sequences")
    table.hasColours = true
    #expect(!table.lines.joined().contains("\u{1b}[2J"))
    #expect(table.lines.joined().contains("\u{1b}[31mlate now"))
  }

  /// Whoever listens on the path says what he likes.
  @Test func numbersThatNoProgramReachesAreShownToo() throws {
    let text =
      #"{"version":"9\u001b[2J","uptime-seconds":0,"front-end":false,"#
      + #""metrics":{"x-bytes":18446744073709551615,"x":18446744073709551615}}"#
    var table = StateTable(try #require(JSON(parsing: text).flatMap(State.init)))
    #expect(row("x-bytes", of: table).contains("16777216 TiB"))
    #expect(table.lines.first?.hasPrefix("pinhole 9\\u{1b}[2J, up 0 s") == true)
    var before = table.state
    before.metrics = []
    table.before = (before, 1e-9)
    #expect(row("x-bytes", of: table).contains("? TiB"))
    #expect(row("x", of: table).contains("?"))
  }

  @Test(arguments: [1, 20, 79, 80])
  func noLineIsWiderThanTheTerminal(_ width: Int) {
    var table = StateTable(state())
    table.width = width
    #expect(table.lines.allSatisfy { $0.count <= width })
  }

  @Test func openMetricsHasBaseUnitsAndAnEnd() {
    let lines = state().openMetrics().split(separator: "\n").map(String.init)
    for line in [
      "pinhole_build_info{version=\"1.2.3 (0123456789ab)\"} 1", "pinhole_frames_total 100",
      "# UNIT pinhole_pinned_bytes bytes", "pinhole_pinned_bytes 4096",
      "pinhole_copied_bytes_total 3145728", "pinhole_not_direct_total{reason=\"no-device\"} 3",
      "pinhole_fence_wait_seconds_bucket{le=\"0.001\"} 2",
      "pinhole_fence_wait_seconds_bucket{le=\"0.02\"} 3",
      "pinhole_fence_wait_seconds_bucket{le=\"+Inf\"} 3", "pinhole_fence_wait_seconds_count 3",
      "pinhole_fence_wait_seconds_sum 0.0139", "pinhole_output_direct{output=\"1\"} 0",
    ] {
      #expect(lines.contains(line), "\(line)")
    }
    #expect(lines.last == "# EOF")
    let families = lines.filter { $0.hasPrefix("# TYPE") }
    #expect(Set(families).count == families.count, "each family comes once")
  }
}
