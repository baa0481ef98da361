// swift-tools-version: 6.2
import PackageDescription

let settings: [SwiftSetting] = [
  .treatAllWarnings(as: .error),
  .enableUpcomingFeature("ExistentialAny"),
  .enableUpcomingFeature("MemberImportVisibility"),
]

/// A room of the house: one Swift target that imports only the rooms named.
func room(_ name: String, _ dependencies: [Target.Dependency]) -> Target {
  .target(name: name, dependencies: dependencies, swiftSettings: settings)
}

func tests(_ name: String, _ dependencies: [Target.Dependency]) -> Target {
  .testTarget(name: name, dependencies: dependencies, swiftSettings: settings)
}

let log: Target.Dependency = .product(name: "Logging", package: "swift-log")

let package = Package(
  name: "pinhole",
  products: [
    .executable(name: "pinhole", targets: ["pinhole"]),
    .library(name: "PinholeFrames", targets: ["PinholeFrames"]),
  ],
  dependencies: [
    .package(url: "https://github.com/apple/swift-argument-parser", from: "1.8.2"),
    .package(url: "https://github.com/apple/swift-log", from: "1.16.2"),
  ],
  targets: [
    .target(name: "CLinux", cSettings: [.define("_GNU_SOURCE")]),
    .target(name: "PinholeProtocol", path: "Protocol", publicHeadersPath: "include"),
    room("Linux", ["CLinux"]),
    room("GuestMemory", ["Linux", "CLinux", log]),
    .systemLibrary(
      name: "CSeccomp", pkgConfig: "libseccomp", providers: [.apt(["libseccomp-dev"])]),
    room("Sandbox", ["CSeccomp", "Linux", "CLinux"]),
    room("Virtqueue", ["GuestMemory", "Linux"]),
    room("VhostUser", ["Virtqueue", "GuestMemory", "Linux", "CLinux", log]),
    room("Buffers", ["GuestMemory", "Linux", "CLinux", log]),
    room("Fences", ["Buffers", "Linux", "CLinux"]),
    room(
      "VirtioGPU",
      ["Fences", "Buffers", "VhostUser", "Virtqueue", "GuestMemory", "Linux", log]
    ),
    room(
      "Display",
      [
        "VirtioGPU", "Fences", "Buffers", "GuestMemory", "Linux", "CLinux", "FrameWire",
        "PinholeProtocol", log,
      ]),
    room("FrameWire", ["PinholeProtocol"]),
    .systemLibrary(name: "CPNG", pkgConfig: "libpng", providers: [.apt(["libpng-dev"])]),
    room("Pictures", ["CPNG"]),
    .systemLibrary(name: "CDrm", pkgConfig: "libdrm", providers: [.apt(["libdrm-dev"])]),
    room("KMS", ["CDrm", "Linux"]),
    room("PinholeFrames", ["FrameWire", "PinholeProtocol", "Linux", "CLinux"]),
    room("FakeGuest", ["PinholeFrames", "Linux", "CLinux"]),
    .executableTarget(
      name: "pinhole",
      dependencies: [
        "FakeGuest", "PinholeFrames", "FrameWire", "PinholeProtocol", "Pictures", "Display",
        "KMS", "VirtioGPU", "VhostUser", "Fences", "Buffers",
        "GuestMemory", "Sandbox", "Linux", "CLinux", log,
        .product(name: "ArgumentParser", package: "swift-argument-parser"),
      ], swiftSettings: settings),
    tests("LinuxTests", ["Linux"]),
    .executableTarget(
      name: "sandbox-probe", dependencies: ["Sandbox", "Linux", "CLinux"],
      path: "Tests/SandboxProbe", swiftSettings: settings),
    tests("SandboxTests", ["sandbox-probe", "pinhole", "Sandbox", "FakeGuest", "Linux", "CLinux"]),
    tests("GuestMemoryTests", ["GuestMemory", "Linux"]),
    tests("VirtqueueTests", ["Virtqueue", "GuestMemory", "Linux"]),
    tests("VhostUserTests", ["VhostUser", "Virtqueue", "GuestMemory", "Linux", log]),
    tests("BuffersTests", ["Buffers", "GuestMemory", "Linux"]),
    tests("FencesTests", ["Fences", "Linux"]),
    tests(
      "VirtioGPUTests",
      [
        "AllocationCounter", "VirtioGPU", "FakeGuest", "Fences", "Buffers", "GuestMemory",
        "VhostUser", "Linux", log,
      ]),
    tests(
      "DisplayTests",
      [
        "Display", "PinholeFrames", "FrameWire", "PinholeProtocol", "VirtioGPU", "Fences",
        "Buffers",
        "Linux", "CLinux", log,
      ]),
    tests(
      "PinholeFramesTests", ["PinholeFrames", "FrameWire", "PinholeProtocol", "Pictures", "Linux"]),
    tests(
      "FakeGuestTests",
      ["FakeGuest", "pinhole", "VhostUser", "Virtqueue", "GuestMemory", "Linux", log]),
    .executableTarget(name: "puncher", path: "Tests/Puncher"),
    .target(name: "AllocationCounter", path: "Tests/AllocationCounter"),
    tests(
      "KernelTests",
      [
        "puncher", "AllocationCounter", "pinhole", "FakeGuest", "PinholeFrames", "Buffers",
        "GuestMemory", "Linux", "CLinux", "Display", "Fences", "KMS", "VhostUser", "VirtioGPU", log,
      ]),
  ],
  swiftLanguageModes: [.v6]
)

// Tests/fuzz sets this and the compiler's coverage flags; other builds do not see the target.
if Context.environment["PINHOLE_FUZZ"] != nil {
  package.targets.append(
    .executableTarget(
      name: "pinhole-fuzz",
      dependencies: [
        "Display", "PinholeFrames", "FrameWire", "PinholeProtocol", "VirtioGPU", "VhostUser",
        "Virtqueue", "Fences", "Buffers", "GuestMemory", "Linux", "CLinux", log,
      ],
      path: "Fuzz/Sources", swiftSettings: settings, linkerSettings: [.linkedLibrary("stdc++")]))
}
