/// The protocol that Mesa's virgl driver speaks without a kernel (`GALLIUM_DRIVER=virpipe`),
/// version 2 (vtest_protocol.h of virglrenderer): words on a stream socket, a length and a command
/// before each.
enum VtestCommand: UInt32 {
  case getCaps = 1
  case resourceCreate
  case resourceUnref
  case transferGet
  case transferPut
  case submit
  case busyWait
  case createRenderer
  case getCaps2
  case pingProtocolVersion
  case protocolVersion
  case resourceCreate2
  case transferGet2
  case transferPut2
}

/// VCMD_RESOURCE_CREATE2.
package struct VtestResource: Equatable, Sendable {
  package let handle, target, format, bind, width, height, depth: UInt32
  package let arraySize, lastLevel, samples: UInt32
  /// Bytes of the memory that the client shares, 0 for none.
  package let size: UInt32

  init?(_ words: [UInt32]) {
    guard words.count == 11 else { return nil }
    handle = words[0]
    target = words[1]
    format = words[2]
    bind = words[3]
    width = words[4]
    height = words[5]
    depth = words[6]
    arraySize = words[7]
    lastLevel = words[8]
    samples = words[9]
    size = words[10]
  }
}

/// VCMD_TRANSFER_GET2 and VCMD_TRANSFER_PUT2.
package struct VtestTransfer: Equatable, Sendable {
  package let handle, level, x, y, z, width, height, depth, size, offset: UInt32

  init?(_ words: [UInt32]) {
    guard words.count == 10 else { return nil }
    handle = words[0]
    level = words[1]
    x = words[2]
    y = words[3]
    z = words[4]
    width = words[5]
    height = words[6]
    depth = words[7]
    size = words[8]
    offset = words[9]
  }
}

/// What draws for a ``VtestSession``: the 3D that is tested.
package protocol VtestBackend: AnyObject {
  /// `VIRTIO_GPU_CAPSET_VIRGL` (1) or `_VIRGL2` (2).
  func capset(_ id: UInt32) throws -> [UInt8]
  /// Makes a resource that the context may use.
  ///
  /// - Returns: the memory that the client is to share, nil if its size is 0.
  func create(_ resource: VtestResource) throws -> CInt?
  func destroy(_ handle: UInt32) throws
  func transfer(_ transfer: VtestTransfer, toHost: Bool) throws
  /// Words of the virgl dialect.
  func submit(_ commands: [UInt8]) throws
  /// Returns once everything before is done.
  func wait() throws
}
