import CLinux
import Glibc
import Linux

/// What all witnesses share: the userfaultfd, its listener's thread, the page map.
final class WitnessEngine {
  let detector: Detector
  let uffd: Userfaultfd
  let listener: WitnessListener
  let pageMap: PageMap?
  private var thread: Thread?

  init(_ detector: Detector?, device: borrowing OwnedFD?) throws(WitnessError) {
    let uffd = try Userfaultfd(device: device)
    (self.detector, pageMap) = try Self.choose(detector)
    if self.detector == .faults, !uffd.features.contains(.missingShmem) {
      throw .missingFeature("MISSING_SHMEM")
    }
    do throws(Errno) { listener = try WitnessListener(uffd) } catch { throw .listener(error) }
    self.uffd = uffd
  }

  func startListener() throws(WitnessError) {
    let listener = self.listener
    do throws(Errno) {
      thread = try Thread("witness") { listener.run() }
    } catch { throw .listener(error) }
    // What comes next may take away the calls that a thread begins with.
    while !listener.hasStarted { sched_yield() }
  }

  // The thread is joined when the property goes, after this.
  deinit { listener.stop() }

  private static func choose(_ forced: Detector?) throws(WitnessError) -> (Detector, PageMap?) {
    switch forced {
    case .scan: return (.scan, try PageMap(usesScan: true))
    case .pagemap: return (.pagemap, try PageMap(usesScan: false))
    case .faults: return (.faults, nil)
    case nil: break
    }
    for detector in [Detector.scan, .pagemap] {
      do throws(WitnessError) {
        return (detector, try PageMap(usesScan: detector == .scan))
      } catch { continue }
    }
    return (.faults, nil)
  }
}

/// Makes witnesses of guest files.
///
/// Belongs to one thread, as do its witnesses.
public final class WitnessKeeper {
  private let engine: WitnessEngine

  /// Opens all that is needed and, unless told otherwise, starts the listener's thread.
  ///
  /// - Parameters:
  ///   - detector: nil takes the best that this kernel has.
  ///   - device: /dev/userfaultfd, opened before a sandbox closed it; nil uses the system call.
  ///   - startsListener: false for a thread that is to inherit what this one gives up meanwhile;
  ///     call ``startListener()`` before the first witness is made.
  /// - Throws: ``WitnessError`` that says what is missing and what to do.
  public init(
    detector: Detector? = nil, device: consuming OwnedFD? = nil, startsListener: Bool = true
  ) throws(WitnessError) {
    engine = try WitnessEngine(detector, device: device)
    if startsListener { try engine.startListener() }
  }

  /// Starts the listener's thread; returns when it runs.
  public func startListener() throws(WitnessError) { try engine.startListener() }

  /// Whether this process can use userfaultfd here.
  public static var isUsable: Bool {
    do throws(WitnessError) {
      _ = try Userfaultfd(device: nil)
      return true
    } catch { return false }
  }

  /// Opens /dev/userfaultfd for a later ``init(detector:device:)``.
  public static func openDevice() throws(Errno) -> OwnedFD {
    try OwnedFD.open("/dev/userfaultfd", O_RDWR)
  }

  /// Whether an unchanged ``FileTimes`` of a memfd proves here that nothing was discarded.
  public static let timesAreExact = FileTimes.areExact()

  /// The detector in use.
  public var detector: Detector { engine.detector }

  /// Faults on witnesses that the listener saw; the detector `faults` causes them itself.
  public var faults: UInt64 { engine.listener.faults }

  /// Removals (`UFFD_EVENT_REMOVE`) that the listener saw.
  public var removals: UInt64 { engine.listener.removals }

  /// The witness of a file, made on first use, and anew after a page broke under it; it lives as long
  /// as the file or any holder.
  public func witness(for file: GuestFile) throws(WitnessError) -> Witness {
    if let known = file.witness, known.isOf(engine), !known.isBroken { return known }
    let made = try Witness(of: file, engine)
    file.witness = made
    return made
  }
}
