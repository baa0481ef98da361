import PinholeProtocol
import Pixels
import Testing

/// What the device lets a guest say is what the wire can say.
@Suite struct FrameLimitsTests {
  @Test func theDevicesLimitsAreTheHeaders() {
    #expect(PictureLimits.side == PINHOLE_MAX_SIZE)
    #expect(PictureLimits.stride == PINHOLE_MAX_STRIDE)
    #expect(PictureLimits.bytes == PINHOLE_MAX_BYTES)
  }
}
