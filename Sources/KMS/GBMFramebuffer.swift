import CDrm
import CGbm
import Glibc
import Linux

/// The memory of a display's device as its driver in Mesa allocates it (libgbm), which is loaded
/// when the first screen asks for it and not before.
public final class GBMMemory {
  fileprivate let device: OpaquePointer
  /// Its descriptor is the device's.
  fileprivate let screen: KMSScreen

  /// - Throws: where there is no libgbm, or none of its drivers knows the device.
  public init(on screen: KMSScreen) throws(KMSError) {
    var why = [CChar](repeating: 0, count: 400)
    guard ph_gbm_load(&why, why.count) == 0 else {
      let text = why.prefix { $0 != 0 }.map { UInt8(bitPattern: $0) }
      throw KMSError("\(String(decoding: text, as: UTF8.self)); install libgbm1")
    }
    guard let opened = ph_gbm_open(screen.fd.raw) else {
      throw KMSError("GBM knows no driver of the display's", errno)
    }
    device = opened
    self.screen = screen
  }

  deinit { ph_gbm_close(device) }
}

/// Memory that the display's driver takes for the best to scan.
public final class GBMFramebuffer: PaintedFramebuffer {
  /// The framebuffer's id.
  public let id: UInt32
  private var picture: ph_gbm_picture
  /// Outlives the picture.
  private let memory: GBMMemory

  /// Allocates it; black at first.
  public init(in memory: GBMMemory) throws(KMSError) {
    let screen = memory.screen
    var made = ph_gbm_picture()
    let error = ph_gbm_create(
      memory.device, screen.width, screen.height, KMSScreen.xrgb8888, &made)
    guard error == 0 else { throw KMSError("GBM has no memory for a picture", error) }
    do throws(KMSError) {
      id = try screen.addFramebuffer(
        made.handle, width: screen.width, height: screen.height, stride: made.stride,
        offset: made.offset, fourcc: KMSScreen.xrgb8888, modifier: made.modifier)
    } catch {
      ph_gbm_destroy(&made)
      throw error
    }
    picture = made
    self.memory = memory
  }

  deinit {
    drmModeRmFB(memory.screen.fd.raw, id)
    ph_gbm_destroy(&picture)
  }

  private func write(
    x: Int, y: Int, width: Int, height: Int, _ rows: UnsafeRawPointer?, stride: Int
  ) throws(KMSError) {
    let error = ph_gbm_write(
      &picture, UInt32(x), UInt32(y), UInt32(width), UInt32(height), rows, stride)
    guard error == 0 else { throw KMSError("the display's memory cannot be mapped", error) }
  }

  /// Makes it black.
  public func clear() throws(KMSError) {
    try write(
      x: 0, y: 0, width: Int(memory.screen.width), height: Int(memory.screen.height), nil,
      stride: 0)
  }

  /// Copies a picture into the middle, or the middle of one that is too large.
  public func fill(_ pixels: [UInt8], width: Int) throws(KMSError) {
    guard let place = Placement(pixels, width: width, on: memory.screen) else { return }
    if place.hasBorder { try clear() }
    var failure: KMSError?
    pixels.withUnsafeBytes { bytes in
      guard let base = bytes.baseAddress else { return }
      do throws(KMSError) {
        try write(
          x: place.to.x, y: place.to.y, width: place.across, height: place.down,
          base + (place.from.y * width + place.from.x) * 4, stride: width * 4)
      } catch { failure = error }
    }
    if let failure { throw failure }
  }
}

extension KMSScreen {
  /// Framebuffers for copies, and what they are made of, for people: by GBM where the device has
  /// it, dumb buffers otherwise.
  ///
  /// - Parameter usesGBM: false for dumb buffers whatever the device has.
  public func makeFramebuffers(
    _ count: Int, usesGBM: Bool
  ) throws(KMSError) -> (frames: [any PaintedFramebuffer], origin: String) {
    if usesGBM {
      do throws(KMSError) {
        let memory = try GBMMemory(on: self)
        var frames: [any PaintedFramebuffer] = []
        for _ in 0..<count { frames.append(try GBMFramebuffer(in: memory)) }
        return (frames, "GBM")
      } catch {
        // Whatever the reason is: what else there is says whether the display itself is the fault.
      }
    }
    var frames: [any PaintedFramebuffer] = []
    for _ in 0..<count { frames.append(try DumbFramebuffer(on: self)) }
    return (frames, "dumb buffers")
  }
}
