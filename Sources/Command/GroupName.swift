import ArgumentParser
import Glibc

/// A group of the system, by name or number.
package struct GroupName: ExpressibleByArgument {
  /// Its id.
  package let id: UInt32

  /// Looks the group up; nil if there is none of this name.
  package init?(argument: String) {
    if let number = UInt32(argument), number < .max {
      id = number
    } else if let group = getgrnam(argument) {
      id = group.pointee.gr_gid
    } else {
      return nil
    }
  }
}
