import Buffers
import Pixels
import Scene

/// Messages of QEMU's display socket, as docs/interop/vhost-user-gpu.rst defines them.
///
/// Numbers are in the machine's byte order, which is little-endian wherever QEMU and Pinhole
/// share memory; structures are packed. QEMU trusts the sizes it is told, so this is the only
/// place that writes them.
package enum QEMUWire {
  /// `VHOST_USER_GPU_*` request numbers.
  package enum Request: UInt32, CaseIterable, Sendable {
    case getProtocolFeatures = 1
    case setProtocolFeatures
    case getDisplayInfo
    case cursorPosition
    case cursorPositionHide
    case cursorUpdate
    case scanout
    case update
    case dmabufScanout
    case dmabufUpdate
    case getEDID
    case dmabufScanout2
  }

  /// `VHOST_USER_GPU_PROTOCOL_F_*`.
  package struct Features: OptionSet, Sendable {
    package let rawValue: UInt64
    package init(rawValue: UInt64) { self.rawValue = rawValue }
    /// GET_EDID works.
    package static let edid = Features(rawValue: 1 << 0)
    /// DMABUF_SCANOUT2 works.
    package static let dmabuf2 = Features(rawValue: 1 << 1)
  }

  /// The three numbers in front of every message.
  package struct Header: Equatable, Sendable {
    /// Bytes on the wire.
    package static let size = 12
    /// Bit 2 of `flags`: the message answers a request.
    package static let reply: UInt32 = 4

    package var request: UInt32
    package var flags: UInt32
    /// Bytes of payload that follow.
    package var size: UInt32

    package init(request: UInt32, flags: UInt32, size: UInt32) {
      self.request = request
      self.flags = flags
      self.size = size
    }
  }

  /// Pixels across and down of every cursor.
  package static let cursorSide: UInt32 = 64
  /// Bytes of a cursor's pixels.
  package static let cursorBytes = 64 * 64 * 4
  /// Bytes of `struct virtio_gpu_resp_display_info`.
  package static let displayInfoSize = 24 + 16 * 24
  /// Bytes of `struct virtio_gpu_resp_edid`.
  package static let edidReplySize = 24 + 8 + 1024
  /// Most bytes of an EDID.
  package static let maxEDID = 1024
  /// Bytes of `VhostUserGpuUpdate` without its pixels.
  package static let updateSize = 20
  /// Bytes of `VhostUserGpuDMABUFScanout`; DMABUF_SCANOUT2 has a modifier behind it.
  package static let dmabufScanoutSize = 40

  /// Writes messages one after another.
  package struct Encoder {
    package private(set) var bytes: [UInt8] = []

    package init(capacity: Int = 256) { bytes.reserveCapacity(capacity) }

    /// Forgets the bytes and keeps the memory.
    package mutating func clear() { bytes.removeAll(keepingCapacity: true) }

    private mutating func put(_ value: UInt32) {
      withUnsafeBytes(of: value.littleEndian) { bytes.append(contentsOf: $0) }
    }

    private mutating func put(_ value: UInt64) {
      withUnsafeBytes(of: value.littleEndian) { bytes.append(contentsOf: $0) }
    }

    private mutating func header(_ request: Request, size: Int, reply: Bool = false) {
      put(request.rawValue)
      put(reply ? Header.reply : 0)
      put(UInt32(clamping: size))
    }
  }
}

// What a backend sends.
extension QEMUWire.Encoder {
  package mutating func getProtocolFeatures() { header(.getProtocolFeatures, size: 0) }

  package mutating func setProtocolFeatures(_ features: QEMUWire.Features) {
    header(.setProtocolFeatures, size: 8)
    put(features.rawValue)
  }

  package mutating func getDisplayInfo() { header(.getDisplayInfo, size: 0) }

  package mutating func getEDID(output: UInt32) {
    header(.getEDID, size: 4)
    put(output)
  }

  /// CURSOR_POS, or CURSOR_POS_HIDE for a cursor that is not visible.
  package mutating func cursorPosition(output: UInt32, x: Int32, y: Int32, visible: Bool) {
    header(visible ? .cursorPosition : .cursorPositionHide, size: 12)
    put(output)
    put(UInt32(bitPattern: x))
    put(UInt32(bitPattern: y))
  }

  /// CURSOR_UPDATE.
  ///
  /// - Parameter pixels: 64 x 64 of ARGB8888; cut off or filled up with zeros to that size.
  package mutating func cursorUpdate(
    output: UInt32, x: Int32, y: Int32, hotX: UInt32, hotY: UInt32, pixels: [UInt8]
  ) {
    header(.cursorUpdate, size: 20 + QEMUWire.cursorBytes)
    put(output)
    put(UInt32(bitPattern: x))
    put(UInt32(bitPattern: y))
    put(hotX)
    put(hotY)
    bytes.append(contentsOf: pixels.prefix(QEMUWire.cursorBytes))
    let missing = max(0, QEMUWire.cursorBytes - pixels.count)
    bytes.append(contentsOf: repeatElement(0, count: missing))
  }

