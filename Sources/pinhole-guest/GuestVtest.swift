import ArgumentParser
import Command
import FakeGuest
import Glibc
import Linux

/// `pinhole-guest vtest`: GL programs of this machine as a guest's.
struct GuestVtest: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "vtest", abstract: "Run GL programs on a guest's 3D, without a virtual machine.",
    discussion: """
      It connects to `pinhole serve --3d --socket-path PATH` as QEMU does and serves programs whose \
      driver is Mesa's virgl, one after another:
        GALLIUM_DRIVER=virpipe LIBGL_ALWAYS_SOFTWARE=1 PROGRAM
      Each is a guest of its own.
      """)

  @Option(help: "The socket that pinhole listens on.")
  var socketPath: String

  @Option(help: "The socket that Mesa's driver connects to; some versions know this one only.")
  var listen = "/tmp/.virgl_test"

  @Option(help: "Bytes of the guest's memory, such as 1G.")
  var memory = ByteCount(1 << 30)

  @Option(help: "How many programs to serve; 0 for as many as come.")
  var programs = 0

  func run() throws {
    unlink(listen)
    let listener = try open()
    defer { unlink(listen) }
    var served = 0
    while programs == 0 || served < programs {
      do throws(Errno) {
        let client = try UnixSocket.accept(listener.raw)
        try UnixSocket.setNonblocking(client.raw, false)
        served += 1
        serve(client)
      } catch { throw Failure("--listen \(listen): \(error)") }
    }
  }

  private func open() throws(Failure) -> OwnedFD {
    do throws(Errno) {
      let listener = try UnixSocket.listen(listen, kind: .stream, backlog: 64)
      try UnixSocket.setNonblocking(listener.raw, false)
      return listener
    } catch { throw Failure("--listen \(listen): \(error)") }
  }

  private func serve(_ client: consuming OwnedFD) {
    do {
      let size = memory.bytes
      let ram = try GuestRAM(size: size, regions: GuestRAM.pcRegions(size: size))
      let guest = try VtestGuest(try VhostUserFrontEnd(path: socketPath, ram: ram))
      guest.onRefusal = { complain("guest: \($0)") }
      try VtestSession(client, guest).run()
      print("guest: commands \(guest.commands), refused \(guest.refused)")
    } catch { complain("guest: \(error)") }
  }
}
