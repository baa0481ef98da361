import Glibc
import Linux

/// What this process's event loops wait for, as the kernel tells.
package enum WatchedSocket {
  /// Whether a loop waits until there is room in a socket; nil if none watches it.
  ///
  /// A loop that does so for longer than room lacks never rests, which nothing else shows.
  package static func awaitsRoom(_ fd: CInt) -> Bool? {
    var facts = stat()
    guard fstat(fd, &facts) == 0 else { return nil }
    let (number, inode) = ("\(fd)", "ino:" + String(facts.st_ino, radix: 16))
    for entry in (try? Folder.descriptors(of: getpid())) ?? []
    where entry.target.contains("eventpoll") {
      // proc_pid_fdinfo(5): "tfd: 5 events: 19 data: 2a pos:0 ino:61af6 sdev:7"
      let watches = WholeFile.text(entry.path.replacing("/fd/", with: "/fdinfo/")) ?? ""
      for line in watches.split(separator: "\n") {
        let words = line.split(separator: " ")
        guard words.count > 3, words[0] == "tfd:", words[1] == number,
          words.contains(where: { $0 == inode }), let events = UInt32(words[3], radix: 16)
        else { continue }
        return EventLoop.Events(rawValue: events).contains(.writable)
      }
    }
    return nil
  }
}
