import CDrm
import Glibc
import Linux

/// What is wrong with a display, in words for the operator.
public struct KMSError: Error, CustomStringConvertible {
  /// The words.
  public let description: String
  /// Another program has become master of the device.
  public let isLostMaster: Bool

  /// Its driver was taken off the device, or the device was unplugged.
  static func gone(_ path: String) -> KMSError {
    KMSError(
      "\(path) is gone: it was unplugged, or its driver was taken off it; start again when it is back"
    )
  }

  init(_ text: String, _ code: CInt = 0) {
    description = code == 0 ? text : "\(text): \(String(cString: strerror(code)))"
    isLostMaster = code == EACCES || code == EPERM
  }
}

/// One connector of a DRM device that shows framebuffers through atomic commits
/// (drm-kms(7), linux/drm_mode.h).
///
/// Belongs to one thread. What was on the display before comes back with ``restore()``.
public final class KMSScreen {
  /// The device.
  public let fd: OwnedFD
  /// Pixels across.
  public let width: UInt32
  /// Pixels down.
  public let height: UInt32
  /// For people: connector and mode.
  public let name: String

  private let path: String
  private let connector: UInt32
  private let crtc: UInt32
  private let plane: UInt32
  private var mode: drmModeModeInfo
  private let before: UnsafeMutablePointer<drmModeCrtc>?
  private let properties: Properties
  private var modeBlob: UInt32 = 0
  private var isOn = false

  private struct Properties {
    let connectorCRTC, crtcMode, crtcActive, outFence: UInt32
    let frame, planeCRTC, inFence: UInt32
    let source: [UInt32]
    let place: [UInt32]
  }

  /// Becomes master of a device and picks a connector, a mode and what drives them.
  ///
  /// - Parameters:
  ///   - path: for example `/dev/dri/card0`.
  ///   - connector: for example `HDMI-A-1`; the first connected one if nil.
  ///   - wanted: the size of the mode to look for; the preferred mode if there is none.
  public init(
    path: String, connector wantedName: String?, size wanted: (width: UInt32, height: UInt32)?,
    mustMatch: Bool
  ) throws(KMSError) {
    self.path = path
    do throws(Errno) { fd = try OwnedFD.open(path, O_RDWR | O_CLOEXEC) } catch {
      throw KMSError("cannot open \(path): \(error)")
    }
    let fd = fd.raw
    if drmSetMaster(fd) != 0 {
      throw KMSError("another program is master of \(path); switch it off or to another VT", errno)
    }
    guard drmSetClientCap(fd, UInt64(DRM_CLIENT_CAP_UNIVERSAL_PLANES), 1) == 0,
      drmSetClientCap(fd, UInt64(DRM_CLIENT_CAP_ATOMIC), 1) == 0
    else { throw KMSError("\(path) has no atomic mode setting", errno) }
    guard let resources = drmModeGetResources(fd) else {
      throw KMSError("\(path) has no displays", errno)
    }
    defer { drmModeFreeResources(resources) }
    let found = try Self.connector(fd, resources.pointee, wantedName, path)
    defer { drmModeFreeConnector(found) }
    connector = found.pointee.connector_id
    mode = try Self.mode(found.pointee, wanted, mustMatch: mustMatch)
    width = UInt32(mode.hdisplay)
    height = UInt32(mode.vdisplay)
    name = "\(Self.name(found.pointee)) \(width)x\(height)"
    let (crtc, index) = try Self.crtc(fd, resources.pointee, found.pointee)
    self.crtc = crtc
    plane = try Self.primaryPlane(fd, crtcIndex: index)
    before = drmModeGetCrtc(fd, crtc)
    properties = try Self.properties(fd, connector: connector, crtc: crtc, plane: plane)
    guard drmModeCreatePropertyBlob(fd, &mode, MemoryLayout<drmModeModeInfo>.size, &modeBlob) == 0
    else { throw KMSError("the mode of \(name) is refused", errno) }
  }

  deinit {
    if let before { drmModeFreeCrtc(before) }
    if modeBlob != 0 { drmModeDestroyPropertyBlob(fd.raw, modeBlob) }
  }

