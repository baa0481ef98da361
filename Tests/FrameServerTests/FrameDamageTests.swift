import Buffers
import FrameProtocol
import PinholeProtocol
import Pixels
import Testing

@testable import FrameServer

@Suite struct FrameDamageTests {
  private func rects(_ damage: FrameDamage) -> [Rect] { (0..<damage.count).map { damage[$0] } }

  @Test func rectanglesThatMakeOneAreOne() {
    var damage = FrameDamage()
    damage.add(Rect(x: 0, y: 0, width: 4, height: 4))
    damage.add(Rect(x: 8, y: 0, width: 4, height: 4))
    #expect(damage.count == 2)
    damage.add(Rect(x: 4, y: 0, width: 4, height: 4))
    #expect(rects(damage) == [Rect(x: 0, y: 0, width: 12, height: 4)])
    damage.add(Rect(x: 1, y: 1, width: 2, height: 2))
    #expect(rects(damage) == [Rect(x: 0, y: 0, width: 12, height: 4)])
    damage.add(Rect(x: 0, y: 0, width: 0, height: 9))
    #expect(damage.count == 1)
  }

  @Test func whateverIsAddedIsCovered() {
    let seed = UInt64.random(in: 0 ... .max)
    print("whateverIsAddedIsCovered: seed \(seed)")
    var state = seed
    func random(_ below: UInt32) -> UInt32 {
      state = state &* 6_364_136_223_846_793_005 &+ 1_442_695_040_888_963_407
      return UInt32(truncatingIfNeeded: state >> 33) % below
    }
    for _ in 0..<200 {
      var damage = FrameDamage()
      var added: [Rect] = []
      for _ in 0..<40 {
        let rect = Rect(
          x: random(60), y: random(60), width: random(5), height: random(5))
        added.append(rect)
        damage.add(rect)
        #expect(damage.count <= FrameDamage.limit)
      }
      let kept = rects(damage)
      for rect in added where !rect.isEmpty {
        for y in rect.y..<(rect.y + rect.height) {
          for x in rect.x..<(rect.x + rect.width) {
            let pixel = Rect(x: x, y: y, width: 1, height: 1)
            #expect(kept.contains { $0.intersection(pixel) != nil })
          }
        }
      }
    }
  }

  @Test func hugeRectanglesDoNotOverflow() {
    var damage = FrameDamage()
    for index in 0..<40 {
      damage.add(Rect(x: UInt32(index), y: 0, width: .max, height: .max))
    }
    #expect(damage.count <= FrameDamage.limit)
  }

  @Test func aMessageHasWhatIsInsideTheCrop() {
    var damage = FrameDamage()
    damage.add(Rect(x: 10, y: 10, width: 4, height: 4))
    damage.add(Rect(x: 90, y: 90, width: 4, height: 4))
    damage.add(Rect(x: 14, y: 0, width: 4, height: 4))
    let message = FrameMessage(
      output: 0, serial: 1, buffer: BufferName(number: 1, generation: 1),
      crop: Rect(x: 7, y: 7, width: 16, height: 16), damage: damage.rects
    ).wire
    #expect(message.num_damage == 2)
    #expect(message.damage.0.x == 10 && message.damage.0.width == 4)
    #expect(message.damage.1.x == 14 && message.damage.1.width == 2)
    #expect(message.damage.2.width == 0)
  }
}
