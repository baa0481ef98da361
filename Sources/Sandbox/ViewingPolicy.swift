import CLinux
import Glibc

extension CallPolicy {
  /// What a bridge between the frame socket and its viewers needs beside what every bridge does:
  /// some viewers come by TCP, and a window may read the guest's pages itself.
  ///
  /// - Parameter ownPID: signals may go to this process alone.
  public static func viewing(ownPID: CInt = getpid()) -> CallPolicy {
    let bridge = CallPolicy.bridge(ownPID: ownPID)
    return CallPolicy(
      allowed: bridge.allowed + viewersSockets + windows, refused: bridge.refused)
  }

  /// Options of TCP sockets that come out of the listening ones.
  private static let viewersSockets: [CallRule] =
    [.any("getsockname"), .any("getsockopt"), .any("setsockopt")]

  /// Brackets around what a window reads of the guest's pages.
  private static let windows: [CallRule] =
    CallRule.each("ioctl", argument: 1, in: [ph_REQUEST_DMA_BUF_SYNC])
}
