import FakeGuest
import Glibc
import Linux

/// What a back-end costs before and without frames: its start, its memory, its wake-ups.
struct StartAndRest {
  let pinhole: String
  let qemu: String
  let rounds: Int
  let givesRatios: Bool

  func run(into directory: String) throws(GuestError) {
    var backEnds: [BackEnd] = [.pinhole(pinhole)]
    if access(qemu, X_OK) == 0 { backEnds.append(.qemu(qemu)) }
    var starts = [[Double]](repeating: [], count: backEnds.count)
    for round in 0..<rounds {
      for step in backEnds.indices {
        let index = (step + round) % backEnds.count
        starts[index].append(try start(backEnds[index]))
      }
    }
    var table = Table(
      title: "Start and rest",
      columns: [
        "back-end", "ms until its socket answers", "memory of its own, KiB, 1080p shown",
        "wake-ups in 10 s at rest",
      ])
    for (index, backEnd) in backEnds.enumerated() {
      let shown = try RunningBackEnd(backEnd, Scene(name: "1080p, all"))
      let before = shown.switches
      sleep(10)
      table.rows.append([
        backEnd.name, decimal((median(starts[index]) ?? 0) / 1_000_000, 1),
        "\(shown.ownMemory)", "\(shown.switches - before)",
      ])
    }
    let text = table.markdown(Machine.header + ["\(rounds) starts each, interleaved; medians"])
    try save(text, as: "\(directory)/start.md")
    print(text)
  }

  private func start(_ backEnd: BackEnd) throws(GuestError) -> Double {
    let directory = try TemporaryDirectory()
    let path = directory.file("gpu.sock")
    let null: OwnedFD
    do throws(Errno) { null = try OwnedFD.open("/dev/null", O_RDWR) } catch {
      throw .system("/dev/null", error)
    }
    let began = Clock.now
    let child = try ChildProcess.start(backEnd.command(path), fds: [(null.raw, 1), (null.raw, 2)])
    let deadline = began + 20_000_000_000
    while (try? UnixSocket.connect(path, kind: .stream)) == nil {
      guard child.status == nil, Clock.now < deadline else {
        throw .timedOut("\(backEnd.name) on its socket")
      }
      usleep(200)
    }
    return Double(Clock.now - began)
  }
}
