import Buffers
import GPUCommands
import GuestMemory
import Pixels
import Virtqueue

/// Draws what a guest's 3D commands say, in another process and later (virtio 1.3 §5.7.6.8).
///
/// The device keeps the tables: it checks ids, owners, boxes, formats and budgets before it asks
/// for anything. All calls and all completions are in the event loop's thread; no call waits.
/// Operations take effect in the order of the calls. Each completion runs exactly once, inside of
/// the call only where the renderer is not alive.
public protocol Renderer: AnyObject {
  /// What is offered, in the order of GET_CAPSET_INFO's index; known before a guest asks.
  var capsets: [Capset] { get }
  /// False from a death until there is a renderer again: everything gets ``RenderFailure/lost``.
  var isAlive: Bool { get }
  /// Is told of each death, after all completions were given ``RenderFailure/lost``.
  var client: (any RendererClient)? { get set }

  /// Does one thing.
  ///
  /// - Parameter done: runs when it is done; for operations that take time, such as
  ///   ``RenderOperation/fence(context:ring:)``, perhaps after that of younger ones.
  func perform(
    _ operation: RenderOperation,
    _ done: @escaping (Result<RenderReply, RenderFailure>) -> Void)

  /// Forgets everything that the guest made: all that is not done gets ``RenderFailure/lost``.
  func reset()

  /// Gives a piece of the host memory back that nothing is drawn into; false where there is none.
  func giveMemoryBack() -> Bool
}

extension Renderer {
  /// Keeps none.
  public func giveMemoryBack() -> Bool { false }
}

/// Whom a ``Renderer`` draws for.
public protocol RendererClient: AnyObject {
  /// All contexts and resources are gone.
  func rendererDied(_ why: String)
  /// Takes host memory for as long as the result lives; nil where the guest has used up its share.
  func hostMemory(_ bytes: UInt64) -> AnyObject?
}

/// A set of capabilities, `struct virtio_gpu_resp_capset_info` and `virtio_gpu_resp_capset`.
public struct Capset: Sendable {
  /// `VIRTIO_GPU_CAPSET_*`.
  public let id: UInt32
  /// The largest version.
  public let maxVersion: UInt32
  /// What the largest version says.
  public let data: [UInt8]

  /// Describes a set.
  public init(id: UInt32, maxVersion: UInt32, data: [UInt8]) {
    self.id = id
    self.maxVersion = maxVersion
    self.data = data
  }
}

/// What a ``Renderer`` can be asked to do. Numbers are those of the guest.
public enum RenderOperation {
  /// CTX_CREATE; `capset` is the low byte of `context_init`, 0 for virgl.
  case createContext(UInt32, capset: UInt32, name: [UInt8])
  /// CTX_DESTROY.
  case destroyContext(UInt32)
  /// CTX_ATTACH_RESOURCE.
  case attach(resource: UInt32, context: UInt32)
  /// CTX_DETACH_RESOURCE.
  case detach(resource: UInt32, context: UInt32)
  /// RESOURCE_CREATE_3D.
  case createResource(UInt32, ResourceShape)
  /// RESOURCE_UNREF.
  case destroyResource(UInt32)
  /// RESOURCE_ATTACH_BACKING: guest pages in order.
  case attachBacking(UInt32, [FileRange])
  /// RESOURCE_DETACH_BACKING: once it is done nothing touches the pages any more.
  case detachBacking(UInt32)
  /// TRANSFER_TO_HOST_3D, or TRANSFER_FROM_HOST_3D.
  case transfer(Transfer3D, toHost: Bool)
  /// SUBMIT_3D.
  case submit(context: UInt32, CommandStream)
  /// Is done once everything before it of the context, or of one ring of it, has been drawn.
  case fence(context: UInt32, ring: UInt8?)
  /// Copies a part of a resource into a buffer of an output that nobody looks at, as soon as there
  /// is one; answered with ``RenderReply/shown(_:)``. `damage` is relative to `crop`.
  case show(resource: UInt32, output: Int, crop: Rect, damage: Rect)
  /// Reads a resource's first rows, as a cursor; answered with ``RenderReply/pixels(_:)``.
  case readPixels(resource: UInt32, width: UInt32, height: UInt32)
}

/// What came of a ``RenderOperation``.
public enum RenderReply {
  /// It is done.
  case done
  /// The picture.
  case shown(HostFrame)
  /// Rows of `width * 4` bytes, `DRM_FORMAT_ARGB8888`.
  case pixels([UInt8])
}

/// Why a ``RenderOperation`` was not done.
public enum RenderFailure: Error, Equatable, Sendable {
  /// The renderer says no.
  case refused
  /// The renderer died, was reset, or did not answer in time.
  case lost
}

/// The command buffer of a SUBMIT_3D, still in guest memory: the guest may be writing to it.
public struct CommandStream {
  private let chain: DescriptorChain
  private let offset: Int
  /// Bytes, a multiple of 4.
  public let count: Int

  init(_ chain: DescriptorChain, offset: Int, count: Int) {
    self.chain = chain
    self.offset = offset
    self.count = count
  }

  /// Copies it, to be judged and used from there. Only until ``Renderer/perform(_:_:)`` returns.
  ///
  /// - Returns: bytes that were copied, less than ``count`` where the buffer is smaller.
  @discardableResult
  public func copy(into buffer: UnsafeMutableRawBufferPointer) -> Int {
    let room = UnsafeMutableRawBufferPointer(rebasing: buffer.prefix(count))
    return chain.read(into: room, offset: offset)
  }
}
