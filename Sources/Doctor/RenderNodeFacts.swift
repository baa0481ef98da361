import Buffers
import CLinux
import Daemon
import Glibc
import GuestMemory
import Linux
import Rendering

/// What a GPU makes of a guest's pictures, by its render node: the short form of `make gpu-check`,
/// which also samples and scans them out.
package struct RenderNodeFacts {
  /// Its path, such as `/dev/dri/renderD128`.
  var path: String
  /// The kernel driver's name; nil where the path is no DRM device.
  var driver: String?
  /// Why it cannot be opened.
  var refusal: Errno?
  /// What its driver says to a dma-buf of guest pages; nil where there is no /dev/udmabuf.
  var importing: Result<Void, Errno>?
  /// Whether consumers can release frames by a point of a drm_syncobj.
  var hasTimelines = false
  /// Whether `serve --3d` draws on it, or why not.
  var drawing: Result<String, RendererHost.Failure>?

  /// Looks at a node.
  ///
  /// - Parameter place: its path, or `auto` for the first one that draws.
  package init(_ place: String) {
    path = place == "auto" ? RenderNode.first ?? "/dev/dri/renderD128" : place
    do throws(Errno) {
      let node = try OwnedFD.open(path, O_RDWR)
      driver = RenderNode.driver(of: path)
      guard driver != nil else { return }
      importing = Self.importGuestPages(into: node.raw)
      hasTimelines = ph_syncobj_has_eventfd(node.raw) == 0
    } catch {
      refusal = error
      return
    }
    switch RenderingOptions.probe(.node(path)) {
    case .success(let host): drawing = .success(host.node ?? "the processor")
    case .failure(let failure): drawing = .failure(failure)
    }
  }

  /// Tells facts that were found elsewhere.
  init(path: String, driver: String?) {
    self.path = path
    self.driver = driver
  }

  /// Sixteen pages, sealed as QEMU's memory is.
  private static func importGuestPages(into node: CInt) -> Result<Void, Errno>? {
    let device: UdmabufDevice
    do throws(CopyReason) { device = try UdmabufDevice.open() } catch { return nil }
    return Result { () throws(Errno) in
      let file = try MemFD.create("doctor", size: 65_536, seals: [.shrink])
      let memory = FileRange(file: try GuestFile(file), offset: 0, count: 65_536)
      let buffer = try device.create([memory])
      try check(ph_drm_imports(node, buffer.raw), "ioctl(DRM_IOCTL_PRIME_FD_TO_HANDLE)")
    }
  }
}

/// What these facts mean.
enum RenderNodeReport {
  static func lines(_ facts: RenderNodeFacts) -> [DoctorReport.Line] {
    let subject = "GPU"
    if let refusal = facts.refusal {
      return [
        DoctorReport.Line(
          mark: .advice, subject: subject,
          text: "\(facts.path) cannot be opened: \(refusal.message)",
          cure: DeviceAccess(facts.path).map(Cure.access)
            ?? "ls -l /dev/dri   # it has renderD128 and the like where a GPU's driver is loaded")
      ]
    }
    guard let driver = facts.driver else {
      return [
        DoctorReport.Line(
          mark: .advice, subject: subject, text: "\(facts.path) is no DRM device",
          cure: "ls -l /dev/dri   # give one of its renderD* to --render-node")
      ]
    }
    var lines = [
      DoctorReport.Line(mark: .good, subject: subject, text: "\(facts.path) belongs to \(driver)")
    ]
    lines.append(importing(facts))
    lines.append(
      DoctorReport.Line(
        mark: facts.hasTimelines ? .good : .advice, subject: "GPU fences",
        text: facts.hasTimelines
          ? "consumers can release frames by points of a timeline"
          : "no timelines: consumers release frames by sync_files",
        cure: facts.hasTimelines
          ? nil
          : "uname -r   # DRM_IOCTL_SYNCOBJ_EVENTFD came with Linux 6.6, and not to each driver"))
    if let drawing = facts.drawing { lines.append(self.drawing(drawing, facts.path)) }
    return lines
  }

  private static func importing(_ facts: RenderNodeFacts) -> DoctorReport.Line {
    let subject = "GPU import"
    switch facts.importing {
    case nil:
      return DoctorReport.Line(
        mark: .advice, subject: subject, text: "not tried, for there is no /dev/udmabuf to use",
        cure: Cure.module)
    case .success:
      return DoctorReport.Line(
        mark: .good, subject: subject, text: "the driver takes a dma-buf of guest pages")
    case .failure(let error):
      return DoctorReport.Line(
        mark: .advice, subject: subject,
        text: "the driver refuses a dma-buf of guest pages (\(error)): its programs get copies",
        cure: "make gpu-check   # in Pinhole's sources: which strides and formats it takes")
    }
  }

  private static func drawing(
    _ drawing: Result<String, RendererHost.Failure>, _ path: String
  ) -> DoctorReport.Line {
    let subject = "GPU 3D"
    switch drawing {
    case .success(let place):
      return DoctorReport.Line(
        mark: .good, subject: subject, text: "serve --3d --render-node \(path) draws on \(place)")
    case .failure(let failure):
      return DoctorReport.Line(
        mark: .advice, subject: subject,
        text: "serve --3d --render-node \(path) would have none: \(failure.description)",
        cure:
          "pinhole serve --3d --render-node none   # with its other options: draws on the processor"
      )
    }
  }
}
