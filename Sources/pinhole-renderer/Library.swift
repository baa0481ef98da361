import CLinux
import CVirgl
import Glibc
import RenderWire

/// Why the library cannot work here.
struct LibraryFailure: Error {
  let reason: String
}

/// libvirglrenderer, as far as it is one per process and thread.
enum Library {
  /// Loads and starts it in this thread, which owns it from now on.
  ///
  /// - Parameter node: the render node, nil for llvmpipe.
  static func start(node: CInt?) throws(LibraryFailure) -> RenderGreeting {
    var why = [CChar](repeating: 0, count: 400)
    guard ph_virgl_load(&why, why.count) == 0 else {
      let text = String(
        decoding: why.prefix { $0 != 0 }.map { UInt8(bitPattern: $0) }, as: UTF8.self)
      throw LibraryFailure(reason: "\(text); install libvirglrenderer1")
    }
    let result = ph_virgl_init(node ?? -1)
    guard result == 0 else {
      throw LibraryFailure(
        reason: "libvirglrenderer finds no OpenGL (error \(result)); install libgl1-mesa-dri and "
          + "libegl1, or choose another --render-node")
    }
    let capsets = dialects.compactMap(capset)
    guard !capsets.isEmpty else { throw LibraryFailure(reason: "the library has no virgl") }
    return RenderGreeting(isRecent: ph_virgl_is_recent() == 1, capsets: capsets)
  }

  /// `VIRTIO_GPU_CAPSET_VIRGL` and `_VIRGL2`.
  private static let dialects: [UInt32] = [1, 2]

  private static func capset(_ id: UInt32) -> RenderCapset? {
    var version: UInt32 = 0
    let size = Int(ph_virgl_capset_size(id, &version))
    guard size > 0, size <= RenderWire.largestCapset else { return nil }
    var data = [UInt8](repeating: 0, count: size)
    data.withUnsafeMutableBytes { ph_virgl_fill_capset(id, version, $0.baseAddress) }
    return RenderCapset(id: id, version: version, data: data)
  }

  /// The number of an error, 0 for none.
  static func create(_ id: UInt32, _ s: RenderShape) -> CInt {
    var shape = ph_virgl_shape(
      handle: id, target: s.target, format: s.format, bind: s.bind, width: s.width,
      height: s.height, depth: s.depth, array_size: s.arraySize, last_level: s.lastLevel,
      nr_samples: s.samples, flags: s.flags)
    return ph_virgl_create_resource(&shape)
  }

  /// Draws something, so that everything which is loaded at the first draw is loaded.
  static func warmUp() throws(LibraryFailure) {
    let (context, picture, buffer): (UInt32, UInt32, UInt32) = (
      0x7fff_fff1, 0x7fff_fff2, 0x7fff_fff3
    )
    let (width, height): (UInt32, UInt32) = (64, 64)
    var result = ph_virgl_create_context(context, 0, "warm-up", 7)
    result |= create(picture, .picture(width: width, height: height))
    result |= create(buffer, .vertices(bytes: 256))
    ph_virgl_attach(context, picture)
    ph_virgl_attach(context, buffer)
    var stream = VirglStream()
    stream.target(surface: 1, resource: picture, format: RenderShape.bgrx)
    stream.clear((0, 0, 1, 1))
    stream.prepareTriangles(size: (width, height), first: 2)
    stream.drawTriangle([(-1, -1), (1, -1), (0, 3)], (1, 0, 0, 1), buffer: buffer)
    result |= ph_virgl_submit(context, stream.words, UInt32(stream.words.count))
    var pixels = [UInt32](repeating: 0, count: Int(width * height))
    result |= pixels.withUnsafeMutableBytes { raw in
      var vector = iovec(iov_base: raw.baseAddress, iov_len: raw.count)
      let box = ph_virgl_box(x: 0, y: 0, z: 0, w: width, h: height, d: 1)
      return ph_virgl_transfer(0, picture, 0, 0, width * 4, 0, box, 0, &vector, 1)
    }
    ph_virgl_destroy_context(context)
    ph_virgl_destroy_resource(picture)
    ph_virgl_destroy_resource(buffer)
    let seen = pixels[Int(width * height / 2 + width / 2)] & 0xff_ffff
    guard result == 0, seen == 0xff_0000 else {
      throw LibraryFailure(
        reason: "OpenGL draws wrongly here (error \(result), pixel "
          + "\(String(seen, radix: 16)) instead of ff0000)")
    }
  }
}
