import Fences
import FrameProtocol
import Glibc
import Linux
import Logging
import PinholeProtocol

// The fences that a consumer brings with FRAME_DONE, and the timelines whose points some are.
extension FrameClient {
  /// Whether fences may come with messages, both ways.
  var takesFences: Bool { features & PINHOLE_FEATURE_SYNC_FILE != 0 }
  /// Whether it imports images of a GPU, whatever their planes and modifiers.
  var takesImages: Bool { features & PINHOLE_FEATURE_MODIFIERS != 0 }

  /// Points are those of the output's timeline.
  func requireTimeline(of done: FrameDone) throws(MalformedMessage) {
    guard case .point = done.release, outputs[Int(done.output)].timeline == nil else { return }
    throw WireFault.unexpected(
      \pinhole_frame_done.release_kind, of: PINHOLE_FRAME_DONE,
      "output \(done.output) has no timeline")
  }

  /// What a FRAME_DONE waits for, as a descriptor that becomes readable; nil if for nothing.
  func fence(
    of release: FrameDone.Release, _ output: Int, _ fds: inout [CInt]
  ) throws(MalformedMessage) -> SharedFD? {
    switch release {
    case .now: return nil
    case .syncFile: return try syncFile(&fds)
    case .point(let point): return try self.point(point, output)
    }
  }

  private func syncFile(_ fds: inout [CInt]) throws(MalformedMessage) -> SharedFD? {
    let field = \pinhole_frame_done.release_kind
    guard let raw = fds.popLast() else {
      throw WireFault.malformed(field, of: PINHOLE_FRAME_DONE, "no descriptor came")
    }
    do throws(Errno) {
      let fence = try SyncFile(checking: OwnedFD(adopting: raw, from: socket.sender))
      return fence.isSignalled ? nil : SharedFD(fence.intoFD())
    } catch {
      throw WireFault.malformed(
        field, of: PINHOLE_FRAME_DONE, "the descriptor is no sync_file: \(error.message)")
    }
  }

  private func point(_ point: UInt64, _ output: Int) throws(MalformedMessage) -> SharedFD? {
    do throws(Errno) {
      guard let event = try outputs[output].timeline?.event(for: point) else { return nil }
      return SyncFile.isSignalled(event.raw) ? nil : event
    } catch {
      // What we ran out of is not the consumer's fault.
      if [EMFILE, ENFILE, ENOMEM].contains(error.code) {
        server.log.warning("\(label): cannot wait for a point: \(error)")
        return nil
      }
      throw WireFault.malformed(
        \pinhole_frame_done.release_point, of: PINHOLE_FRAME_DONE,
        "the output's timeline cannot be asked: \(error.message)")
    }
  }

  // MARK: Timelines

  /// - Parameter fds: the two that came.
  func add(_ timeline: TimelineAdd, _ fds: inout [CInt]) throws(MalformedMessage) {
    let output = Int(timeline.output)
    guard outputs[output].timeline == nil else {
      throw WireFault.unexpected(
        \pinhole_timeline_add.output, of: PINHOLE_TIMELINE_ADD,
        "output \(output) has a timeline already")
    }
    guard fds.count == 2 else { return }
    let syncobj = OwnedFD(adopting: fds[timeline.syncobj], from: socket.sender)
    let node = OwnedFD(adopting: fds[timeline.node], from: socket.sender)
    fds.removeAll(keepingCapacity: true)
    do throws(SyncTimeline.Fault) {
      outputs[output].timeline = try SyncTimeline(syncobj, node: node)
    } catch { throw Self.fault(error) }
  }

  private static func fault(_ fault: SyncTimeline.Fault) -> MalformedMessage {
    let type = PINHOLE_TIMELINE_ADD
    switch fault {
    case .notANode:
      return WireFault.malformed(
        \pinhole_timeline_add.node_index, of: type, "the descriptor is no DRM node")
    case .nodeLacksTimelines(let error):
      return MalformedMessage(
        code: PINHOLE_ERROR_UNSUPPORTED, type: type.rawValue, at: \pinhole_timeline_add.node_index,
        text: "the DRM node lacks DRM_IOCTL_SYNCOBJ_EVENTFD: \(error.message)")
    case .notASyncobj(let error):
      return WireFault.malformed(
        \pinhole_timeline_add.syncobj_index, of: type,
        "the descriptor is no drm_syncobj: \(error.message)")
    }
  }

  /// Points that are waited for already stay so.
  func removeTimeline(_ output: Int) throws(MalformedMessage) {
    guard outputs[output].timeline != nil else {
      throw WireFault.unexpected(
        \pinhole_timeline_remove.output, of: PINHOLE_TIMELINE_REMOVE,
        "output \(output) has no timeline")
    }
    outputs[output].timeline = nil
  }
}

/// Faults of a message that was decoded already.
enum WireFault {
  /// A value that can never be right.
  static func malformed<Body>(
    _ field: PartialKeyPath<Body>, of type: pinhole_message, _ text: String
  ) -> MalformedMessage {
    MalformedMessage(type: type.rawValue, at: field, text: text)
  }

  /// A value that is not right now.
  static func unexpected<Body>(
    _ field: PartialKeyPath<Body>, of type: pinhole_message, _ text: String
  ) -> MalformedMessage {
    MalformedMessage(
      code: PINHOLE_ERROR_UNEXPECTED, type: type.rawValue, at: field, text: text)
  }
}