  /// SCANOUT; a width and height of 0 disable the output.
  package mutating func scanout(output: UInt32, width: UInt32, height: UInt32) {
    header(.scanout, size: 12)
    put(output)
    put(width)
    put(height)
  }

  /// UPDATE up to its pixels: `width * height * 4` bytes of XRGB8888 must follow.
  ///
  /// - Parameter rect: in pixels of the scanout; its pixels fit a payload of 2^32 - 1 bytes.
  package mutating func update(output: UInt32, rect: Rect) {
    let pixels = Int(rect.width) * Int(rect.height) * 4
    header(.update, size: QEMUWire.updateSize + pixels)
    area(output, rect)
  }

  /// One black pixel of an UPDATE.
  package mutating func pixel() { put(UInt32(0)) }

  /// DMABUF_UPDATE, which QEMU answers with an empty reply once it has presented.
  package mutating func dmabufUpdate(output: UInt32, rect: Rect) {
    header(.dmabufUpdate, size: QEMUWire.updateSize)
    area(output, rect)
  }

  /// DMABUF_SCANOUT2, or DMABUF_SCANOUT without a modifier, which QEMU takes for linear.
  ///
  /// The dma-buf's descriptor must travel with byte 0. QEMU ignores the position inside the
  /// dma-buf, so the picture has to begin at its first pixel.
  package mutating func dmabufScanout(output: UInt32, layout: PixelLayout, modifier: UInt64?) {
    let size = QEMUWire.dmabufScanoutSize
    if modifier == nil {
      header(.dmabufScanout, size: size)
    } else {
      header(.dmabufScanout2, size: size + 8)
    }
    put(output)
    put(UInt32(0))
    put(UInt32(0))
    put(layout.width)
    put(layout.height)
    put(layout.width)
    put(layout.height)
    put(layout.stride)
    put(UInt32(0))
    put(layout.fourcc.rawValue)
    if let modifier { put(modifier) }
  }

  /// DMABUF_SCANOUT without a descriptor: QEMU lets the output's dma-buf go.
  package mutating func dmabufScanoutOff(output: UInt32) {
    header(.dmabufScanout, size: QEMUWire.dmabufScanoutSize)
    put(output)
    bytes.append(contentsOf: repeatElement(0, count: QEMUWire.dmabufScanoutSize - 4))
  }

  private mutating func area(_ output: UInt32, _ rect: Rect) {
    put(output)
    put(rect.x)
    put(rect.y)
    put(rect.width)
    put(rect.height)
  }
}

// What a front-end answers.
extension QEMUWire.Encoder {
  package mutating func protocolFeaturesReply(_ features: QEMUWire.Features) {
    header(.getProtocolFeatures, size: 8, reply: true)
    put(features.rawValue)
  }

  /// `struct virtio_gpu_resp_display_info`.
  package mutating func displayInfoReply(_ info: DisplayInfo) {
    header(.getDisplayInfo, size: QEMUWire.displayInfoSize, reply: true)
    response(QEMUWire.okDisplayInfo)
    for mode in info.modes {
      put(mode.rect.x)
      put(mode.rect.y)
      put(mode.rect.width)
      put(mode.rect.height)
      put(UInt32(mode.isEnabled ? 1 : 0))
      put(mode.flags)
    }
  }

  /// `struct virtio_gpu_resp_edid` with at most 1024 bytes of EDID.
  package mutating func edidReply(_ edid: [UInt8]) {
    header(.getEDID, size: QEMUWire.edidReplySize, reply: true)
    response(QEMUWire.okEDID)
    let blob = edid.prefix(QEMUWire.maxEDID)
    put(UInt32(clamping: blob.count))
    put(UInt32(0))
    bytes.append(contentsOf: blob)
    bytes.append(contentsOf: repeatElement(0, count: QEMUWire.maxEDID - blob.count))
  }

  package mutating func dmabufUpdateReply() { header(.dmabufUpdate, size: 0, reply: true) }

  /// `struct virtio_gpu_ctrl_hdr` with a response type and nothing else.
  private mutating func response(_ type: UInt32) {
    put(type)
    bytes.append(contentsOf: repeatElement(0, count: 20))
  }
}

extension QEMUWire {
  /// `VIRTIO_GPU_RESP_OK_DISPLAY_INFO`.
  package static let okDisplayInfo: UInt32 = 0x1101
  /// `VIRTIO_GPU_RESP_OK_EDID`.
  package static let okEDID: UInt32 = 0x1104
}
