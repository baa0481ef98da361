import CLinux
import Glibc
import Linux

/// Landlock (landlock(7)): this thread, and those it starts, lose the file system.
///
/// What is open stays usable.
public enum Landlock {
  /// The version of its ABI in the running kernel, nil where it is missing or switched off.
  public static var abi: Int? {
    let version = ph_landlock_abi()
    return version > 0 ? Int(version) : nil
  }

  /// Denies all that the kernel's Landlock knows: files, TCP, abstract sockets and signals of
  /// others. The names of existing files can still be asked for (stat(2)).
  ///
  /// - Parameter directories: where files may still be removed.
  static func restrict(removingFilesIn directories: [String], abi: Int) throws(Errno) {
    let ruleset = try ruleset(abi)
    for path in directories {
      try allow(ph_LANDLOCK_FS_REMOVE_FILE, beneath: path, O_DIRECTORY, in: ruleset)
    }
    try check(ph_landlock_restrict(ruleset.raw), "landlock_restrict_self")
  }

  /// Denies the same, but lets all files be read, and devices be used.
  ///
  /// - Parameter devices: paths of devices, or of directories of them; those that are missing are
  ///   passed over.
  static func restrictToReading(devices: [String], abi: Int) throws(Errno) {
    let ruleset = try ruleset(abi)
    let read = ph_LANDLOCK_FS_READ_FILE | ph_LANDLOCK_FS_READ_DIR
    try allow(read, beneath: "/", O_DIRECTORY, in: ruleset)
    let control = abi >= 5 ? ph_LANDLOCK_FS_5_IOCTL_DEV : 0
    let use = ph_LANDLOCK_FS_READ_FILE | ph_LANDLOCK_FS_WRITE_FILE | control
    for device in devices where access(device, F_OK) == 0 {
      try allow(use, beneath: device, 0, in: ruleset)
    }
    try check(ph_landlock_restrict(ruleset.raw), "landlock_restrict_self")
  }

  private static func ruleset(_ abi: Int) throws(Errno) -> OwnedFD {
    var files = ph_LANDLOCK_FS_1
    if abi >= 2 { files |= ph_LANDLOCK_FS_2_REFER }
    if abi >= 3 { files |= ph_LANDLOCK_FS_3_TRUNCATE }
    if abi >= 5 { files |= ph_LANDLOCK_FS_5_IOCTL_DEV }
    let made = ph_landlock_ruleset(
      files, abi >= 4 ? ph_LANDLOCK_NET_4 : 0, abi >= 6 ? ph_LANDLOCK_SCOPE_6 : 0)
    return OwnedFD(adopting: try check(made, "landlock_create_ruleset"))
  }

  private static func allow(
    _ rights: UInt64, beneath path: String, _ flags: CInt, in ruleset: borrowing OwnedFD
  ) throws(Errno) {
    let place = try OwnedFD.open(path, pathOnly | flags)
    try check(
      ph_landlock_allow_beneath(ruleset.raw, place.raw, rights), "landlock_add_rule")
  }

  private static let pathOnly: CInt = 0o10000000  // O_PATH, behind _GNU_SOURCE
}
