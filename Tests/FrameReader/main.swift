import Glibc
import Linux
import PinholeFrames
import Pixels

// frame-reader SOCKET held|early FRAMES MILLISECONDS
//
// Reads frames that are each of one colour, some rows at once and again after a time, and tells
// how many showed two colours: the guest drew into them while they were read. "held" lets a frame
// go after that, "early" before, as a consumer does that breaks its promise. A line before that has
// the colour of each frame that had one, 0xRRGGBB as a decimal number: a frame that is not torn may
// still be another one's, or nobody's.
let arguments = CommandLine.arguments
guard arguments.count == 5, let wanted = Int(arguments[3]), let pause = UInt32(arguments[4]),
  ["held", "early"].contains(arguments[2])
else {
  print("usage: frame-reader SOCKET held|early FRAMES MILLISECONDS")
  exit(2)
}
let isEarly = arguments[2] == "early"
let consumer = try FrameConsumer(path: arguments[1], options: .init(name: "frame reader"))
write(1, "reading\n", 8)

/// The colours of some pixels all over a frame.
func colours(_ buffer: ReceivedBuffer, _ crop: Rect) throws -> Set<UInt32> {
  try buffer.read { bytes in
    var found: Set<UInt32> = []
    for row in stride(from: 0, to: Int(crop.height), by: 16) {
      for column in [0, Int(crop.width) / 2, Int(crop.width) - 1] {
        let at =
          Int(buffer.offset) + (Int(crop.y) + row) * Int(buffer.stride)
          + (Int(crop.x) + column) * 4
        found.insert(bytes.loadUnaligned(fromByteOffset: at, as: UInt32.self) & 0xff_ffff)
      }
    }
    return found
  }
}

var frames = 0
var torn = 0
var copies = 0
var single: [UInt32] = []
let deadline = Clock.now + 2_000_000_000_000
while frames < wanted, Clock.now < deadline {
  guard case .frame(let frame)? = try consumer.next(timeout: 1000) else { continue }
  guard let buffer = consumer.buffers[frame.buffer] else { continue }
  if isEarly { try consumer.done(frame) }
  var seen = try colours(buffer, frame.crop)
  for _ in 0..<4 {
    usleep(pause * 250)
    seen.formUnion(try colours(buffer, frame.crop))
  }
  if !isEarly { try consumer.done(frame) }
  frames += 1
  if buffer.memory == .copy { copies += 1 }
  if seen.count > 1 { torn += 1 } else { single += seen }
}
print("colours \(single.map { String($0) }.joined(separator: " "))")
print("frames \(frames), torn \(torn), copies \(copies)")
