import Pixels

/// Questions whose answers carry data.
extension GPUDriver {
  /// One scanout of GET_DISPLAY_INFO, `struct virtio_gpu_display_one`.
  package struct DisplayMode: Equatable, Sendable {
    /// Preferred place and size in pixels.
    package let rect: Rect
    /// The scanout is in use.
    package let enabled: Bool
  }

  /// The modes of all 16 scanouts.
  package func displayInfo() throws(GuestError) -> [DisplayMode] {
    let answer = try perform(.getDisplayInfo)
    guard answer.response == .okDisplayInfo else {
      throw .violation("GET_DISPLAY_INFO answered \(answer.response)")
    }
    return (0..<16).map { i in
      let at = 24 + 24 * i
      return DisplayMode(
        rect: Rect(
          x: answer.u32(at), y: answer.u32(at + 4), width: answer.u32(at + 8),
          height: answer.u32(at + 12)),
        enabled: answer.u32(at + 16) != 0)
    }
  }

  /// The EDID of a scanout.
  package func edid(_ scanout: UInt32 = 0) throws(GuestError) -> [UInt8] {
    let answer = try perform(.getEDID(scanout))
    guard answer.response == .okEDID, answer.u32(24) <= 1024 else {
      throw .violation("GET_EDID answered \(answer.response) with \(answer.u32(24)) bytes")
    }
    return Array(answer.bytes.dropFirst(32).prefix(Int(answer.u32(24))))
  }

  /// A UUID for a resource, 16 bytes.
  package func assignUUID(_ resource: UInt32) throws(GuestError) -> [UInt8] {
    let answer = try perform(.assignUUID(resource))
    guard answer.response == .okUUID else {
      throw .violation("RESOURCE_ASSIGN_UUID answered \(answer.response)")
    }
    return Array(answer.bytes.dropFirst(24).prefix(16))
  }
}
