import Pixels

/// A picture's worth of guest memory behind a resource of the device.
package final class Framebuffer {
  /// How the resource is made.
  package enum Kind: Sendable {
    /// RESOURCE_CREATE_2D with backing.
    case twoD
    /// RESOURCE_CREATE_BLOB over guest memory.
    case blob
  }

  /// The resource's id.
  package let resource: UInt32
  /// Width in pixels.
  package let width: Int
  /// Height in pixels.
  package let height: Int
  /// Bytes from row to row; `width * 4` for a 2D resource.
  package let stride: Int
  /// How it was made.
  package let kind: Kind
  /// How the pixels lie in its memory.
  package let format: PixelFormat
  /// Its memory.
  package let pages: GuestPages
  private let driver: GPUDriver

  /// Takes pages, makes the resource and attaches them.
  ///
  /// - Parameters:
  ///   - merged: neighbouring pages become one entry.
  ///   - format: how the pixels lie in memory.
  package init(
    _ driver: GPUDriver, resource: UInt32, width: Int, height: Int, kind: Kind = .twoD,
    placement: GuestRAM.Placement = .contiguous(), merged: Bool = true,
    format: PixelFormat = .b8g8r8x8
  ) throws(GuestError) {
    self.driver = driver
    self.resource = resource
    self.width = width
    self.height = height
    self.kind = kind
    self.format = format
    stride = width * 4
    pages = try driver.ram.allocate(bytes: stride * height, placement)
    let entries = pages.entries(merged: merged)
    switch kind {
    case .twoD:
      try driver.perform(
        .create2D(resource, format, width: UInt32(width), height: UInt32(height)))
      try driver.perform(.attachBacking(resource, entries))
    case .blob:
      try driver.perform(.createBlob(resource, size: UInt64(pages.byteCount), entries))
    }
  }

  /// All of it.
  package var bounds: Rect { Rect(width: UInt32(width), height: UInt32(height)) }

  /// Draws with the guest's CPU; the device is not told.
  package func draw(_ picture: Raster) {
    let pixels = format == .b8g8r8x8 ? picture.pixels : picture.pixels.map(format.stored)
    pixels.withUnsafeBytes { driver.ram.write($0, to: pages) }
  }

  /// What the guest's memory holds.
  package var contents: Raster {
    let bytes = driver.ram.read(pages, count: stride * height)
    let pixels = [UInt32](unsafeUninitializedCapacity: width * height) { out, filled in
      bytes.withUnsafeBytes { UnsafeMutableRawBufferPointer(out).copyMemory(from: $0) }
      filled = width * height
    }
    return Raster(
      width: width, height: height,
      pixels: format == .b8g8r8x8 ? pixels : pixels.map(format.loaded))
  }

  /// Puts it on a scanout.
  package func show(on scanout: UInt32 = 0) throws(GuestError) {
    try driver.perform(showCommand(on: scanout))
  }

  /// The command of ``show(on:)``, to be pipelined.
  package func showCommand(on scanout: UInt32 = 0) -> GPUCommand {
    switch kind {
    case .twoD: .setScanout(scanout, resource: resource, bounds)
    case .blob:
      .setScanoutBlob(
        scanout, resource: resource, bounds, format: format, width: UInt32(width),
        height: UInt32(height), stride: UInt32(stride))
    }
  }

  /// What Linux sends for a change: TRANSFER_TO_HOST_2D, then RESOURCE_FLUSH.
  ///
  /// - Parameter fence: the id of a fence on the flush, as Linux uses for blobs.
  package func flush(_ rect: Rect? = nil, fence: UInt64? = nil) throws(GuestError) {
    for command in flushCommands(rect, fence: fence) { try driver.perform(command) }
  }

  /// The commands of ``flush(_:fence:)``, to be pipelined.
  package func flushCommands(_ rect: Rect? = nil, fence: UInt64? = nil) -> [GPUCommand] {
    let rect = rect ?? bounds
    let offset = UInt64(rect.y) * UInt64(stride) + UInt64(rect.x) * 4
    let flush = GPUCommand.flush(resource, rect)
    return [
      .transferToHost2D(resource, rect, offset: offset),
      fence.map { flush.fenced($0) } ?? flush,
    ]
  }

  /// Lets the resource go and, once the device has answered, its pages.
  package func remove() throws(GuestError) {
    try driver.perform(.unref(resource))
    driver.ram.free(pages)
  }
}
