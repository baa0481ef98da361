import CLinux
import FakeGuest
import Glibc
import GuestMemory
import Linux
import VhostUser

/// What a front-end does to the device's process.
enum FrontEndAttacks {
  static let all = [
    Attack("memory tables") { path, _ in
      let end = try UnixSocket.connect(path, kind: .stream)
      let ram = try MemFD.create("ram", size: 1 << 20, seals: [.shrink])
      for base in 0..<UInt64(300 * attackScale) {
        let table = MemoryTable([
          MemoryRegion(guestAddress: base << 20, size: 1 << 19, userAddress: 0, fileOffset: 0),
          MemoryRegion(
            guestAddress: (base + 1) << 20, size: 1 << 19, userAddress: 1 << 20,
            fileOffset: 1 << 19),
        ])
        try say(end.raw, .setMemoryTable, table.bytes, [ram.raw, ram.raw])
      }
    },
    Attack("display sockets") { path, _ in
      let end = try UnixSocket.connect(path, kind: .stream)
      for _ in 0..<1000 * attackScale {
        let pair = try UnixSocket.Pair(.stream)
        try say(end.raw, .gpuSetSocket, [], [pair.first.raw])
      }
    },
    Attack("display sockets that carry what lingers") { path, number in
      guard number < 200 else {
        usleep(20_000)
        return
      }
      let end = try UnixSocket.connect(path, kind: .stream)
      for request in [FrontEndRequest.gpuSetSocket, .setBackendRequestFD, .setMemoryTable] {
        let waiting = try WaitingSocket(lingering: 2)
        let pair = try UnixSocket.Pair(.stream)
        try FrameAttacks.send(pair.second.raw, [1], [waiting.raw])
        waiting.giveAway()
        try say(end.raw, request, [], [pair.first.raw])
      }
    },
    Attack("eventfds that are full and wait") { path, _ in
      let end = try UnixSocket.connect(path, kind: .stream)
      for index in 0..<2 as Range<UInt32> {
        let event = try EventFD()
        try UnixSocket.setNonblocking(event.fd.raw, false)
        var most = UInt64.max - 1
        _ = write(event.fd.raw, &most, 8)
        for request in [FrontEndRequest.setVringKick, .setVringCall, .setVringError] {
          try say(end.raw, request, VringDescriptor(index: index).bytes, [event.fd.raw])
        }
        try say(end.raw, .setVringEnable, VringState(index: index, num: 1).bytes)
        try say(end.raw, .getVringBase, VringState(index: index, num: 0).bytes)
      }
      usleep(5000)
    },
    Attack("odd descriptors with each request") { path, number in
      let odd = Odd()
      for request in FrontEndRequest.allCases {
        let end = try UnixSocket.connect(path, kind: .stream)
        let payload = [UInt8](repeating: 0, count: [0, 8, 12, 40][number % 4])
        try? say(end.raw, request, payload, Array(odd.all.prefix(1 + number % 8)))
      }
    },
    Attack("half messages") { path, number in
      let end = try UnixSocket.connect(path, kind: .stream)
      let whole = VhostUserMessage(.setFeatures, WordPayload(0).bytes).encoded
      let odd = Odd()
      try FrameAttacks.send(end.raw, Array(whole.prefix(1 + number % 19)), odd.all)
      usleep(500)
    },
    Attack("rubbish") { path, _ in
      let end = try UnixSocket.connect(path, kind: .stream)
      for _ in 0..<50 {
        try FrameAttacks.send(
          end.raw, (0..<Int.random(in: 1...400)).map { _ in UInt8.random(in: 0...255) })
      }
    },
    Attack("a counter that is filled while it is rung") { path, _ in
      let ram = try GuestRAM(size: 4 << 20)
      let front = try VhostUserFrontEnd(path: path, ram: ram)
      let driver = try GPUDriver(front)
      let isOver = Locked(false)
      let calls = front.callEvents
      let racer = try Thread("racer") {
        // The flag is the front-end's to change, and so is the count.
        var most = UInt64.max - 1
        while !isOver.withLock({ $0 }) {
          for call in calls {
            try? UnixSocket.setNonblocking(call.raw, false)
            try? UnixSocket.setNonblocking(call.raw, true)
            _ = write(call.raw, &most, 8)
          }
        }
      }
      defer { isOver.withLock { $0 = true } }
      for _ in 0..<50 { try driver.send(.getDisplayInfo) }
      try driver.kick()
      usleep(20_000)
      withExtendedLifetime(racer) {}
    },
    Attack("memory that is truncated in a loop") { path, _ in
      let ram = try GuestRAM(size: 4 << 20, seals: [])
      let driver = try GPUDriver(try VhostUserFrontEnd(path: path, ram: ram))
      let frame = try Framebuffer(driver, resource: 1, width: 64, height: 64)
      try frame.show()
      for round in 0..<20 {
        for command in frame.flushCommands() { try driver.send(command) }
        try driver.kick()
        _ = ftruncate(ram.fd.raw, off_t(round & 1 == 0 ? 0 : 4 << 20))
      }
    },
    Attack("regions in and out under live rings") { path, _ in
      let half: UInt64 = 2 << 20
      let ram = try GuestRAM(size: 2 * half, regions: GuestRAM.halves(size: 2 * half))
      let front = try VhostUserFrontEnd(path: path, ram: ram)
      let driver = try GPUDriver(front)
      for _ in 0..<100 {
        try driver.send(.getDisplayInfo)
        try driver.kick()
        try front.removeMemory(ram.regions[1])
        try front.addMemory(ram.regions[1])
      }
    },
    Attack("questions whose answers nobody reads") { path, _ in
      let end = try UnixSocket.connect(path, kind: .stream)
      for _ in 0..<20_000 { try say(end.raw, .getFeatures, [], dontWait: true) }
    },
  ]

  private static func say(
    _ fd: CInt, _ request: FrontEndRequest, _ payload: [UInt8] = [], _ fds: [CInt] = [],
    dontWait: Bool = false
  ) throws {
    let bytes = VhostUserMessage(request, payload).encoded
    _ = try bytes.withUnsafeBytes {
      try UnixSocket.send(fd, $0, fds: fds, dontWait: dontWait)
    }
  }
}
