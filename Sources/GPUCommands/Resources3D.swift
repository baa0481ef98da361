/// What RESOURCE_CREATE_3D describes, in the words of gallium's `struct pipe_resource`.
public struct ResourceShape: Equatable, Sendable {
  /// `enum pipe_texture_target`.
  public var target: UInt32 = 0
  /// `enum virgl_formats`.
  public var format: UInt32 = 0
  /// `VIRGL_BIND_*`.
  public var bind: UInt32 = 0
  /// Pixels, or bytes of a buffer.
  public var width: UInt32 = 0
  /// Pixels.
  public var height: UInt32 = 0
  /// Pixels.
  public var depth: UInt32 = 0
  /// Layers.
  public var arraySize: UInt32 = 0
  /// Mipmap levels but one.
  public var lastLevel: UInt32 = 0
  /// Samples a pixel; 0 and 1 mean the same.
  public var samples: UInt32 = 0
  /// `VIRTIO_GPU_RESOURCE_FLAG_*`.
  public var flags: UInt32 = 0

  /// All zero.
  public init() {}
}

/// A part of a 3D resource, `struct virtio_gpu_box`.
public struct Box: Equatable, Sendable {
  /// Left.
  public var x: UInt32 = 0
  /// Top.
  public var y: UInt32 = 0
  /// Front, or the first layer.
  public var z: UInt32 = 0
  /// Across.
  public var width: UInt32 = 0
  /// Down.
  public var height: UInt32 = 0
  /// Back, or layers.
  public var depth: UInt32 = 0

  /// Empty, at the origin.
  public init() {}
}

/// What a transfer moves between a resource and its backing pages.
public struct Transfer3D: Equatable, Sendable {
  /// In whose name; 0 for the device's own.
  public var context: UInt32 = 0
  /// Which resource.
  public var resource: UInt32 = 0
  /// Which mipmap level.
  public var level: UInt32 = 0
  /// Bytes from row to row in the pages; 0 for as many as a row has.
  public var stride: UInt32 = 0
  /// Bytes from layer to layer in the pages; 0 for as many as a layer has.
  public var layerStride: UInt32 = 0
  /// Bytes into the pages.
  public var offset: UInt64 = 0
  /// Which part of the resource.
  public var box = Box()

  /// All zero.
  public init() {}
}
