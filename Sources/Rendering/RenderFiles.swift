import GuestMemory
import Linux
import RenderWire

/// Which files the present renderer has mapped: guest memory as long as a backing uses it, and
/// what pictures are shown in.
final class RenderFiles {
  private final class Known {
    let id: UInt32
    /// Holds the file: another one could get its inode.
    let file: GuestFile
    var uses = 0

    init(_ id: UInt32, _ file: GuestFile) {
      self.id = id
      self.file = file
    }
  }

  private var known: [FileFacts.Identity: Known] = [:]
  private var used: [UInt32: [Known]] = [:]
  private var lastID: UInt32 = 0
  /// A renderer gets memory that it could make smaller under whoever else has it mapped; once for
  /// each renderer.
  var onUnsealed: () -> Void = {}
  private var isUnsealedKnown = false

  /// A number that no file of this renderer has.
  func newID() -> UInt32 {
    lastID &+= 1
    return lastID
  }

  /// There is a new renderer, which has none.
  func forget() {
    known = [:]
    used = [:]
    isUnsealedKnown = false
  }

  /// The pages of a resource by the renderer's numbers; files that it does not know are sent.
  func runs(
    of resource: UInt32, _ ranges: [FileRange], through lives: RendererLives
  ) -> [RenderRun] {
    var mine: [Known] = []
    let runs = ranges.map { range in
      let file = find(range.file, through: lives)
      if !mine.contains(where: { $0 === file }) {
        file.uses += 1
        mine.append(file)
      }
      return RenderRun(file: file.id, offset: range.offset, count: range.count)
    }
    // A resource that has pages keeps them: the renderer will say no.
    used[resource, default: []] += mine
    return runs
  }

  private func find(_ file: GuestFile, through lives: RendererLives) -> Known {
    if let found = known[file.identity] { return found }
    let made = Known(newID(), file)
    known[file.identity] = made
    if !isUnsealedKnown, MemFD.seals(of: file.fd.raw)?.contains(.shrink) != true {
      isUnsealedKnown = true
      onUnsealed()
    }
    lives.send(.addFile(made.id, size: file.size), gift: file.fd) { _ in }
    return made
  }

  /// A resource has no pages any more.
  func release(of resource: UInt32, through lives: RendererLives) {
    for file in used.removeValue(forKey: resource) ?? [] {
      file.uses -= 1
      guard file.uses == 0 else { continue }
      known.removeValue(forKey: file.file.identity)
      lives.send(.dropFile(file.id)) { _ in }
    }
  }
}
