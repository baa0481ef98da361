import Command
import Linux

/// Where `pinhole status` asks: each connection is told the present state as one JSON document, and
/// closed. Nothing is read from it.
///
/// The socket is the owner's alone (mode 0600).
final class ControlSocket {
  private let listener: Listener

  /// Listens on a path; a socket there that nobody listens on is replaced.
  ///
  /// - Parameter state: the document.
  init(_ path: String, loop: EventLoop, _ state: @escaping () -> String) throws(Failure) {
    do throws(ListenError) {
      listener = try Listener(.path(path, .stream, takesDescriptors: false), on: loop)
    } catch {
      throw Failure("--control: \(error)")
    }
    listener.connected = { socket in
      var text = state() + "\n"
      // A reader that has no room for a few kilobytes has gone away.
      text.withUTF8 {
        _ = try? UnixSocket.send(socket.raw, UnsafeRawBufferPointer($0), dontWait: true)
      }
    }
  }
}
