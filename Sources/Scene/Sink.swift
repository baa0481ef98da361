import Buffers
import Fences

/// Somebody on the host who looks at what the guest shows.
///
/// The contract, for those who add a kind of display:
///
/// - Everything happens in the event loop's thread, and nothing may wait.
/// - The device *commits* to a ``Scene``: sizes, pictures, cursors. After each command it has the
///   scene *publish*, which calls ``pull(_:)`` of each sink once. A sink then takes what it has room
///   for: ``Scene/frame(_:_:)`` is a picture in memory that others may import, ``Scene/pixels(_:)``
///   the same for the processor, valid until the sink returns.
/// - A frame is **locked** when the sink gets it. The sink, and nobody else, unlocks it
///   (`frame.lock?.release()`) exactly once, when whoever it is for reads it no more: consumer, GPU,
///   or the socket that it waits in. The guest's fenced flush is answered with the last unlock, a
///   copy is drawn into again after it. What keeps nobody back has no lock.
/// - A sink without room takes nothing: it adds ``News/damage`` to what it owes, and holds no fence.
///   It names the output in ``lateOutputs`` once it has room, and gets the newest picture at the end
///   of the turn, after a look at its pages. There is no older one.
/// - A lock has a deadline. After ``expired(_:)`` the guest does not wait any more; a reader that is
///   behind gets copies until it has caught up.
/// - A buffer that is **revoked** must not be given to anybody afterwards. Who has it on the sink's
///   side is told to let go; until then the sink keeps the revocation's lock.
/// - The device does not revoke guest pages as unused while a sink ``shows(_:)`` them.
/// - Sinks know nothing of the device, and call nobody but the scene, to pull. So no call comes back
///   to where it began.
public protocol Sink: AnyObject {
  /// Whether frames that can be imported are of use: only then the guest's pages are pinned.
  var wantsBuffers: Bool { get }

  /// Outputs that have room for a frame which was passed over.
  var lateOutputs: OutputSet { get }

  /// Outputs, pictures or cursors have changed: `scene.news(of:)` tells for each output in `changed`.
  func pull(_ changed: OutputSet)

  /// The end of the loop's turn: every command was run, and late frames may be pulled.
  func pullLate()

  /// Nobody may use a buffer any more.
  ///
  /// - Parameter lock: to be retained here, if need be, and released once all have let go.
  func revoke(_ buffer: OfferedBuffer, _ reason: RevocationReason, _ lock: Hold)

  /// The guest does not wait any longer for those who have frames with this lock.
  func expired(_ lock: Hold)

  /// Whether somebody on the sink's side has a buffer on screen, though the scene may show another
  /// picture by now.
  func shows(_ buffer: OfferedBuffer) -> Bool

  /// Somebody is about to look whether locks are free that only this sink can tell of, such as those
  /// of a ``StillPicture``: unlocks what was read.
  func reviewLocks()
}

extension Sink {
  /// None: the sink takes what it gets.
  public var lateOutputs: OutputSet { [] }
  /// Does nothing.
  public func pullLate() {}
  /// Does nothing: the sink keeps no frames.
  public func expired(_ lock: Hold) {}
  /// Nobody: the sink keeps no frames.
  public func shows(_ buffer: OfferedBuffer) -> Bool { false }
  /// Does nothing: the sink tells by itself.
  public func reviewLocks() {}
}

/// Some of the outputs, from 0 to 63.
public struct OutputSet: OptionSet, Sendable {
  /// A bit for each output.
  public let rawValue: UInt64
  /// Takes a bit for each output.
  public init(rawValue: UInt64) { self.rawValue = rawValue }
  /// All of them.
  public static let all = OutputSet(rawValue: .max)
  /// One output.
  public init(_ output: Int) { rawValue = (0..<64).contains(output) ? 1 << UInt64(output) : 0 }
}
