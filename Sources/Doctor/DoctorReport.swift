import Buffers
import Daemon
import Linux
import Monitoring
import QEMUDisplay

/// What facts about a machine mean for a guest's pictures.
package struct DoctorReport {
  /// How good a finding is.
  enum Mark: String {
    /// As it should be.
    case good = "ok  "
    /// It works, and could be better.
    case advice = "note"
    /// It stands in the way of zero-copy.
    case bad = "MISS"

    /// In green, yellow or red.
    var dressed: String {
      let colour = self == .good ? 32 : self == .advice ? 33 : 31
      return "\u{1b}[\(colour)m\(rawValue)\u{1b}[0m"
    }
  }

  /// One finding.
  struct Line: Equatable {
    var mark: Mark
    var subject: String
    var text: String
    /// What to type, for every mark but ``Mark/good``; see ``Cure``.
    var cure: String?
  }

  private(set) var lines: [Line] = []
  /// Whether a guest's pages can be shown without copying.
  package private(set) var isDirect: Bool
  /// What a guest would get, and how to get a better one.
  private(set) var verdict: String

  /// Judges facts; looks at nothing else.
  ///
  /// - Parameters:
  ///   - qemu: a QEMU that runs, which is judged too.
  ///   - node: a GPU, which is judged too.
  package init(_ facts: DoctorFacts, qemu: QEMUFacts? = nil, node: RenderNodeFacts? = nil) {
    let lines =
      (qemu.map(QEMUReport.lines) ?? []) + (node.map(RenderNodeReport.lines) ?? [])
    let problems =
      Self.problems(facts) + lines.filter { $0.mark == .bad }.map { ($0.text, $0.cure ?? "") }
    isDirect = problems.isEmpty
    if let first = problems.first {
      verdict =
        "copy: \(first.why). To get direct mode: "
        + problems.map(\.cure).joined(separator: "; and ")
    } else if qemu != nil {
      verdict = "direct: its guest is shown without copying"
    } else {
      verdict =
        "direct: a guest in a sealed memfd (memory-backend-memfd,share=on) is shown "
        + "without copying"
    }
    self.lines =
      [
        Self.kernel(facts), Self.udmabuf(facts), Self.entries(facts), Self.bytes(facts),
        Self.userfaultfd(facts), Self.detector(facts), Self.memfd(facts), Self.landlock(facts),
        Self.seccomp(facts), Self.socket(facts), Self.qemu(facts), Self.libvirt(facts),
        Self.confinement(facts), Self.rendering(facts),
      ].compactMap { $0 } + lines
  }

  /// For standard output.
  ///
  /// - Parameter colours: whether marks are dressed up for a terminal.
  package func text(colours: Bool = false) -> String {
    lines.map { line in
      let mark = colours ? line.mark.dressed : line.mark.rawValue
      let cure = line.cure.map { "      type: \($0.printable)\n" } ?? ""
      return "\(mark)  \(line.subject): \(line.text.printable)\n" + cure
    }.joined() + "A guest would get \(verdict.printable).\n"
  }

  /// One line for programs.
  package var json: JSON {
    .object([
      .init("direct", .bool(isDirect)), .init("verdict", .string(verdict)),
      .init(
        "lines",
        .array(
          lines.map {
            .object([
              .init("mark", .string("\($0.mark)")), .init("subject", .string($0.subject)),
              .init("text", .string($0.text)), .init("type", $0.cure.map { .string($0) } ?? .null),
            ])
          })),
    ])
  }

  /// What stands in the way of zero-copy, with what to do about it.
  private static func problems(_ facts: DoctorFacts) -> [(why: String, cure: String)] {
    var found: [(why: String, cure: String)] = []
    if let problem = facts.udmabufProblem { found.append(udmabufProblem(problem, facts)) }
    if case .failure(let error) = facts.detector {
      found.append(("discards would go unnoticed", Cure.witness(error, facts.userfaultfd)))
    }
    if !facts.sealsMemfds { found.append(("memfds cannot be sealed", Cure.memfd)) }
    return found
  }

  static func udmabufProblem(
    _ problem: CopyReason, _ facts: DoctorFacts
  ) -> (why: String, cure: String) {
    guard let device = facts.udmabuf, case .noAccess = problem else {
      return ("there is no /dev/udmabuf", Cure.module)
    }
    guard device.opens else {
      return ("this user may not open /dev/udmabuf (\(device.rights))", Cure.access(to: device))
    }
    return ("/dev/udmabuf is no udmabuf", "rm /dev/udmabuf; modprobe udmabuf")
  }
}
