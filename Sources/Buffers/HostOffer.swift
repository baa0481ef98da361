import GuestMemory
import Linux
import Pixels

// Host memory that a renderer draws into, as consumers get it.
extension BufferStore {
  /// What consumers get of a host buffer, made at the first call; nil where they cannot have it.
  ///
  /// What the renderer has exported is offered as it is. Else a memfd is wrapped by udmabuf, which
  /// takes none that is sealed against writing: whoever gets that dma-buf may write to it. Where
  /// that cannot be, the memfd itself is offered as a copy, sealed: the renderer must have mapped it
  /// by then.
  ///
  /// - Parameter asCopy: no dma-buf is wanted.
  public func offer(_ host: HostBuffer, asCopy: Bool) -> OfferedBuffer? {
    if let offered = host.offered { return offered }
    if !asCopy, let export = host.exported {
      // What the memfd is paid with is the host's own: nobody has that one.
      host.offered = offer(export)
      return host.offered
    }
    defer {
      // Whoever keeps a dma-buf keeps the memory. Of a memfd nothing tells.
      if let offered = host.offered, offered.isOriginal {
        offered.charge = host.charge
        offered.leftovers = leftovers
      }
    }
    guard let plane = host.planes.first, host.memory == .memfd else {
      host.offered = asCopy ? nil : OfferedBuffer(host, size: host.pixels.layout.size)
      return host.offered
    }
    let layout = host.pixels.layout
    var offered: OfferedBuffer?
    if !asCopy, host.copyReason == nil {
      do throws(CopyReason) { offered = try wrap(plane.fd, layout) } catch {
        host.copyReason = error
        note(error)
      }
    }
    if offered == nil {
      offered = seal(plane.fd, layout)
      host.isGivenAway = host.isGivenAway || offered != nil
    }
    host.offered = offered
    return offered
  }

  private func wrap(_ memory: SharedFD, _ layout: PixelLayout) throws(CopyReason) -> OfferedBuffer {
    let device = try device.get()
    let file: GuestFile
    do throws(Errno) { file = try GuestFile(try memory.duplicate()) } catch {
      throw .failed(error)
    }
    // What is behind the picture is not pinned.
    let page = UInt64(pageSize)
    let count = min(file.size, (layout.size &+ page &- 1) & ~(page &- 1))
    let plan = try BufferPlan(
      layout: layout, ranges: [FileRange(file: file, offset: 0, count: count)],
      limits: device.limits)
    do throws(Errno) {
      return OfferedBuffer(
        id: BufferID.next(), generation: 1, layout: layout, size: plan.bytes,
        fd: SharedFD(try device.create(plan.items)), memory: .rendered)
    } catch { throw .failed(error) }
  }

  private func seal(_ memory: SharedFD, _ layout: PixelLayout) -> OfferedBuffer? {
    do throws(Errno) {
      let size = try FileFacts(of: memory.raw).size
      if MemFD.seals(of: memory.raw)?.contains([.futureWrite, .seal]) != true {
        try MemFD.add([.futureWrite, .seal], to: memory.raw)
      }
      return OfferedBuffer(
        id: BufferID.next(), generation: 1, layout: layout, size: size, fd: memory, memory: .copy)
    } catch { return nil }
  }
}
