import Testing

@testable import Monitoring

@Suite struct MetricLabelTests {
  @Test(arguments: [
    ("vm=work", "vm", "work"), ("_a1=", "_a1", ""), ("A=b=c", "A", "b=c"),
    ("vm=a \"b\"", "vm", "a \"b\""),
  ])
  func namesAndValues(_ text: String, _ name: String, _ value: String) throws {
    let label = try MetricLabel(text)
    #expect(label.name == name && label.value == value)
  }

  @Test(arguments: [
    ("vm", MetricLabel.Mistake.noValue), ("", .noValue), ("=work", .badName("")),
    ("1vm=x", .badName("1vm")), ("v-m=x", .badName("v-m")), ("__name__=x", .badName("__name__")),
    ("vm\u{301}=x", .badName("vm\u{301}")), ("ä=x", .badName("ä")), ("v m=x", .badName("v m")),
    ("output=1", .taken("output")), ("le=1", .taken("le")),
  ])
  func othersAreMistakes(_ text: String, _ mistake: MetricLabel.Mistake) {
    #expect(throws: mistake) { try MetricLabel(text) }
  }

  @Test func aNameStandsOnce() throws {
    let labels = [try MetricLabel("vm=a"), try MetricLabel("host=a"), try MetricLabel("vm=b")]
    #expect(MetricLabel.repeated(in: labels) == "vm")
    #expect(MetricLabel.repeated(in: Array(labels.prefix(2))) == nil)
  }

  @Test func everySampleHasThem() throws {
    var state = State(
      version: "1", seconds: 2, hasFrontEnd: true,
      metrics: [Metric("frames", 3, "pictures"), Metric("copy-too-large", 1, "not direct")])
    state.durations = [
      DurationMetric(name: "wait", help: "", bounds: [1], counts: [1, 0], sum: 1, longest: 1)
    ]
    let labels = [try MetricLabel("vm=a\"b\\c\nd"), try MetricLabel("host=x\"\u{301}\r\ny")]
    let lines = state.openMetrics(labels: labels).utf8.split(separator: UInt8(ascii: "\n"))
      .map { String(decoding: Array($0), as: UTF8.self) }
    let common = #"vm="a\"b\\c\nd",host="x\""# + "\u{301}\r" + #"\ny""#
    let samples = lines.filter { !$0.hasPrefix("#") }
    #expect(samples.count == 9)
    for sample in samples { #expect(sample.contains("{" + common), "\(sample)") }
    #expect(samples.contains("pinhole_frames_total{\(common)} 3"))
    #expect(samples.contains("pinhole_not_direct_total{\(common),reason=\"too-large\"} 1"))
    #expect(samples.contains("pinhole_wait_seconds_bucket{\(common),le=\"+Inf\"} 1"))
  }
}
