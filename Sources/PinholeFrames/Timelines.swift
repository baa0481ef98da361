import CLinux
import FrameProtocol
import Glibc
import Linux
import PinholeProtocol

// Release points of a drm_syncobj timeline, which may be named before there is a fence for them.
extension FrameConsumer {
  /// Whether a DRM node can be brought to a producer on this machine: its driver has timelines,
  /// and the kernel has `DRM_IOCTL_SYNCOBJ_EVENTFD` (Linux 6.6).
  ///
  /// - Parameter node: an open `/dev/dri/renderD*`, or anything else.
  public static func hasTimelines(node: CInt) -> Bool {
    ph_drm_is_node(node) == 1 && ph_syncobj_has_eventfd(node) == 0
  }

  /// Whether timelines were asked for and the producer agreed.
  public var mayUseTimelines: Bool {
    (producer?.features ?? 0) & PINHOLE_FEATURE_TIMELINE != 0
  }

  /// Brings the timeline of an output's release points; the output has none yet.
  ///
  /// Both descriptors stay the caller's. The producer makes a handle in the node's open file:
  /// open one for it alone, so that it meets none of yours.
  ///
  /// - Parameters:
  ///   - output: which output, from 0.
  ///   - syncobj: what `DRM_IOCTL_SYNCOBJ_HANDLE_TO_FD` returned.
  ///   - node: an open DRM node for which ``hasTimelines(node:)`` holds.
  /// - Throws: `EOPNOTSUPP` unless ``mayUseTimelines``. What the producer does not like about the
  ///   descriptors comes as ``FramesError/refused(_:)`` of ``next(timeout:)``.
  public func addTimeline(
    output: UInt32, syncobj: CInt, node: CInt
  ) throws(FramesError) {
    try requireTimelines()
    try send(TimelineAdd(output: output, syncobj: 0, node: 1).wire, fds: [syncobj, node])
  }

  /// Takes the timeline of an output back. Points that were named before still count.
  ///
  /// - Throws: `EOPNOTSUPP` unless ``mayUseTimelines``.
  public func removeTimeline(output: UInt32) throws(FramesError) {
    try requireTimelines()
    try send(TimelineRemove(output: output).wire)
  }

  /// Tells the producer that a frame is not read any more once a point of its output's timeline
  /// has signalled. The point may still be without a fence.
  ///
  /// - Parameters:
  ///   - frame: a frame of an output that has a timeline.
  ///   - point: at least 1.
  /// - Throws: `EOPNOTSUPP` unless ``mayUseTimelines``.
  public func done(_ frame: ReceivedFrame, point: UInt64) throws(FramesError) {
    try requireTimelines()
    try done(frame, .point(point))
  }

  private func requireTimelines() throws(FramesError) {
    guard mayUseTimelines else { throw .system(Errno(EOPNOTSUPP, "the producer's timelines")) }
  }
}
