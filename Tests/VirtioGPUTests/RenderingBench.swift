import FakeGuest

@testable import VirtioGPU

/// A device with a ``ScriptedRenderer``, seen from both sides.
extension DeviceBench {
  /// What the renderer was asked for.
  func asked() throws -> [String] {
    try inDevice { device, _ in (device.renderer as? ScriptedRenderer)?.asked ?? [] }
  }

  /// What it was asked for that begins so.
  func asked(_ word: String) throws -> [String] { try asked().filter { $0.hasPrefix(word) } }

  /// Does something to the renderer in the device's thread.
  func renderer(_ body: @escaping @Sendable (ScriptedRenderer) -> Void) throws {
    try inDevice { device, _ in
      if let renderer = device.renderer as? ScriptedRenderer { body(renderer) }
    }
  }

  /// Makes a resource of the renderer's that an output can show.
  func makePicture(
    _ id: UInt32, width: UInt32 = 64, height: UInt32 = 32, format: UInt32 = 2
  ) throws { try driver.perform(Self.picture(id, width: width, height: height, format: format)) }

  static func picture(
    _ id: UInt32, width: UInt32 = 64, height: UInt32 = 32, format: UInt32 = 2
  ) -> GPUCommand {
    .create3D(id, target: 2, format: format, bind: 0x14_000a, width: width, height: height)
  }
}
