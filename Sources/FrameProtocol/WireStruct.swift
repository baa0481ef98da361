import PinholeProtocol

/// A struct of the C header that is a whole message.
package protocol WireStruct {
  /// `header.type` of this message.
  static var type: pinhole_message { get }
  /// Its start.
  var header: pinhole_header { get set }
  /// All zero.
  init()
}

extension WireStruct {
  /// All zero but for its header.
  package static func empty() -> Self {
    var message = Self()
    message.header = pinhole_header(type: type.rawValue, size: UInt32(MemoryLayout<Self>.size))
    return message
  }
}

extension pinhole_consumer_hello: WireStruct {
  package static var type: pinhole_message { PINHOLE_CONSUMER_HELLO }
}
extension pinhole_frame_done: WireStruct {
  package static var type: pinhole_message { PINHOLE_FRAME_DONE }
}
extension pinhole_buffer_closed: WireStruct {
  package static var type: pinhole_message { PINHOLE_BUFFER_CLOSED }
}
extension pinhole_timeline_add: WireStruct {
  package static var type: pinhole_message { PINHOLE_TIMELINE_ADD }
}
extension pinhole_timeline_remove: WireStruct {
  package static var type: pinhole_message { PINHOLE_TIMELINE_REMOVE }
}
extension pinhole_producer_hello: WireStruct {
  package static var type: pinhole_message { PINHOLE_PRODUCER_HELLO }
}
extension pinhole_output: WireStruct {
  package static var type: pinhole_message { PINHOLE_OUTPUT }
}
extension pinhole_buffer_add: WireStruct {
  package static var type: pinhole_message { PINHOLE_BUFFER_ADD }
}
extension pinhole_frame: WireStruct {
  package static var type: pinhole_message { PINHOLE_FRAME }
}
extension pinhole_buffer_remove: WireStruct {
  package static var type: pinhole_message { PINHOLE_BUFFER_REMOVE }
}
extension pinhole_cursor: WireStruct {
  package static var type: pinhole_message { PINHOLE_CURSOR }
}
extension pinhole_error: WireStruct {
  package static var type: pinhole_message { PINHOLE_ERROR }
}

/// A message of the protocol with every number checked that can be checked by itself.
package protocol FrameProtocolMessage {
  /// How it looks on the wire.
  associatedtype Wire: WireStruct

  /// Decodes it.
  ///
  /// - Parameters:
  ///   - message: a packet of this type.
  ///   - context: what the receiver of the packet knows.
  init(_ message: WireMessage<Wire>, _ context: WireContext) throws(MalformedMessage)

  /// Encodes it.
  var wire: Wire { get }
}

/// What decides, besides its bytes, whether a packet is sound.
package struct WireContext {
  /// Descriptors that came with the packet.
  package var descriptors: Int
  /// `PINHOLE_FEATURE_*` that hold on the connection; for PRODUCER_HELLO those that were wanted.
  package var features: UInt64

  /// Describes a packet's circumstances.
  package init(descriptors: Int, features: UInt64) {
    self.descriptors = descriptors
    self.features = features
  }
}
