import CLinux
import Linux

/// A drm_syncobj timeline that somebody else brought, and the DRM node that it is asked through
/// (drm/drm.h).
///
/// Nothing here waits for a fence: a point that has none yet is waited for like any other, by the
/// event loop. But some drivers wake a sleeping GPU up for any request to its node.
public final class SyncTimeline {
  /// Why what was brought is of no use.
  public enum Fault: Error, Equatable {
    /// The descriptor of the node belongs to something else than a DRM device.
    case notANode
    /// The node's driver has no timelines (`EOPNOTSUPP`), or the kernel no
    /// `DRM_IOCTL_SYNCOBJ_EVENTFD` (`EINVAL`, before Linux 6.6).
    case nodeLacksTimelines(Errno)
    /// The other descriptor is no drm_syncobj.
    case notASyncobj(Errno)
  }

  private let node: OwnedFD
  private let handle: UInt32

  /// Takes over a node and imports a syncobj into it; both descriptors may be anything.
  ///
  /// - Parameters:
  ///   - syncobj: what `DRM_IOCTL_SYNCOBJ_HANDLE_TO_FD` returned; closed here.
  ///   - node: an open `/dev/dri/renderD*` or `/dev/dri/card*`, in which a handle is made.
  public init(_ syncobj: consuming OwnedFD, node: consuming OwnedFD) throws(Fault) {
    guard ph_drm_is_node(node.raw) == 1 else { throw .notANode }
    do throws(Errno) {
      try check(ph_syncobj_has_eventfd(node.raw), "ioctl(DRM_IOCTL_SYNCOBJ_EVENTFD)")
    } catch { throw .nodeLacksTimelines(error) }
    guard Foreign.isAnonymous(syncobj.raw) else { throw .notASyncobj(Errno(22, "statx")) }
    var handle: UInt32 = 0
    do throws(Errno) {
      try check(
        ph_syncobj_import(node.raw, syncobj.raw, &handle), "ioctl(DRM_IOCTL_SYNCOBJ_FD_TO_HANDLE)")
    } catch { throw .notASyncobj(error) }
    self.handle = handle
    self.node = node
  }

  deinit { _ = ph_syncobj_destroy(node.raw, handle) }

  /// An eventfd that becomes readable once a point has signalled, with or without an error; it
  /// outlives the timeline.
  ///
  /// - Parameter point: at least 1.
  /// - Throws: `ENOENT` when the node's owner has destroyed the handle, `ENODEV` when the device
  ///   is gone; `EMFILE` and others of eventfd(2).
  public func event(for point: UInt64) throws(Errno) -> SharedFD {
    let event = SharedFD(OwnedFD(adopting: try check(ph_eventfd(0), "eventfd")))
    try check(
      ph_syncobj_eventfd(node.raw, handle, point, event.raw), "ioctl(DRM_IOCTL_SYNCOBJ_EVENTFD)")
    return event
  }
}
