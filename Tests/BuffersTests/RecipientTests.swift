import Linux
import Pixels
import Testing

@testable import Buffers

/// Who may still have a buffer that was taken back.
@Suite struct RecipientTests {
  private let all = Recipients()
  private let one = Recipient("one")
  private let other = Recipient("other")

  private func suspected(_ recipients: Recipient...) -> Bool {
    all.suspects.elementsEqual(recipients, by: { $0 === $1 })
  }

  @Test func whoeverHasClosedItIsNotBlamed() {
    #expect(suspected())
    all.given(to: one)
    all.given(to: other)
    #expect(suspected(one, other))
    all.closed(by: one)
    #expect(suspected(other))
    all.closed(by: Recipient("a stranger"))
    #expect(suspected(other))
  }

  /// The same buffer is sent again with each picture in it.
  @Test func whoWasGivenItTwiceClosesItOnce() {
    for _ in 0..<2 { all.given(to: one) }
    all.given(to: other)
    all.closed(by: one)
    #expect(suspected(other))
  }

  @Test func whoGetsItAgainHasItAgain() {
    all.given(to: one)
    all.given(to: other)
    all.closed(by: one)
    all.given(to: one)
    all.closed(by: other)
    #expect(suspected(one))
  }

  /// Somebody has it: then those who say that they closed it are all there is to be named.
  @Test func whereAllSayThatTheyClosedItOneOfThemDidNot() {
    all.given(to: one)
    all.given(to: other)
    all.closed(by: other)
    all.closed(by: one)
    #expect(suspected(other, one))
  }
}

/// What consumers' hardware asks of rows.
@Suite struct CopyAlignmentTests {
  @Test(
    arguments: [
      (0, 0, 256, 1), (64, 1, 256, 1), (256, 2, 256, 64), (512, 64, 4096, 64),
      (4096, 128, 4096, 4096),
    ] as [(UInt32, UInt32, UInt32, UInt32)])
  func fewKindsOfCopiesServeAll(
    _ stride: UInt32, _ height: UInt32, _ pooledStride: UInt32, _ pooledHeight: UInt32
  ) {
    let wish = CopyAlignment(stride: stride, height: height)
    #expect(wish.pooled == CopyAlignment(stride: pooledStride, height: pooledHeight))
  }

  @Test func bothAreServedByTheLarger() {
    let one = CopyAlignment(stride: 4096, height: 1)
    let other = CopyAlignment(stride: 256, height: 64)
    #expect(one.joined(with: other) == CopyAlignment(stride: 4096, height: 64))
    #expect(other.joined(with: one) == one.joined(with: other))
  }

  /// A GPU reads all the rows that it asks for, also those below the picture.
  @Test func thereIsMemoryForAllRows() throws {
    let fd = SharedFD(try MemFD.create("rows", size: 16384))
    func buffer(_ size: UInt64, offset: UInt64 = 0) -> OfferedBuffer {
      let layout = PixelLayout(
        width: 64, height: 30, stride: 256, offset: offset, fourcc: .xrgb8888)
      return OfferedBuffer(
        id: 1, generation: 1, layout: layout, size: size, fd: fd, memory: .guestPages)
    }
    let rows = CopyAlignment(height: 32)
    #expect(rows.suits(buffer(8192)))
    #expect(!rows.suits(buffer(8191)))
    #expect(!rows.suits(buffer(8192, offset: 256)))
    #expect(rows.suits(buffer(8448, offset: 256)))
    #expect(!CopyAlignment(height: 64).suits(buffer(8192)))
    #expect(CopyAlignment(stride: 256).suits(buffer(8192)))
    #expect(!CopyAlignment(stride: 512).suits(buffer(8192)))
  }
}
