import CLinux
import CVirgl
import Glibc
import Linux
import RenderWire

/// A file of the daemon's, mapped as long as a backing uses it.
private final class MappedFile {
  let mapping: Mapping

  init(_ mapping: consuming Mapping) { self.mapping = mapping }

  /// Where a run lies, nil if it is not all in the file.
  func memory(_ run: RenderRun) -> iovec? {
    let (end, overflow) = run.offset.addingReportingOverflow(run.count)
    guard !overflow, end <= UInt64(mapping.count), let offset = Int(exactly: run.offset),
      let count = Int(exactly: run.count)
    else { return nil }
    return iovec(iov_base: mapping.base + offset, iov_len: count)
  }
}

/// The pieces of memory behind a resource, at a place that does not move.
private final class Pieces {
  let vectors: UnsafeMutableBufferPointer<iovec>
  private let files: [MappedFile]

  init(_ pieces: [iovec], _ files: [MappedFile]) {
    vectors = .allocate(capacity: pieces.count)
    _ = vectors.initialize(from: pieces)
    self.files = files
  }

  deinit { vectors.deallocate() }
}

/// Runs the daemon's requests on the library, one after another, until the socket ends.
///
/// The library trusts its caller in places: what it does not look at is looked at here.
final class RenderServer {
  private let socket: CInt
  private var ring: MappedFile?
  private var files: [UInt32: MappedFile] = [:]
  /// The pieces of each resource that has any.
  private var resources: [UInt32: Pieces?] = [:]
  private var contexts: Set<UInt32> = []
  /// The library's numbers of fences, which rise, and the requests that wait for them.
  private var fences: [(number: UInt32, id: UInt32)] = []
  private var lastFence: UInt32 = 0
  /// Nil where nothing has a twin in a GPU's memory.
  private let maker: TwinMaker?
  /// By the numbers of their files.
  private var twins: [UInt32: Twin] = [:]
  private let pollFD = ph_virgl_poll_fd()
  private let packet: UnsafeMutableRawBufferPointer

  init(socket: CInt, _ maker: TwinMaker?) {
    self.socket = socket
    self.maker = maker
    packet = .allocate(byteCount: RenderWire.largestPacket, alignment: 16)
  }

  deinit { packet.deallocate() }

  /// Packets between looks at fences while more packets come than are served.
  private static let stride = 32

  /// Serves until the daemon is gone or says something that is no request.
  func run() {
    while true {
      var served = 0
      while true {
        guard let more = receive() else { return }
        if !more { break }
        served += 1
        // Fences of the drawing before a flood must not wait for its end.
        if served == Self.stride {
          served = 0
          if !fences.isEmpty { ph_virgl_poll() }
        }
        retire()
      }
      wait()
      if !fences.isEmpty {
        ph_virgl_poll()
        retire()
      }
    }
  }

  private func wait() {
    var waiting = [pollfd(fd: socket, events: Int16(POLLIN), revents: 0)]
    if pollFD >= 0 { waiting.append(pollfd(fd: pollFD, events: Int16(POLLIN), revents: 0)) }
    let patience: CInt = fences.isEmpty ? -1 : pollFD >= 0 ? 10 : 1
    _ = poll(&waiting, nfds_t(waiting.count), patience)
  }

  private func retire() {
    let retired = ph_virgl_retired()
    // The numbers may wrap around.
    while let first = fences.first, Int32(bitPattern: retired &- first.number) >= 0 {
      fences.removeFirst()
      answer(first.id, 0)
    }
  }

