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

let arguments: Target.Dependency = .product(
  name: "ArgumentParser", package: "swift-argument-parser")

/// A program of its own that `pinhole NAME` starts.
func program(_ name: String, _ dependencies: [Target.Dependency]) -> Target {
  .executableTarget(
    name: name,
    dependencies: dependencies + ["HelperOptions", "Command", "Sandbox", "Linux", log, arguments],
    swiftSettings: settings)
}
let log: Target.Dependency = .product(name: "Logging", package: "swift-log")

/// `make build` tells; a package without history does not know.
let commit: [CSetting] =
  Context.environment["PINHOLE_COMMIT"].map { [.define("PINHOLE_COMMIT", to: "\"\($0)\"")] } ?? []

let package = Package(
  name: "pinhole",
  products: [
    .executable(name: "pinhole", targets: ["pinhole"]),
    .executable(name: "pinhole-guest", targets: ["pinhole-guest"]),
    .executable(name: "pinhole-vnc", targets: ["pinhole-vnc"]),
    .executable(name: "pinhole-wayland", targets: ["pinhole-wayland"]),
    .library(name: "PinholeFrames", targets: ["PinholeFrames"]),
    .executable(name: "pinhole-input", targets: ["pinhole-input"]),
    .executable(name: "pinhole-pipewire", targets: ["pinhole-pipewire"]),
    .executable(name: "pinhole-gst", targets: ["pinhole-gst"]),
    .library(name: "PinholeInput", targets: ["PinholeInput"]),
  ],
  dependencies: [
    .package(url: "https://github.com/apple/swift-argument-parser", from: "1.8.2"),
    .package(url: "https://github.com/apple/swift-log", from: "1.16.2"),
  ],
  targets: [
    .target(name: "CLinux", cSettings: [.define("_GNU_SOURCE")]),
    .target(name: "PinholeProtocol", path: "Protocol", publicHeadersPath: "include"),
    .target(name: "CVersion", cSettings: commit),
    room("Linux", ["CLinux"]),
    room("Pixels", []),
    room("GuestMemory", ["Linux", "CLinux"]),
    .systemLibrary(
      name: "CSeccomp", pkgConfig: "libseccomp", providers: [.apt(["libseccomp-dev"])]),
    room("Sandbox", ["CSeccomp", "Linux", "CLinux"]),
    room("Monitoring", ["Linux"]),
    room("Command", ["CVersion", "Sandbox", "Linux", "CLinux", log, arguments]),
    room("HelperOptions", ["Command", "PinholeInput", "Sandbox", log, arguments]),
    room("Virtqueue", ["GuestMemory", "Linux"]),
    room("VhostUser", ["Virtqueue", "GuestMemory", "Linux", "CLinux", log]),
    room("Fences", ["Linux", "CLinux"]),
    room("Buffers", ["Fences", "Pixels", "GuestMemory", "Linux", "CLinux", log]),
    room("GPUCommands", ["Pixels"]),
    room("Scene", ["Buffers", "Fences", "Pixels", "Linux"]),
    room(
      "VirtioGPU",
      [
        "GPUCommands", "Scene", "Fences", "Buffers", "Pixels", "Virtqueue", "GuestMemory", "Linux",
        log,
      ]
    ),
    room(
      "QEMUDisplay", ["Scene", "Fences", "Buffers", "Pixels", "Linux", "CLinux", log]),
    room(
      "FrameServer",
      [
        "Scene", "Fences", "Buffers", "Pixels", "Linux", "FrameProtocol",
        "PinholeProtocol", log,
      ]),
    room("FrameProtocol", ["PinholeProtocol", "Pixels"]),
    .systemLibrary(name: "CPNG", pkgConfig: "libpng", providers: [.apt(["libpng-dev"])]),
    room("Pictures", ["Pixels", "CPNG"]),
    .systemLibrary(name: "CDrm", pkgConfig: "libdrm", providers: [.apt(["libdrm-dev"])]),
    room("KMS", ["CGbm", "CDrm", "Linux"]),
    room(
      "PinholeFrames", ["FrameProtocol", "PinholeProtocol", "Pixels", "Linux", "CLinux"]),
    room("PinholeInput", ["PinholeProtocol", "Linux"]),
    .systemLibrary(name: "CZlib", pkgConfig: "zlib", providers: [.apt(["zlib1g-dev"])]),
    .systemLibrary(
      name: "CTurboJPEG", pkgConfig: "libturbojpeg", providers: [.apt(["libturbojpeg0-dev"])]),
    .systemLibrary(name: "CXKB", pkgConfig: "xkbcommon", providers: [.apt(["libxkbcommon-dev"])]),
    room("RFB", ["CZlib", "CTurboJPEG"]),
    room("VirtioInput", ["PinholeInput", "Virtqueue", "Linux", log]),
    room("InputControl", ["VirtioInput", "PinholeInput", "PinholeProtocol", "Linux", log]),
    room("Bridge", ["PinholeFrames", "PinholeProtocol", "Pixels", "Linux", log]),
    room("GStreamerBridge", ["Bridge", "PinholeFrames", "Linux", log]),
    program(
      "pinhole-input",
      ["InputControl", "VirtioInput", "PinholeInput", "VhostUser", "GuestMemory"]),
    .systemLibrary(
      name: "CPipeWireSystem", pkgConfig: "libpipewire-0.3",
      providers: [.apt(["libpipewire-0.3-dev"])]),
    .target(name: "CPipeWire", dependencies: ["CPipeWireSystem"]),
    room("PipeWireBridge", ["Bridge", "CPipeWire", "PinholeFrames", "Pixels", "Linux", log]),
    program("pinhole-pipewire", ["PipeWireBridge"]),
    program("pinhole-gst", ["GStreamerBridge"]),
    room("FakeGuest", ["PinholeFrames", "Pixels", "Linux", "CLinux"]),
    room(
      "Daemon",
      [
        "QEMUDisplay", "FrameServer", "Rendering", "VirtioGPU", "Scene", "VhostUser", "Fences",
        "Buffers", "GuestMemory", "Pixels", "Sandbox", "Monitoring", "Command", "Linux", "CLinux",
        log,
      ]),
    room(
      "Doctor",
      [
        "Daemon", "Monitoring", "QEMUDisplay", "Rendering", "Buffers", "GuestMemory", "Sandbox",
        "Command", "Linux", "CLinux",
      ]
    ),
    room(
      "Conformance",
      [
        "PinholeFrames", "FrameProtocol", "PinholeProtocol", "Fences", "Pixels", "Command", "Linux",
        "CLinux",
      ]),
    room("KMSView", ["KMS", "PinholeFrames", "PinholeProtocol", "Pixels", "Command", "Linux"]),
    room(
      "Sharing",
      [
        "FrameServer", "PinholeFrames", "FrameProtocol", "Scene", "Buffers", "Pixels", "Linux", log,
      ]),
    .executableTarget(
      name: "pinhole",
      dependencies: [
        "Daemon", "Doctor", "Conformance", "KMSView", "Sharing", "PinholeFrames", "FrameProtocol",
        "PinholeProtocol", "Pictures", "Pixels", "QEMUDisplay", "FrameServer", "KMS", "VirtioGPU",
        "Scene", "Fences", "Buffers", "GuestMemory", "Sandbox", "Monitoring", "HelperOptions",
        "Command", "Linux", log, arguments,
      ], swiftSettings: settings),
    .executableTarget(
      name: "pinhole-guest",
      dependencies: [
        "FakeGuest", "Buffers", "GuestMemory", "Pictures", "Pixels", "Command", "Linux", arguments,
      ], swiftSettings: settings),
    tests("LinuxTests", ["Linux", "CLinux"]),
    room(
      "VNC",
      ["RFB", "CXKB", "PinholeFrames", "PinholeInput", "PinholeProtocol", "Pixels", "Linux", log]),
    .executableTarget(
      name: "pinhole-vnc",
      dependencies: ["VNC", "HelperOptions", "Command", "Sandbox", "Linux", log, arguments],
      swiftSettings: settings),
    .target(name: "CWayland", linkerSettings: [.linkedLibrary("wayland-client")]),
    room("WaylandView", ["CWayland", "PinholeFrames", "PinholeInput", "Pixels", "Linux", log]),
    .executableTarget(
      name: "pinhole-wayland",
      dependencies: [
        "WaylandView", "HelperOptions", "Command", "Sandbox", "Linux", log, arguments,
      ],
      swiftSettings: settings),
    tests("VNCTests", ["VNC", "RFB", "PinholeInput", "Linux"]),
    tests("RFBTests", ["RFB", "CZlib", "CTurboJPEG"]),
    .executableTarget(
      name: "sandbox-probe", dependencies: ["Command", "Sandbox", "Linux", "CLinux", log],
      path: "Tests/SandboxProbe", swiftSettings: settings),
    tests(
      "SandboxTests",
      [
        "sandbox-probe", "pinhole", "Monitoring", "Daemon", "Doctor", "Buffers", "GuestMemory",
        "Sandbox",
        "FakeGuest", "Linux", "CLinux",
      ]),
    tests("MonitoringTests", ["Monitoring", "Linux"]),
    tests(
      "CommandTests",
      ["pinhole", "FakeGuest", "Monitoring", "HelperOptions", "Command", "Linux", arguments]),
    tests("GuestMemoryTests", ["GuestMemory", "Linux"]),
    tests("VirtqueueTests", ["Virtqueue", "GuestMemory", "Linux"]),
    tests("VhostUserTests", ["VhostUser", "Virtqueue", "GuestMemory", "Linux", log]),
    tests("PixelsTests", ["Pixels", "VirtioGPU"]),
    tests("FrameProtocolTests", ["FrameProtocol", "PinholeProtocol", "Pixels"]),
    tests("BuffersTests", ["Buffers", "Fences", "Pixels", "GuestMemory", "Linux"]),
    tests("SceneTests", ["Scene", "Buffers", "Fences", "Pixels", "Linux"]),
    tests("FencesTests", ["Fences", "Linux"]),
    tests("GPUCommandsTests", ["GPUCommands", "Pixels"]),
    tests(
      "VirtioGPUTests",
      [
        "AllocationCounter", "VirtioGPU", "GPUCommands", "Scene", "FakeGuest", "Fences",
        "Buffers", "Pixels", "GuestMemory", "VhostUser", "Linux", log,
      ]),
    tests(
      "QEMUDisplayTests",
      [
        "QEMUDisplay", "Scene", "VirtioGPU", "FakeGuest", "Fences", "Buffers", "Pixels", "Linux",
        "CLinux", log,
      ]),
    tests(
      "FrameServerTests",
      [
        "FrameServer", "Sharing", "Scene", "FakeGuest", "PinholeFrames", "FrameProtocol",
        "PinholeProtocol", "Fences", "Buffers", "Pixels", "Linux", "CLinux", log,
      ]),
    tests(
      "VirtioInputTests",
      [
        "pinhole-input", "InputControl", "VirtioInput", "PinholeInput", "PinholeProtocol",
        "FakeGuest", "Linux", log,
      ]),
    tests(
      "PinholeFramesTests",
      [
        "GStreamerBridge", "VNC", "Bridge", "PinholeFrames", "PinholeInput", "FrameProtocol",
        "PinholeProtocol", "Pictures", "Pixels", "Linux", log,
      ]),
    tests(
      "FakeGuestTests",
      [
        "FakeGuest", "FrameProtocol", "PinholeFrames", "PinholeProtocol", "pinhole",
        "pinhole-guest", "pinhole-vnc", "Doctor", "Command",
        "VhostUser", "Virtqueue", "GuestMemory", "Pixels", "Linux", log,
      ]),
    tests(
      "AttackTests",
      [
        "FakeGuest", "PinholeFrames", "PinholeProtocol", "pinhole", "VhostUser", "GuestMemory",
        "Linux", "CLinux",
      ]),
    .executableTarget(
      name: "pinhole-bench",
      dependencies: [
        "Command", "Daemon", "Buffers", "FakeGuest", "PinholeFrames", "GuestMemory", "Rendering",
        "RenderWire", "CVirgl", "Linux", "CLinux", "Pixels", log,
        .product(name: "ArgumentParser", package: "swift-argument-parser"),
      ], path: "bench/Sources", swiftSettings: settings),
    .executableTarget(name: "puncher", path: "Tests/Puncher"),
    .executableTarget(
      name: "frame-reader", dependencies: ["PinholeFrames", "Pixels", "Linux"],
      path: "Tests/FrameReader", swiftSettings: settings),
    .target(name: "AllocationCounter", path: "Tests/AllocationCounter"),
    tests(
      "KernelTests",
      [
        "puncher", "frame-reader", "AllocationCounter", "pinhole", "pinhole-guest",
        "pinhole-renderer", "Rendering", "Conformance", "Daemon", "Command", "FakeGuest",
        "RenderWire",
        "PinholeFrames", "Buffers", "Pixels", "GuestMemory", "Linux", "CLinux", "FrameServer",
        "Scene", "Fences", "KMS", "VhostUser", "VirtioGPU", log,
        .product(name: "ArgumentParser", package: "swift-argument-parser"),
      ]),
  ],
  swiftLanguageModes: [.v6]
)

