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
    var files = ph_LANDLOCK_FS_1
    if abi >= 2 { files |= ph_LANDLOCK_FS_2_REFER }
    if abi >= 3 { files |= ph_LANDLOCK_FS_3_TRUNCATE }
    if abi >= 5 { files |= ph_LANDLOCK_FS_5_IOCTL_DEV }
    let made = ph_landlock_ruleset(
      files, abi >= 4 ? ph_LANDLOCK_NET_4 : 0, abi >= 6 ? ph_LANDLOCK_SCOPE_6 : 0)
    let ruleset = OwnedFD(adopting: try check(made, "landlock_create_ruleset"))
    for path in directories {
      let directory = try OwnedFD.open(path, pathOnly | O_DIRECTORY)
      try check(
        ph_landlock_allow_beneath(ruleset.raw, directory.raw, ph_LANDLOCK_FS_REMOVE_FILE),
        "landlock_add_rule")
    }
    try check(ph_landlock_restrict(ruleset.raw), "landlock_restrict_self")
  }

  private static let pathOnly: CInt = 0o10000000  // O_PATH, behind _GNU_SOURCE
}