  /// Takes one packet: false when there is none, nil when it is over. Where no fence is to be looked
  /// after it waits for one, which saves two system calls a request.
  private func receive() -> Bool? {
    var fds: [CInt] = []
    let count: Int
    do throws(Errno) {
      let got = try UnixSocket.receive(
        socket, into: packet, fds: &fds, maxFDs: 1, dontWait: !fences.isEmpty)
      guard !got.truncated, got.count > 0 else { return nil }
      count = got.count
    } catch { return error.code == EAGAIN || error.code == EINTR ? false : nil }
    let gift = fds.first.map { OwnedFD(adopting: $0) }
    let bytes = UnsafeRawBufferPointer(rebasing: UnsafeRawBufferPointer(packet)[0..<count])
    guard let header = RenderHeader(bytes), let opcode = RenderOpcode(rawValue: header.operation)
    else { return nil }
    var payload = UnsafeRawBufferPointer(rebasing: bytes[RenderHeader.size...])
    if header.flags & RenderHeader.isInRing != 0 {
      guard let ring, let place = RingPlace(payload, ringSize: ring.mapping.count) else {
        return nil
      }
      payload = UnsafeRawBufferPointer(
        start: ring.mapping.base + Int(place.offset), count: Int(place.count))
    }
    return perform(opcode, header.id, payload, gift) ? true : nil
  }

  private func answer(_ id: UInt32, _ error: CInt) {
    send(id, .done(error: UInt32(bitPattern: error)), [])
  }

  /// The number of an error, 0 for none.
  @discardableResult
  private func send(_ id: UInt32, _ answer: RenderAnswer, _ fds: [CInt]) -> CInt {
    answer.packet(id: id).withUnsafeBytes { bytes in
      while true {
        do throws(Errno) {
          _ = try UnixSocket.send(socket, bytes, fds: fds)
          return 0
        } catch {
          // The daemon never lets its side fill up for long; if it is gone the next receive says so.
          guard error.code == EINTR || error.code == EAGAIN else { return error.code }
        }
      }
    }
  }

  /// False for what is no request.
  private func perform(
    _ opcode: RenderOpcode, _ id: UInt32, _ payload: UnsafeRawBufferPointer,
    _ gift: consuming OwnedFD?
  ) -> Bool {
    // Neither decoded nor copied: it is large and frequent.
    if opcode == .submit {
      guard let commands = SubmittedCommands(payload) else { return false }
      answer(id, submit(commands))
      return true
    }
    guard let request = RenderRequest(opcode, payload) else { return false }
    if request == .fence {
      lastFence &+= 1
      fences.append((lastFence, id))
      let error = ph_virgl_fence(lastFence)
      if error != 0 {
        fences.removeLast()
        answer(id, error)
      }
      return true
    }
    if case .exportPicture(let file, let picture) = request {
      export(id, file, picture)
    } else {
      answer(id, run(request, gift))
    }
    return true
  }

  private func export(_ id: UInt32, _ file: UInt32, _ picture: RenderPicture) {
    twins[file] = nil
    guard let maker else { return answer(id, ENODEV) }
    guard files[file] != nil else { return answer(id, ENOENT) }
    do throws(Errno) {
      let twin = try Twin(of: picture, by: maker)
      let memory = try twin.export()
      // As many descriptors of this user may be under way as the kernel permits (ETOOMANYREFS).
      let error = send(id, .exported(twin.layout), [memory.raw])
      guard error == 0 else { return answer(id, error) }
      twins[file] = twin
    } catch { answer(id, error.code) }
  }

  private func submit(_ commands: SubmittedCommands) -> CInt {
    guard contexts.contains(commands.context) else { return ENOENT }
    guard let base = commands.bytes.baseAddress, !commands.bytes.isEmpty else { return 0 }
    return ph_virgl_submit(commands.context, base, UInt32(clamping: commands.bytes.count / 4))
  }

  private func run(_ request: RenderRequest, _ gift: consuming OwnedFD?) -> CInt {
    switch request {
    case .setUp(let version, let size):
      guard version == RenderWire.version, ring == nil else { return EPROTO }
      return map(gift, size, writable: false) { ring = $0 }
    case .addFile(let id, let size):
      guard files[id] == nil else { return EEXIST }
      return map(gift, size, writable: true) { files[id] = $0 }
    case .dropExport(let id): return twins.removeValue(forKey: id) == nil ? ENOENT : 0
    case .dropFile(let id):
      twins[id] = nil
      return files.removeValue(forKey: id) == nil ? ENOENT : 0
    case .createContext(let id, let capset, let name):
      guard id != 0, !contexts.contains(id) else { return EEXIST }
      let error = name.withUnsafeBytes {
        let text = $0.assumingMemoryBound(to: CChar.self).baseAddress
        return ph_virgl_create_context(id, capset, text, UInt32(name.count))
      }
      if error == 0 { contexts.insert(id) }
      return error
    case .destroyContext(let id):
      guard contexts.remove(id) != nil else { return ENOENT }
      ph_virgl_destroy_context(id)
      return 0
    case .attach(let context, let resource):
      guard contexts.contains(context), resources[resource] != nil else { return ENOENT }
      ph_virgl_attach(context, resource)
      return 0
    case .detach(let context, let resource):
      guard contexts.contains(context), resources[resource] != nil else { return ENOENT }
      ph_virgl_detach(context, resource)
      return 0
    default: return runOnResource(request)
    }
  }

