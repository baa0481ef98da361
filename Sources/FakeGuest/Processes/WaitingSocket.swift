import CLinux
import Glibc
import Linux

/// A TCP socket whose last close waits: it lingers (`SO_LINGER`) for a peer that does not read.
package final class WaitingSocket {
  private var socket: SharedFD?
  private let peer: OwnedFD

  /// Connects two sockets on the loopback device and sends what does not fit.
  package init(lingering seconds: CInt) throws(Errno) {
    func tcp() throws(Errno) -> OwnedFD {
      OwnedFD(
        adopting: try retrying("socket") {
          Glibc.socket(AF_INET, CInt(SOCK_STREAM.rawValue) | 0o2000000, 0)
        })
    }
    let listener = try tcp()
    let socket = SharedFD(try tcp())
    var address = sockaddr_in()
    address.sin_family = sa_family_t(AF_INET)
    address.sin_addr.s_addr = UInt32(0x7f00_0001).bigEndian
    var length = socklen_t(MemoryLayout<sockaddr_in>.size)
    let (server, client) = (listener.raw, socket.raw)
    try retrying("bind") { Self.with(&address) { Glibc.bind(server, $0, length) } }
    try retrying("listen") { Glibc.listen(server, 1) }
    try retrying("getsockname") { Self.with(&address) { getsockname(server, $0, &length) } }
    try retrying("connect") { Self.with(&address) { Glibc.connect(client, $0, length) } }
    peer = OwnedFD(adopting: try retrying("accept") { accept(server, nil, nil) })
    let rubbish = [UInt8](repeating: 0, count: 65536)
    while send(client, rubbish, rubbish.count, CInt(MSG_DONTWAIT)) > 0 {}
    var linger = linger(l_onoff: 1, l_linger: seconds)
    try retrying("setsockopt(SO_LINGER)") {
      setsockopt(
        client, SOL_SOCKET, SO_LINGER, &linger, socklen_t(MemoryLayout.size(ofValue: linger)))
    }
    self.socket = socket
  }

  /// The lingering end; -1 once it was given away.
  package var raw: CInt { socket?.raw ?? -1 }

  /// Leaves the lingering end to whoever has received it; the other stays open for as long as this
  /// object lives.
  package func giveAway() {
    socket = nil
  }

  private static func with<R>(
    _ address: inout sockaddr_in, _ body: (UnsafeMutablePointer<sockaddr>) -> R
  ) -> R {
    withUnsafeMutablePointer(to: &address) {
      $0.withMemoryRebound(to: sockaddr.self, capacity: 1, body)
    }
  }
}
