import Linux

/// The duty to take a generation of a buffer from everybody who has it.
///
/// ``BufferStore`` hands it out with each generation that it takes off offer. The generation is
/// nowhere else to be had, and the picture gets no other one but for the ``Revoked`` that
/// ``carryOut(_:)`` returns: neither can be copied, made up or used twice, so that the compiler
/// refuses a program which offers new pages to those who still have the old ones.
public struct Revocation: ~Copyable {
  private let generation: OfferedBuffer
  private let picture: PageBuffer

  init(of generation: OfferedBuffer, _ picture: PageBuffer) {
    self.generation = generation
    self.picture = picture
  }

  /// Takes the generation from all who have it.
  ///
  /// - Parameter take: tells them, before it returns; they may let go later.
  public consuming func carryOut(_ take: (OfferedBuffer) -> Void) -> Revoked {
    take(generation)
    return Revoked(picture, bytes: generation.size)
  }
}

/// The proof that a generation was taken from everybody: what its picture's next one costs.
public struct Revoked: ~Copyable {
  /// The picture.
  let picture: PageBuffer
  /// Pages of the generation, which stay pinned until all have let go.
  let bytes: UInt64

  fileprivate init(_ picture: PageBuffer, bytes: UInt64) {
    self.picture = picture
    self.bytes = bytes
  }

  /// For a buffer of the same picture in other pages to go on where this one ended.
  public var name: BufferName { BufferName(id: picture.id, generation: picture.generation) }
}

/// A buffer's id and its last generation.
public struct BufferName: Sendable, CustomStringConvertible {
  let id: UInt32
  let generation: UInt32

  /// For example `3.1`.
  public var description: String { "\(id).\(generation)" }
}
