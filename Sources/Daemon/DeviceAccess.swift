import Buffers
import Glibc
import Linux

/// Who may open a device, and how this user could come to it.
package struct DeviceAccess: Equatable {
  /// Its path.
  package var path: String
  /// Name or number of its owner.
  package var owner: String
  /// Name or number of its group.
  package var group: String
  /// Permission bits.
  package var mode: UInt32
  /// Whether it opened for reading and writing.
  package var opens: Bool

  /// Looks at a device; nil if there is none.
  package init?(_ path: String) {
    var facts = stat()
    guard lstat(path, &facts) == 0, facts.st_mode & S_IFMT == S_IFCHR else { return nil }
    self.path = path
    owner = getpwuid(facts.st_uid).map { String(cString: $0.pointee.pw_name) } ?? "\(facts.st_uid)"
    group = getgrgid(facts.st_gid).map { String(cString: $0.pointee.gr_name) } ?? "\(facts.st_gid)"
    mode = facts.st_mode & 0o777
    opens = (try? OwnedFD.open(path, O_RDWR)) != nil
  }

  /// Describes one.
  package init(path: String, owner: String, group: String, mode: UInt32, opens: Bool) {
    self.path = path
    self.owner = owner
    self.group = group
    self.mode = mode
    self.opens = opens
  }

  /// For example `root:kvm 0660`.
  package var rights: String {
    let digits = String(mode, radix: 8)
    return "\(owner):\(group) " + String(repeating: "0", count: max(0, 4 - digits.count)) + digits
  }

  /// Who may open /dev/udmabuf, and what to do, if that is why pictures are copied.
  static func explanation(of reason: CopyReason) -> String? {
    guard case .noAccess(let error) = reason, [EACCES, EPERM].contains(error.code),
      let device = DeviceAccess("/dev/udmabuf"), !device.opens
    else { return nil }
    return "this user may not open /dev/udmabuf (\(device.rights)): \(device.advice)"
  }

  /// What to do when it does not open.
  package var advice: String {
    if mode & 0o006 == 0o006 {
      return "its permissions are open to all: allow the device in this process's cgroup "
        + "(for libvirt: cgroup_device_acl in qemu.conf)"
    }
    if mode & 0o060 == 0o060, group != "root" {
      return "add this user to the group \(group) (usermod -aG \(group) USER, then log in again)"
    }
    let name = path.split(separator: "/").last.map(String.init) ?? path
    return "add the rule KERNEL==\"\(name)\", GROUP=\"kvm\", MODE=\"0660\" to "
      + "/etc/udev/rules.d/70-pinhole.rules, then udevadm trigger, "
      + "and add this user to the group kvm"
  }
}