  /// Shows a framebuffer from one of its pixels on.
  ///
  /// - Parameters:
  ///   - x: the first column shown.
  ///   - y: the first row shown.
  ///   - acquire: a sync_file to wait for.
  ///   - waits: returns when it is on screen; otherwise an event on the device tells.
  /// - Returns: a sync_file that signals when it is on screen (`OUT_FENCE_PTR`), -1 with `waits`.
  @discardableResult
  public func show(
    _ frame: UInt32, x: UInt32 = 0, y: UInt32 = 0, acquire: CInt = -1, waits: Bool
  ) throws(KMSError) -> CInt {
    guard let request = drmModeAtomicAlloc() else { throw KMSError("no memory") }
    defer { drmModeAtomicFree(request) }
    let p = properties
    var values: [(UInt32, UInt32, UInt64)] = [
      (plane, p.frame, UInt64(frame)), (plane, p.planeCRTC, UInt64(crtc)),
    ]
    let source = [x, y, width, height].map { UInt64($0) << 16 }
    let place = [0, 0, UInt64(width), UInt64(height)]
    for i in 0..<4 {
      values.append((plane, p.source[i], source[i]))
      values.append((plane, p.place[i], place[i]))
    }
    if acquire >= 0, p.inFence != 0 {
      values.append((plane, p.inFence, UInt64(acquire)))
    }
    var flags = UInt32(0)
    if !isOn {
      values.append((connector, p.connectorCRTC, UInt64(crtc)))
      values.append((crtc, p.crtcMode, UInt64(modeBlob)))
      values.append((crtc, p.crtcActive, 1))
      flags |= UInt32(DRM_MODE_ATOMIC_ALLOW_MODESET)
    }
    for (object, property, value) in values {
      drmModeAtomicAddProperty(request, object, property, value)
    }
    var fence: Int32 = -1
    let result = withUnsafeMutablePointer(to: &fence) { out -> CInt in
      if !waits {
        flags |= UInt32(DRM_MODE_ATOMIC_NONBLOCK | DRM_MODE_PAGE_FLIP_EVENT)
        if p.outFence != 0 {
          drmModeAtomicAddProperty(
            request, crtc, p.outFence, UInt64(UInt(bitPattern: UnsafeMutableRawPointer(out))))
        }
      }
      return drmModeAtomicCommit(fd.raw, request, flags, nil)
    }
    if result == -ENODEV { throw gone }
    if result != 0 { throw KMSError("\(name) refuses a framebuffer", -result) }
    isOn = true
    return fence
  }

  /// Reads the events that are there; true if a framebuffer has come on screen.
  public func takeEvents() -> Bool {
    var bytes = [UInt8](repeating: 0, count: 1024)
    let count = Glibc.read(fd.raw, &bytes, bytes.count)
    var at = 0
    var flipped = false
    while count - at >= 8 {
      let (type, length) = bytes.withUnsafeBytes {
        (
          $0.loadUnaligned(fromByteOffset: at, as: UInt32.self),
          Int($0.loadUnaligned(fromByteOffset: at + 4, as: UInt32.self))
        )
      }
      if type == UInt32(DRM_EVENT_FLIP_COMPLETE) { flipped = true }
      at += max(8, length)
    }
    return flipped
  }

  /// What to throw where its device turns out to be gone.
  public var gone: KMSError { .gone(path) }

  /// Makes sure that there still is a device behind the descriptor: of one that is gone neither
  /// poll(2) nor the events tell, and what was imported stays until the descriptor is closed.
  public func checkDevice() throws(KMSError) {
    var value: UInt64 = 0
    if drmGetCap(fd.raw, UInt64(DRM_CAP_DUMB_BUFFER), &value) != 0, errno == ENODEV {
      throw gone
    }
  }

  /// Gives the display back to who had it.
  public func restore() {
    if let old = before?.pointee {
      var connectors = [connector]
      var mode = old.mode
      if old.mode_valid != 0, old.buffer_id != 0 {
        _ = drmModeSetCrtc(fd.raw, old.crtc_id, old.buffer_id, old.x, old.y, &connectors, 1, &mode)
      } else {
        _ = drmModeSetCrtc(fd.raw, old.crtc_id, 0, 0, 0, nil, 0, nil)
      }
    }
    _ = drmDropMaster(fd.raw)
  }
}

// What there is to choose from.
extension KMSScreen {
  private static func name(_ connector: drmModeConnector) -> String {
    let type = drmModeGetConnectorTypeName(connector.connector_type).map { String(cString: $0) }
    return "\(type ?? "Unknown")-\(connector.connector_type_id)"
  }

  private static func connector(
    _ fd: CInt, _ resources: drmModeRes, _ wanted: String?, _ path: String
  ) throws(KMSError) -> UnsafeMutablePointer<drmModeConnector> {
    var names: [String] = []
    for i in 0..<Int(resources.count_connectors) {
      guard let each = drmModeGetConnector(fd, resources.connectors[i]) else { continue }
      let isUsable = each.pointee.connection == DRM_MODE_CONNECTED && each.pointee.count_modes > 0
      if isUsable, wanted == nil || wanted == name(each.pointee) { return each }
      names.append(name(each.pointee) + (isUsable ? "" : " (nothing connected)"))
      drmModeFreeConnector(each)
    }
    let what = wanted.map { "no display on connector \($0)" } ?? "no connected display"
    throw KMSError("\(path) has \(what); it has \(names.joined(separator: ", "))")
  }

