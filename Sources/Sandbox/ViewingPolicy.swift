import CLinux
import Glibc

extension CallPolicy {
  /// What a bridge between the frame socket and its viewers needs beside what every bridge does:
  /// some viewers come by TCP, and a window may read the guest's pages itself.
  ///
  /// - Parameters:
  ///   - ownPID: signals may go to this process alone.
  ///   - removesFiles: sockets' paths may be removed at the end; only where Landlock says which.
  public static func viewing(
    ownPID: CInt = getpid(), removesFiles: Bool = Landlock.abi != nil
  ) -> CallPolicy {
    let bridge = CallPolicy.bridge(ownPID: ownPID, removesFiles: removesFiles)
    return CallPolicy(
      allowed: bridge.allowed + viewersSockets + windows, refused: bridge.refused)
  }

  /// Options of TCP sockets that come out of the listening ones (`ph_tcp_prepare`). libwayland may
  /// ask for options of its socket, and sets none.
  private static let viewersSockets: [CallRule] = [
    .any("getsockname"),
    .with(UInt64(SOL_SOCKET), masked: 0xffff_ffff, in: 1, "getsockopt"),
    .both("setsockopt", (1, SOL_SOCKET), (2, SO_KEEPALIVE)),
    .both("setsockopt", (1, tcp), (2, noDelay)),
    .both("setsockopt", (1, tcp), (2, notSentLowWater)),
  ]

  // tcp(7).
  private static let tcp: CInt = 6  // IPPROTO_TCP
  private static let noDelay: CInt = 1  // TCP_NODELAY
  private static let notSentLowWater: CInt = 25  // TCP_NOTSENT_LOWAT

  /// Brackets around what a window reads of the guest's pages.
  private static let windows: [CallRule] =
    CallRule.each("ioctl", argument: 1, in: [ph_REQUEST_DMA_BUF_SYNC])
}
