import Buffers
import GPUCommands
import Pixels
import Scene

// GET_DISPLAY_INFO and GET_EDID: the host's displays know best, and are never waited for.
extension GPUDevice {
  func displayInfo(_ exchange: Exchange) -> Outcome {
    let own = ownDisplayInfo
    guard let displays else { return .reply(own.response) }
    let answer = answerLater(exchange) { own.response }
    displays.displayInfo { answer.send(($0 ?? own).response) }
    return .later
  }

  func edid(_ output: UInt32, _ exchange: Exchange) throws(GPUError) -> Outcome {
    let scanout = try self.scanout(output)
    let own = ownEDID(of: scanout.index)
    guard let displays else { return .reply(.edid(own)) }
    let answer = answerLater(exchange) { .edid(own) }
    displays.edid(output: scanout.index) { answer.send(.edid($0 ?? own)) }
    return .later
  }

  private var ownDisplayInfo: DisplayInfo {
    let size = Rect(x: 0, y: 0, width: configuration.width, height: configuration.height)
    let count = min(Int(configuration.outputs), DisplayInfo.outputs)
    return DisplayInfo(
      modes: Array(repeating: DisplayMode(rect: size, isEnabled: true), count: count))
  }

  private func ownEDID(of output: Int) -> [UInt8] {
    EDID.make(width: configuration.width, height: configuration.height, output: output)
  }
}

extension DisplayInfo {
  fileprivate var response: GPUResponse {
    .displayInfo(modes.map { .init(rect: $0.rect, isEnabled: $0.isEnabled, flags: $0.flags) })
  }
}