  private static func mode(
    _ connector: drmModeConnector, _ wanted: (width: UInt32, height: UInt32)?, mustMatch: Bool
  ) throws(KMSError) -> drmModeModeInfo {
    let modes = (0..<Int(connector.count_modes)).map { connector.modes[$0] }
    if let wanted {
      let match = modes.first {
        UInt32($0.hdisplay) == wanted.width && UInt32($0.vdisplay) == wanted.height
      }
      if let match { return match }
      if mustMatch {
        let sizes = modes.map { "\($0.hdisplay)x\($0.vdisplay)" }.joined(separator: " ")
        throw KMSError(
          "\(name(connector)) has no mode \(wanted.width)x\(wanted.height), but \(sizes)")
      }
    }
    let preferred = modes.first { $0.type & UInt32(DRM_MODE_TYPE_PREFERRED) != 0 }
    guard let mode = preferred ?? modes.first else {
      throw KMSError("\(name(connector)) has no modes")
    }
    return mode
  }

  private static func crtc(
    _ fd: CInt, _ resources: drmModeRes, _ connector: drmModeConnector
  ) throws(KMSError) -> (UInt32, Int) {
    for i in 0..<Int(connector.count_encoders) {
      guard let encoder = drmModeGetEncoder(fd, connector.encoders[i]) else { continue }
      defer { drmModeFreeEncoder(encoder) }
      for index in 0..<Int(resources.count_crtcs)
      where encoder.pointee.possible_crtcs & (1 << UInt32(index)) != 0 {
        return (resources.crtcs[index], index)
      }
    }
    throw KMSError("nothing drives \(name(connector))")
  }

  private static func primaryPlane(_ fd: CInt, crtcIndex: Int) throws(KMSError) -> UInt32 {
    guard let planes = drmModeGetPlaneResources(fd) else { throw KMSError("no planes", errno) }
    defer { drmModeFreePlaneResources(planes) }
    for i in 0..<Int(planes.pointee.count_planes) {
      let id = planes.pointee.planes[i]
      guard let plane = drmModeGetPlane(fd, id) else { continue }
      defer { drmModeFreePlane(plane) }
      guard plane.pointee.possible_crtcs & (1 << UInt32(crtcIndex)) != 0 else { continue }
      let type = property(fd, id, UInt32(DRM_MODE_OBJECT_PLANE), "type")
      if type.value == UInt64(DRM_PLANE_TYPE_PRIMARY) { return id }
    }
    throw KMSError("no primary plane")
  }

  /// A property's id and value by name, 0 if the object has none.
  private static func property(
    _ fd: CInt, _ object: UInt32, _ type: UInt32, _ name: String
  ) -> (id: UInt32, value: UInt64) {
    guard let all = drmModeObjectGetProperties(fd, object, type) else { return (0, 0) }
    defer { drmModeFreeObjectProperties(all) }
    for i in 0..<Int(all.pointee.count_props) {
      guard let each = drmModeGetProperty(fd, all.pointee.props[i]) else { continue }
      defer { drmModeFreeProperty(each) }
      let its = withUnsafeBytes(of: each.pointee.name) { bytes in
        String(decoding: bytes.prefix { $0 != 0 }, as: UTF8.self)
      }
      if its == name { return (each.pointee.prop_id, all.pointee.prop_values[i]) }
    }
    return (0, 0)
  }

  private static func properties(
    _ fd: CInt, connector: UInt32, crtc: UInt32, plane: UInt32
  ) throws(KMSError) -> Properties {
    func id(_ object: UInt32, _ type: Int64, _ name: String) -> UInt32 {
      property(fd, object, UInt32(truncatingIfNeeded: type), name).id
    }
    let onPlane = Int64(DRM_MODE_OBJECT_PLANE)
    let onCRTC = Int64(DRM_MODE_OBJECT_CRTC)
    let all = Properties(
      connectorCRTC: id(connector, Int64(DRM_MODE_OBJECT_CONNECTOR), "CRTC_ID"),
      crtcMode: id(crtc, onCRTC, "MODE_ID"), crtcActive: id(crtc, onCRTC, "ACTIVE"),
      outFence: id(crtc, onCRTC, "OUT_FENCE_PTR"), frame: id(plane, onPlane, "FB_ID"),
      planeCRTC: id(plane, onPlane, "CRTC_ID"), inFence: id(plane, onPlane, "IN_FENCE_FD"),
      source: ["SRC_X", "SRC_Y", "SRC_W", "SRC_H"].map { id(plane, onPlane, $0) },
      place: ["CRTC_X", "CRTC_Y", "CRTC_W", "CRTC_H"].map { id(plane, onPlane, $0) })
    guard
      ([all.connectorCRTC, all.crtcMode, all.crtcActive, all.frame] + all.source + all.place)
        .allSatisfy({ $0 != 0 })
    else { throw KMSError("the device lacks properties of atomic mode setting") }
    return all
  }
}
