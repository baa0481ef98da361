import Glibc
import Linux

/// Runs one fuzz target under libFuzzer: `pinhole-fuzz TARGET [LIBFUZZER ARGUMENT]…`, or writes
/// the corpus of real sessions: `pinhole-fuzz seeds FOLDER`.
@main struct Fuzz {
  private static let targets: [String: @Sendable (consuming Input) throws -> Void] = [
    "vhost-user": VhostUserTarget.run, "rings": RingTarget.run, "gpu": GPUTarget.run,
    "gpu-3d": GPU3DTarget.run,
    "display": DisplayTarget.run, "frames": FramesTarget.run, "consumer": ConsumerTarget.run,
    "renderer": RendererTarget.run, "request": RequestTarget.run,
    "rfb": RFBTarget.run, "input": ControlTarget.run,
  ]
  /// Chosen once, before the first input.
  nonisolated(unsafe) private static var target: Target = { _ in }
  nonisolated(unsafe) private static var count = 0
  private static let variable = "PINHOLE_FUZZ_TARGET"

  static func main() {
    Signals.ignoreSIGPIPE()
    try? MemoryGuard.prepare()
    Foreign.prepare()
    var arguments = CommandLine.arguments
    if arguments.count == 3, arguments[1] == "seeds" { return Seeds.write(to: arguments[2]) }
    // The processes that libFuzzer starts for itself know the target from the environment.
    if arguments.count > 1, !arguments[1].hasPrefix("-") {
      setenv(variable, arguments.remove(at: 1), 1)
    }
    guard let name = getenv(variable), let target = targets[String(cString: name)] else {
      print("usage: pinhole-fuzz TARGET [ARGUMENT]…; targets: \(targets.keys.sorted())")
      exit(2)
    }
    Self.target = target
    Stock.prepare()
    var argc = CInt(arguments.count)
    var argv: UnsafeMutablePointer<UnsafeMutablePointer<CChar>?>? =
      .allocate(capacity: arguments.count + 1)
    for (index, argument) in arguments.enumerated() { argv?[index] = strdup(argument) }
    argv?[arguments.count] = nil
    exit(runDriver(&argc, &argv) { Fuzz.one($0, $1) })
  }

  /// Runs one input and sees to it that nothing of it is left.
  private static func one(_ data: UnsafePointer<UInt8>?, _ size: Int) -> CInt {
    // What the process opens once, such as the zeros for lost memory, is open after the first.
    if count == 0 { try? target(Input(UnsafeRawBufferPointer(start: data, count: size))) }
    let open = OpenFiles.count()
    do {
      try target(Input(UnsafeRawBufferPointer(start: data, count: size)))
    } catch {
      claim(false, "the harness failed: \(error)")
    }
    let left = OpenFiles.count()
    claim(left == open, "\(open) descriptors before this input, \(left) after it")
    count &+= 1
    if count % 64 == 0 { OpenFiles.checkMappings() }
    return 0
  }
}

/// Runs one input; throws when the harness itself cannot go on.
typealias Target = (consuming Input) throws -> Void

@_silgen_name("LLVMFuzzerRunDriver")
private func runDriver(
  _ argc: UnsafeMutablePointer<CInt>,
  _ argv: UnsafeMutablePointer<UnsafeMutablePointer<UnsafeMutablePointer<CChar>?>?>,
  _ callback: @convention(c) (UnsafePointer<UInt8>?, Int) -> CInt
) -> CInt

/// What must always be so; if it is not, the input is kept by libFuzzer.
func claim(_ condition: Bool, _ text: @autoclosure () -> String) {
  if condition { return }
  let line = "WRONG: \(text())\n"
  _ = write(2, line, line.utf8.count)
  abort()
}