// OpenGL for guests: the only program that loads libvirglrenderer, with Mesa, which it does when it
// runs, and the daemon's side of it.
package.targets += [
  .target(name: "CVirgl", cSettings: [.define("_GNU_SOURCE")]),
  .target(name: "CGbm", cSettings: [.define("_GNU_SOURCE")]),
  room("RenderWire", []),
  room(
    "Rendering",
    [
      "RenderWire", "VirtioGPU", "GPUCommands", "Buffers", "Pixels", "GuestMemory", "Linux",
      "CLinux", log,
    ]),
  .executableTarget(
    name: "pinhole-renderer",
    dependencies: [
      "CGbm", "CVirgl", "RenderWire", "Sandbox", "Linux", "CLinux",
      .product(name: "ArgumentParser", package: "swift-argument-parser"),
    ], swiftSettings: settings),
  tests(
    "RenderingTests",
    [
      "pinhole-renderer", "Daemon", "Rendering", "RenderWire", "VirtioGPU", "GPUCommands",
      "Buffers",
      "Pixels", "GuestMemory", "FakeGuest", "PinholeFrames", "FrameProtocol", "Linux", "CLinux",
      log,
    ]),
]

// Tests/fuzz sets this and the compiler's coverage flags; other builds do not see the target.
if Context.environment["PINHOLE_FUZZ"] != nil {
  package.targets.append(
    .executableTarget(
      name: "pinhole-fuzz",
      dependencies: [
        "RFB", "InputControl", "VirtioInput", "PinholeInput", "QEMUDisplay", "FrameServer", "Scene",
        "PinholeFrames", "FrameProtocol",
        "PinholeProtocol", "VirtioGPU", "GPUCommands", "VhostUser", "Virtqueue", "Fences",
        "Buffers", "Pixels",
        "GuestMemory", "Rendering", "RenderWire", "Linux", "CLinux", log,
      ],
      path: "Fuzz/Sources", swiftSettings: settings, linkerSettings: [.linkedLibrary("stdc++")]))
}
