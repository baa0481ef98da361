import Buffers

// GET_DISPLAY_INFO and GET_EDID: the host's displays know best, and are never waited for.
extension GPUDevice {
  func displayInfo(_ exchange: Exchange) -> Outcome {
    let own = ownDisplayInfo
    let header = exchange.header
    guard let displays else { return .reply(Self.response(own, to: header)) }
    let answer = unanswered.add(exchange) { Self.response(own, to: header) }
    displays.displayInfo { answer.send(Self.response($0 ?? own, to: header)) }
    return .later
  }

  func edid(_ request: Request, _ exchange: Exchange) throws(Response) -> Outcome {
    let scanout = try self.scanout(request.u32(24))
    let own = ownEDID(of: scanout.index)
    let header = exchange.header
    guard let displays else { return .reply(Self.response(edid: own, to: header)) }
    let answer = unanswered.add(exchange) { Self.response(edid: own, to: header) }
    displays.edid(output: scanout.index) {
      answer.send(Self.response(edid: $0 ?? own, to: header))
    }
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

  private static func response(_ info: DisplayInfo, to header: RequestHeader) -> ResponseBytes {
    var response = ResponseBytes(
      .okDisplayInfo, size: Wire.displayInfoSize, answering: header)
    for (i, mode) in info.modes.enumerated() {
      let words = [
        mode.rect.x, mode.rect.y, mode.rect.width, mode.rect.height, mode.isEnabled ? 1 : 0,
        mode.flags,
      ]
      for (j, word) in words.enumerated() {
        response.put(word, at: Wire.headerSize + i * 24 + j * 4)
      }
    }
    return response
  }

  private static func response(edid: [UInt8], to header: RequestHeader) -> ResponseBytes {
    var response = ResponseBytes(.okEDID, size: Wire.edidResponseSize, answering: header)
    let bytes = edid.prefix(1024)
    response.put(UInt32(bytes.count), at: 24)
    response.put(bytes, at: 32)
    return response
  }
}
