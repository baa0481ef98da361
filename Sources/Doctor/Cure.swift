import Daemon
import Glibc
import GuestMemory

/// What to type where something is missing: a command line for root's shell, whose comment says
/// what it is for, or options for QEMU's command line, which begin with a dash.
enum Cure {
  /// Installs a kernel and starts it.
  ///
  /// - Parameter what: the kernel must be or have this.
  static func kernel(_ what: String) -> String {
    "apt install -t bookworm-backports linux-image-amd64 && reboot   # \(what); without -t on others "
      + "than Debian 12"
  }

  static let memfd = kernel("a kernel with CONFIG_MEMFD_CREATE")

  /// Where /dev/udmabuf is missing.
  static let module =
    "modprobe udmabuf   # or boot a kernel with CONFIG_UDMABUF, as Debian 13 and Ubuntu 24.04 have"

  /// The kernel takes the order of its security modules from here.
  static let landlock =
    "sed -i \"s/^GRUB_CMDLINE_LINUX=\\\"/&lsm=landlock,$(cat /sys/kernel/security/lsm) /\" "
    + "/etc/default/grub && update-grub && reboot"

  /// How this user comes to a device that he may not open.
  static func access(to device: DeviceAccess) -> String {
    if device.mode & 0o006 == 0o006 {
      return "echo 'cgroup_device_acl = [\"/dev/null\", \"/dev/full\", \"/dev/zero\", "
        + "\"/dev/random\", \"/dev/urandom\", \"/dev/ptmx\", \"/dev/kvm\", \"/dev/udmabuf\", "
        + "\"/dev/userfaultfd\"]' >> /etc/libvirt/qemu.conf; systemctl restart libvirtd   "
        + "# its permissions are open to all, so a cgroup denies it"
    }
    let join = { (group: String) in
      "usermod -aG \(word(group)) \(word(ProcFile.userName(geteuid())))   # then log in again"
    }
    if device.mode & 0o060 == 0o060, device.group != "root" { return join(device.group) }
    let name = device.path.split(separator: "/").last.map { String($0) } ?? device.path
    let rule = "KERNEL==\"\(name)\", GROUP=\"kvm\", MODE=\"0660\""
    return "echo \(word(rule)) >> /etc/udev/rules.d/70-pinhole.rules; udevadm control --reload; "
      + "udevadm trigger; " + join("kvm")
  }

  /// Where discards cannot be noticed.
  ///
  /// - Parameter device: /dev/userfaultfd; nil where there is none.
  static func witness(_ error: WitnessError, _ device: DeviceAccess?) -> String {
    switch error {
    case .noUserfaultfd: return kernel("a kernel with CONFIG_USERFAULTFD")
    case .missingFeature(let name): return kernel("Linux 5.14 or later, for \(name)")
    case .userfaultfdDenied:
      if let device, !device.opens { return access(to: device) }
      return "sysctl -w vm.unprivileged_userfaultfd=1   # for all; Linux 6.1 has /dev/userfaultfd, "
        + "which a container gets by --device and a user by a rule of udev"
    case .noPageMap: return "mount -t proc proc /proc   # it has no pagemap"
    case .noPageMapScan: return kernel("Linux 6.7 or later, for PAGEMAP_SCAN")
    default: return "ulimit -n 4096; pinhole doctor   # \(error)"
    }
  }

  /// A text as one word of a shell, whatever is in it: paths and names are others'.
  static func word(_ text: String) -> String {
    let isPlain = text.utf8.allSatisfy { byte in
      (UInt8(ascii: "a")...UInt8(ascii: "z")).contains(byte | 0x20)
        || (UInt8(ascii: "+")...UInt8(ascii: ":")).contains(byte)
        || [UInt8(ascii: "_"), UInt8(ascii: "="), UInt8(ascii: "@"), UInt8(ascii: "%")]
          .contains(byte)
    }
    if isPlain, !text.isEmpty { return text }
    let parts = text.split(separator: "'", omittingEmptySubsequences: false)
    return "'" + parts.joined(separator: "'\\''") + "'"
  }
}
