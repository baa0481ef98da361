import CLinux
import Glibc
import Linux

/// Runs a vtest client as a guest's program: its commands go through the rings of a device.
///
/// The client's memory is shared with this process, and is copied to and from guest pages: a driver
/// in a guest would have drawn into those.
package final class VtestGuest: VtestBackend {
  private let driver: GPUDriver
  private let context: UInt32 = 1
  private var resources: [UInt32: SharedResource] = [:]
  private var fence: UInt64 = 0
  /// Parts of resources that submitted commands write to guest memory.
  private var reads: [(handle: UInt32, offset: UInt32, size: UInt64)] = []
  /// Requests that were answered with an error. As Linux's driver does, the guest goes on.
  package private(set) var refused = 0
  /// Is told of the first of them.
  package var onRefusal: ((String) -> Void)?
  /// Requests that went through the rings.
  package private(set) var commands = 0

  /// A resource with the memory that its client draws into.
  private final class SharedResource {
    let memory: Mapping
    let fd: SharedFD
    let pages: GuestPages
    /// The device writes results of queries into it by itself.
    let isWritten: Bool

    init(_ size: Int, isWritten: Bool, _ ram: GuestRAM) throws {
      self.isWritten = isWritten
      let file = try MemFD.create("vtest", size: size)
      memory = try Mapping(fd: file.raw, offset: 0, count: size, writable: true)
      fd = SharedFD(file)
      pages = try ram.allocate(bytes: size)
    }
  }

  /// Starts the driver of a guest with 3D.
  package init(_ transport: any DeviceTransport) throws {
    var options = GPUDriver.Options()
    options.features |= Feature.virgl
    options.patience = 120_000
    driver = try GPUDriver(transport, options)
    guard driver.features & Feature.virgl != 0 else {
      throw GuestError.unsupported("the device does not offer VIRTIO_GPU_F_VIRGL")
    }
    try driver.perform(.createContext(context, name: "vtest"))
  }

  private func perform(_ command: GPUCommand, _ what: @autoclosure () -> String = "") throws {
    commands += 1
    let answer = try driver.run(command)
    if !answer.response.isOK { note(command, answer.response, what()) }
  }

  private func note(_ command: GPUCommand, _ response: GPUResponse, _ what: String = "") {
    refused += 1
    if refused <= Self.told { onRefusal?("\(command.name) was refused: \(response) \(what)") }
  }

  private static let told = 5

  /// Sends a request without waiting for its answer.
  private func post(_ command: GPUCommand) throws {
    commands += 1
    try driver.send(command) { [unowned self] answer in
      if !answer.response.isOK { note(command, answer.response) }
    }
    try driver.kick()
    try driver.poll()
  }

  package func capset(_ id: UInt32) throws -> [UInt8] {
    for index in 0..<UInt32(8) {
      commands += 1
      let info = try driver.run(.getCapsetInfo(index))
      guard info.response.isOK else { break }
      guard info.u32(24) == id else { continue }
      let size = Int(info.u32(32))
      let set = try driver.perform(.getCapset(id, version: info.u32(28), size: size))
      let bytes = Array(set.bytes.dropFirst(24).prefix(size))
      return id == Self.virgl2 ? Self.withoutStorage(bytes) : bytes
    }
    return []
  }

  /// Mesa would make blobs of buffers that stay mapped, as no guest with VIRGL alone can: Linux's
  /// driver tells it of no blobs, and vtest's version 2 has none.
  private static func withoutStorage(_ set: [UInt8]) -> [UInt8] {
    var set = set
    let last = capabilityBits + 3
    if last < set.count { set[last] &= ~(1 << 7) }
    return set
  }

  // virgl_hw.h: `capability_bits` of struct virgl_caps_v2 lie at this byte; the bit is 31.
  private static let virgl2: UInt32 = 2
  private static let capabilityBits = 392

  package func create(_ r: VtestResource) throws -> CInt? {
    try perform(
      .create3D(
        r.handle, target: r.target, format: r.format, bind: r.bind, width: r.width,
        height: r.height, depth: r.depth, arraySize: r.arraySize, lastLevel: r.lastLevel,
        samples: r.samples), "\(r)")
    try perform(.context(context, attach: true, resource: r.handle))
    guard r.size > 0 else { return nil }
    let shared = try SharedResource(
      Int(r.size), isWritten: r.bind & Self.custom != 0, driver.ram)
    resources[r.handle] = shared
    try perform(.attachBacking(r.handle, shared.pages.entries()))
    return shared.fd.raw
  }

  package func destroy(_ handle: UInt32) throws {
    try perform(.context(context, attach: false, resource: handle))
    try perform(.unref(handle))
    if let shared = resources.removeValue(forKey: handle) { driver.ram.free(shared.pages) }
  }

  package func transfer(_ t: VtestTransfer, toHost: Bool) throws {
    let box = GPUCommand.Box(
      x: t.x, y: t.y, z: t.z, width: t.width, height: t.height, depth: t.depth)
    let command = GPUCommand.transfer3D(
      t.handle, toHost: toHost, box, context: context, level: t.level, offset: UInt64(t.offset))
    if toHost {
      copy(t.handle, t.offset, UInt64(t.size), toGuest: true)
      return try perform(command)
    }
    fence += 1
    try perform(command.fenced(fence))
    copy(t.handle, t.offset, UInt64(t.size), toGuest: false)
  }

  /// Copies a part of a resource between its client's memory and the guest's.
  private func copy(_ handle: UInt32, _ offset: UInt32, _ size: UInt64, toGuest: Bool) {
    guard let shared = resources[handle] else { return }
    let start = min(Int(offset), shared.memory.count)
    let count = min(Int(clamping: size), shared.memory.count - start)
    let part = UnsafeMutableRawBufferPointer(start: shared.memory.base + start, count: count)
    if toGuest {
      driver.ram.write(UnsafeRawBufferPointer(part), to: shared.pages, at: start)
    } else {
      driver.ram.read(shared.pages, at: start, into: part)
    }
  }

  package func submit(_ bytes: [UInt8]) throws {
    bytes.withUnsafeBytes { noteTransfers($0) }
    for (handle, shared) in resources where shared.isWritten {
      copy(handle, 0, UInt64(shared.memory.count), toGuest: true)
    }
    try post(.submit(context, bytes))
  }

  /// Commands may transfer too: what they read must be in guest pages before, what they write is
  /// fetched when the client waits.
  private func noteTransfers(_ bytes: UnsafeRawBufferPointer) {
    let words = bytes.bindMemory(to: UInt32.self)
    var at = 0
    while at < words.count {
      let command = words[at] & 0xff
      let length = Int(words[at] >> 16)
      guard length < words.count - at else { return }
      if command == Self.transfer, length >= 13 {
        let isRead = words[at + 13] == Self.fromHost
        note(words[at + 1], words, at, offset: words[at + 12], isRead: isRead)
      } else if command == Self.copyTransfer, length >= 14 {
        // Bit 1 of its flags: read from the host.
        note(words[at + 12], words, at, offset: words[at + 13], isRead: words[at + 14] & 2 != 0)
      }
      at += length + 1
    }
  }

  /// - Parameter at: of a command with stride, layer stride and box at 4, 5 and 6 words.
  private func note(
    _ handle: UInt32, _ words: UnsafeBufferPointer<UInt32>, _ at: Int, offset: UInt32, isRead: Bool
  ) {
    let (stride, layer) = (UInt64(words[at + 4]), UInt64(words[at + 5]))
    let (width, height) = (UInt64(words[at + 9]), UInt64(words[at + 10]))
    let depth = UInt64(words[at + 11])
    // At least as much as it takes: a texel has 16 bytes at most.
    let row = max(stride, width &* 16)
    let size = max(layer, row &* height) &* depth
    if isRead {
      reads.append((handle, offset, size))
    } else {
      copy(handle, offset, size, toGuest: true)
    }
  }

  /// As a guest's program waits: for the fence of a submission.
  package func wait() throws {
    fence += 1
    try perform(.submit(context, []).fenced(fence))
    for (handle, offset, size) in reads { copy(handle, offset, size, toGuest: false) }
    reads = []
    for (handle, shared) in resources where shared.isWritten {
      copy(handle, 0, UInt64(shared.memory.count), toGuest: false)
    }
  }

  // virgl_protocol.h and virgl_hw.h.
  private static let transfer: UInt32 = 43
  private static let copyTransfer: UInt32 = 45
  private static let fromHost: UInt32 = 2
  private static let custom: UInt32 = 1 << 17
}