  private func runOnResource(_ request: RenderRequest) -> CInt {
    switch request {
    case .createResource(let id, let shape):
      guard id != 0, resources[id] == nil else { return EEXIST }
      let error = Library.create(id, shape)
      if error == 0 { resources.updateValue(nil, forKey: id) }
      return error
    case .destroyResource(let id):
      guard let pieces = resources.removeValue(forKey: id) else { return ENOENT }
      if pieces != nil { ph_virgl_detach_iov(id) }
      ph_virgl_destroy_resource(id)
      return 0
    case .attachBacking(let id, let runs): return attach(id, runs)
    case .detachBacking(let id):
      guard let pieces = resources[id], pieces != nil else { return ENOENT }
      ph_virgl_detach_iov(id)
      resources.updateValue(nil, forKey: id)
      return 0
    case .transferToHost(let transfer): return run(transfer, toHost: true)
    case .transferFromHost(let transfer): return run(transfer, toHost: false)
    case .readBack(let id, let box, let run, let stride):
      guard resources[id] != nil, let file = files[run.file], var memory = file.memory(run) else {
        return ENOENT
      }
      let error = ph_virgl_transfer(0, id, 0, 0, stride, 0, box.virgl, 0, &memory, 1)
      guard error == 0, let twin = twins[run.file] else { return error }
      return twin.copy(box, at: run, from: memory, stride: stride)
    default: return EPROTO
    }
  }

  private func attach(_ id: UInt32, _ runs: [RenderRun]) -> CInt {
    guard let pieces = resources[id] else { return ENOENT }
    guard pieces == nil, !runs.isEmpty else { return EINVAL }
    var vectors: [iovec] = []
    var used: [UInt32: MappedFile] = [:]
    for run in runs {
      guard let file = files[run.file], let memory = file.memory(run) else { return ENOENT }
      used[run.file] = file
      vectors.append(memory)
    }
    let made = Pieces(vectors, Array(used.values))
    let error = ph_virgl_attach_iov(id, made.vectors.baseAddress, UInt32(vectors.count))
    if error == 0 { resources.updateValue(made, forKey: id) }
    return error
  }

  private func run(_ t: RenderTransfer, toHost: Bool) -> CInt {
    guard let pieces = resources[t.resource] else { return ENOENT }
    guard pieces != nil else { return EINVAL }
    guard t.context == 0 || contexts.contains(t.context) else { return ENOENT }
    return ph_virgl_transfer(
      toHost ? 1 : 0, t.resource, t.context, t.level, t.stride, t.layerStride, t.box.virgl,
      t.offset, nil, 0)
  }

  private func map(
    _ fd: consuming OwnedFD?, _ size: UInt64, writable: Bool, _ take: (MappedFile) -> Void
  ) -> CInt {
    guard let fd, let count = Int(exactly: size) else { return EBADF }
    do throws(Errno) {
      let mapping = try Mapping(
        fd: fd.raw, offset: 0, count: count, writable: writable, reserves: false)
      // The guest's memory does not belong into a core dump.
      try mapping.advise(ph_MADV_DONTDUMP, offset: 0, count: count)
      take(MappedFile(mapping))
      return 0
    } catch { return error.code }
  }
}

extension RenderBox {
  fileprivate var virgl: ph_virgl_box {
    ph_virgl_box(x: x, y: y, z: z, w: width, h: height, d: depth)
  }
}
