import ArgumentParser
import Command
import Glibc
import HelperOptions
import PinholeInput

/// `pinhole input send`: a controller for scripts.
struct SendInput: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: SendInputOptions.name,
    abstract: SendInputOptions.abstract,
    discussion: """
      Each argument is one moment; numbers are those of linux/input-event-codes.h:
        key=30            KEY_A goes down and up
        down=42  up=42    KEY_LEFTSHIFT is held and let go
        at=10,20/640x480  the pointer goes to pixel 10,20 of an output of 640x480;
                          /640x480/1 for output 1
        move=5,-3         the mouse moves
        button=272        BTN_LEFT goes down and up where the pointer is
        wheel=-1          the wheel turns towards the user
        wait=100          nothing for 100 milliseconds
      What is held goes up at the end.
      """)

  @OptionGroup var options: SendInputOptions

  func run() throws {
    do throws(InputError) {
      let input = try InputClient(path: options.controlSocket, name: "pinhole input send")
      guard case .connected = try input.next(timeout: 5000) else { throw .closed }
      for moment in options.moments {
        for (events, place) in moment.steps { try input.send(events, at: place) }
        try drain(input)
        if moment.wait > 0 { usleep(moment.wait * 1000) }
      }
    } catch { throw Failure("\(error)") }
  }

  private func drain(_ input: InputClient) throws(InputError) {
    while input.hasWaiting {
      var poll = pollfd(fd: input.fd, events: Int16(POLLOUT), revents: 0)
      _ = Glibc.poll(&poll, 1, 1000)
      try input.flush()
    }
    while try input.next(timeout: 0) != nil {}
  }
}
