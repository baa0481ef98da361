/// Writes commands of the virgl dialect (virgl_protocol.h of virglrenderer): as much of it as draws
/// coloured triangles.
package struct VirglStream {
  /// The commands so far.
  package private(set) var words: [UInt32] = []

  package init() {}

  /// The commands as bytes.
  package var bytes: [UInt8] { words.withUnsafeBytes { Array($0) } }

  private enum Command: UInt32 {
    case createObject = 1
    case bindObject
    case destroyObject
    case setViewport
    case setFramebuffer
    case setVertexBuffers
    case clear
    case draw
    case inlineWrite
    case bindShader = 31
  }

  private enum Kind: UInt32 {
    case none, blend, rasterizer, depthStencilAlpha, shader, vertexElements
    case surface = 8
  }

  private mutating func put(_ command: Command, _ arguments: [UInt32]) {
    put(command, .none, arguments)
  }

  private mutating func put(_ command: Command, _ kind: Kind, _ arguments: [UInt32]) {
    words.append(command.rawValue | kind.rawValue << 8 | UInt32(arguments.count) << 16)
    words += arguments
  }

  private static func bits(_ value: Float) -> UInt32 { value.bitPattern }

  /// Draws into a resource's first level from now on.
  package mutating func target(surface: UInt32, resource: UInt32, format: UInt32) {
    put(.createObject, .surface, [surface, resource, format, 0, 0])
    put(.setFramebuffer, [1, 0, surface])
  }

  /// Fills the target with a colour: red, green, blue, alpha from 0 to 1.
  package mutating func clear(_ colour: (Float, Float, Float, Float)) {
    let depth = Double(1).bitPattern
    put(
      .clear,
      [
        4, Self.bits(colour.0), Self.bits(colour.1), Self.bits(colour.2), Self.bits(colour.3),
        UInt32(truncatingIfNeeded: depth), UInt32(truncatingIfNeeded: depth >> 32), 0,
      ])
  }

  /// Sets up what ``drawTriangle(_:)`` needs, with objects numbered from `first`.
  ///
  /// - Parameters:
  ///   - size: of the target in pixels.
  ///   - first: the first of six unused numbers of objects.
  package mutating func prepareTriangles(size: (width: UInt32, height: UInt32), first: UInt32) {
    put(.createObject, .blend, [first, 0, 0, 0xf << 27] + [UInt32](repeating: 0, count: 7))
    put(.bindObject, .blend, [first])
    put(.createObject, .depthStencilAlpha, [first + 1, 0, 0, 0, 0])
    put(.bindObject, .depthStencilAlpha, [first + 1])
    // Clip by depth, pixel centres at halves.
    put(
      .createObject, .rasterizer,
      [first + 2, 1 << 1 | 1 << 29, Self.bits(1), 0, 0, Self.bits(1), 0, 0, 0])
    put(.bindObject, .rasterizer, [first + 2])
    shader(
      first + 3, isFragment: false,
      """
      VERT
      DCL IN[0]
      DCL IN[1]
      DCL OUT[0], POSITION
      DCL OUT[1], COLOR
        0: MOV OUT[1], IN[1]
        1: MOV OUT[0], IN[0]
        2: END

      """)
    shader(
      first + 4, isFragment: true,
      """
      FRAG
      DCL IN[0], COLOR, LINEAR
      DCL OUT[0], COLOR
        0: MOV OUT[0], IN[0]
        1: END

      """)
    put(
      .createObject, .vertexElements,
      [first + 5, 0, 0, 0, Self.floats, 16, 0, 0, Self.floats])
    put(.bindObject, .vertexElements, [first + 5])
    let (w, h) = (Float(size.width) / 2, Float(size.height) / 2)
    let viewport: [Float] = [w, h, 0.5, w, h, 0.5]
    put(.setViewport, [0] + viewport.map(Self.bits))
  }

  private mutating func shader(_ handle: UInt32, isFragment: Bool, _ text: String) {
    var bytes = Array(text.utf8) + [0]
    let length = UInt32(bytes.count)
    while bytes.count % 4 != 0 { bytes.append(0) }
    let packed = bytes.withUnsafeBytes { raw in
      (0..<(raw.count / 4)).map { raw.loadUnaligned(fromByteOffset: $0 * 4, as: UInt32.self) }
    }
    let kind: UInt32 = isFragment ? 1 : 0
    put(.createObject, .shader, [handle, kind, length, 300, 0] + packed)
    put(.bindShader, [handle, kind])
  }

  /// Draws a triangle of one colour.
  ///
  /// - Parameters:
  ///   - corners: x and y of each from -1 to 1, y upwards in memory.
  ///   - colour: red, green, blue, alpha.
  ///   - buffer: a resource of at least 96 bytes that may be a vertex buffer.
  package mutating func drawTriangle(
    _ corners: [(Float, Float)], _ colour: (Float, Float, Float, Float), buffer: UInt32
  ) {
    var vertices: [UInt32] = []
    for (x, y) in corners {
      let numbers: [Float] = [x, y, 0, 1, colour.0, colour.1, colour.2, colour.3]
      vertices += numbers.map(Self.bits)
    }
    put(
      .inlineWrite,
      [buffer, 0, 0, 0, 0, 0, 0, 0, UInt32(vertices.count * 4), 1, 1] + vertices)
    put(.setVertexBuffers, [32, 0, buffer])
    put(.draw, [0, UInt32(corners.count), Self.triangles, 0, 1, 0, 0, 0, 0, 0, 2, 0])
  }

  private static let floats: UInt32 = 31  // VIRGL_FORMAT_R32G32B32A32_FLOAT
  private static let triangles: UInt32 = 4  // PIPE_PRIM_TRIANGLES
}

extension RenderShape {
  /// `VIRGL_FORMAT_B8G8R8A8_UNORM` and `_B8G8R8X8_UNORM`.
  package static let bgra: UInt32 = 1
  package static let bgrx: UInt32 = 2

  /// A picture that can be drawn into, sampled and shown.
  package static func picture(
    width: UInt32, height: UInt32, format: UInt32 = bgrx
  ) -> RenderShape {
    RenderShape(target: 2, format: format, bind: 0x14_000a, width: width, height: height)
  }

  /// A vertex buffer of some bytes.
  package static func vertices(bytes: UInt32) -> RenderShape {
    RenderShape(target: 0, format: 64, bind: 1 << 4, width: bytes, height: 1)
  }
}
