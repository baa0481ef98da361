import Glibc
import GuestMemory
import Linux
import Testing

@testable import Daemon
@testable import Doctor

/// Whether a shell takes a cure as it stands, and begins it with a program that people have.
func isTyped(_ cure: String) throws -> Bool {
  let programs: Set<Substring> = [
    "apt", "echo", "make", "mkdir", "modprobe", "mount", "pgrep", "pinhole", "rm", "sed", "sudo",
    "sysctl", "ulimit", "usermod",
  ]
  let shell = try ChildProcess(["sh", "-n", "-c", cure])
  return programs.contains(cure.prefix { $0 != " " }) && !cure.contains("…")
    && shell.waitForEnd(milliseconds: 20_000) == 0
}

@Suite struct CureTests {
  @Test(arguments: [
    WitnessError.noUserfaultfd(Errno(ENOSYS, "userfaultfd")),
    .userfaultfdDenied(Errno(EPERM, "userfaultfd")), .missingFeature("MINOR_SHMEM"),
    .noPageMap(Errno(ENOENT, "open")), .noPageMapScan(Errno(ENOTTY, "ioctl")),
    .listener(Errno(EMFILE, "eventfd")), .mapping(Errno(ENOMEM, "mmap")),
    .notWatchable(Errno(EINVAL, "ioctl")), .noShrinkSeal, .broken,
    .scanning(Errno(EINVAL, "ioctl")),
  ])
  func discardsThatGoUnnoticedHaveACure(_ error: WitnessError) throws {
    #expect(try isTyped(Cure.witness(error, nil)), "\(Cure.witness(error, nil))")
  }

  @Test func withoutTheDeviceTheSystemCallIsOpened() throws {
    let denied = WitnessError.userfaultfdDenied(Errno(EPERM, "userfaultfd"))
    #expect(Cure.witness(denied, nil).hasPrefix("sysctl -w vm.unprivileged_userfaultfd=1 "))
    let device = DeviceAccess(
      path: "/dev/userfaultfd", owner: "root", group: "root", mode: 0o600, opens: false)
    let rule =
      "echo 'KERNEL==\"userfaultfd\", GROUP=\"kvm\", MODE=\"0660\"' >> "
      + "/etc/udev/rules.d/70-pinhole.rules; udevadm control --reload; udevadm trigger; "
      + "usermod -aG kvm "
    #expect(Cure.witness(denied, device).hasPrefix(rule))
    #expect(try isTyped(Cure.witness(denied, device)))
  }

  @Test(arguments: [("kvm", 0o660), ("root", 0o600), ("root", 0o666)] as [(String, UInt32)])
  func aDeviceThatDoesNotOpenHasACure(_ group: String, _ mode: UInt32) throws {
    let device = DeviceAccess(
      path: "/dev/udmabuf", owner: "root", group: group, mode: mode, opens: false)
    #expect(try isTyped(Cure.access(to: device)), "\(Cure.access(to: device))")
  }

  /// Paths and names are others', and are typed as root.
  @Test(arguments: [
    ("/run/gpu.sock", "/run/gpu.sock"), ("", "''"), ("a b", "'a b'"), ("$(id)", "'$(id)'"),
    ("it's;id", "'it'\\''s;id'"), ("~x", "'~x'"), ("größe", "'größe'"),
  ])
  func anyTextIsOneWord(_ text: String, _ word: String) { #expect(Cure.word(text) == word) }
}
