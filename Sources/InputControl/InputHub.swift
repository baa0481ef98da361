import PinholeInput
import VirtioInput

/// Brings what controllers do to the guest's devices, and keeps account of who holds which key.
///
/// It belongs to the event loop's thread.
public final class InputHub {
  /// Names a controller.
  public typealias Controller = UInt64

  private struct Held: Hashable {
    let target: Int
    let code: UInt16
  }

  private let targets: [any InputTarget]
  private var holders: [Held: Set<Controller>] = [:]
  /// The pointer that each controller has moved last, by its index in ``targets``.
  private var pointers: [Controller: Int] = [:]
  /// Called when lamps of a keyboard have changed.
  public var ledsChanged: () -> Void = {}

  /// Serves these devices; the n-th tablet is that of output n, and the first one that of all
  /// outputs without one of their own.
  public init(_ targets: [any InputTarget]) {
    self.targets = targets
    for target in targets {
      target.ledsChanged = { [weak self] in self?.ledsChanged() }
    }
  }

  /// What there is to control.
  public var devices: InputClient.Devices {
    targets.reduce(into: []) { devices, target in
      switch target.profile.kind {
      case .keyboard: devices.insert(.keyboard)
      case .tablet: devices.insert(.tablet)
      case .mouse: devices.insert(.mouse)
      }
    }
  }

  /// Lamps that any keyboard shows.
  public var leds: UInt32 { targets.reduce(0) { $0 | $1.leds } }

  /// A controller did something.
  ///
  /// - Parameters:
  ///   - output: the output that absolute axes belong to.
  ///   - width: its size in pixels.
  public func submit(
    _ events: [InputEvent], output: UInt32, width: UInt32, height: UInt32,
    from controller: Controller
  ) {
    choosePointer(for: events, output: output, controller)
    var moments: [Int: [InputEvent]] = [:]
    for event in events {
      switch event.type {
      case EventType.key:
        // Guests repeat keys themselves.
        guard event.value < 2 else { continue }
        let isDown = event.value == 1
        for target in keyTargets(of: event.code, isDown: isDown, controller)
        where hold(Held(target: target, code: event.code), isDown, controller) {
          moments[target, default: []].append(event)
        }
      case EventType.absolute:
        guard let tablet = pointers[controller] else { continue }
        let size = event.code == Axis.x ? width : height
        let place = InputProfile.position(of: event.value, in: size)
        moments[tablet, default: []].append(.absolute(event.code, place))
      default:
        guard let pointer = pointer(of: controller) else { continue }
        moments[pointer, default: []].append(event)
      }
    }
    for (target, moment) in moments { targets[target].submit(moment) }
  }

  /// A controller is gone: what it alone held goes up.
  public func left(_ controller: Controller) {
    pointers[controller] = nil
    let own = holders.filter { $0.value.contains(controller) }.map(\.key)
    for held in own.sorted(by: { ($0.target, $0.code) < ($1.target, $1.code) })
    where hold(held, false, controller) {
      targets[held.target].submit([.key(held.code, isDown: false)])
    }
  }

  /// - Returns: whether the guest is to be told.
  private func hold(_ held: Held, _ isDown: Bool, _ controller: Controller) -> Bool {
    if isDown {
      let isNew = holders[held] == nil
      holders[held, default: []].insert(controller)
      return isNew
    }
    guard holders[held]?.remove(controller) != nil else { return false }
    guard holders[held]?.isEmpty == true else { return false }
    holders[held] = nil
    return true
  }

  /// Where a key or button goes: up where it went down.
  private func keyTargets(of code: UInt16, isDown: Bool, _ controller: Controller) -> [Int] {
    if !isDown {
      return holders.compactMap { held, who in
        held.code == code && who.contains(controller) ? held.target : nil
      }
    }
    let target =
      PointerButton.all.contains(code)
      ? pointer(of: controller) : targets.firstIndex { $0.profile.kind == .keyboard }
    guard let target, targets[target].profile.has(.key(code, isDown: true)) else { return [] }
    return [target]
  }

  private func pointer(of controller: Controller) -> Int? {
    pointers[controller] ?? tablet(0) ?? mouse
  }

  private func choosePointer(
    for events: [InputEvent], output: UInt32, _ controller: Controller
  ) {
    if events.contains(where: { $0.type == EventType.absolute }) {
      if let tablet = tablet(output) { pointers[controller] = tablet }
    } else if let mouse,
      events.contains(where: { $0.type == EventType.relative && $0.code <= Axis.y })
    {
      pointers[controller] = mouse
    }
  }

  private func tablet(_ output: UInt32) -> Int? {
    let all = targets.indices.filter { targets[$0].profile.kind == .tablet }
    return all.indices.contains(Int(output)) ? all[Int(output)] : all.first
  }

  private var mouse: Int? { targets.firstIndex { $0.profile.kind == .mouse } }
}
