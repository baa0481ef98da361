import Buffers
import Pixels

/// What an output shows, as an operator sees it.
public struct OutputReport: Sendable {
  /// How its picture reaches those who look.
  public enum Way: String, Sendable {
    /// The guest has drawn nothing yet.
    case nothing
    /// Consumers get the guest's own pages, or what a renderer drew into.
    case direct
    /// Consumers get copies.
    case copy
    /// Nobody imports buffers; QEMU's display gets pixels.
    case pixels
  }

  /// Which output, from 0.
  public let output: Int
  /// Pixels across.
  public let width: UInt32
  /// Pixels down.
  public let height: UInt32
  /// The pixel format; nil before the first picture.
  public let fourcc: FourCC?
  /// How its picture reaches those who look.
  public let way: Way
  /// The buffer on offer, with its generation.
  public let buffer: (id: UInt32, generation: UInt32)?
  /// Why consumers get copies; nil where they do not, or where nobody knows.
  public let whyCopied: WhyCopied?
  /// Pictures that were shown on it since the start.
  public let commits: UInt64
  /// When the last one came, `CLOCK_MONOTONIC` in nanoseconds; 0 before the first.
  public let committedAt: UInt64

  init?(_ state: SceneOutput) {
    guard let size = state.size else { return nil }
    output = state.index
    (width, height) = size
    commits = state.commits
    committedAt = state.committedAt
    let commit = state.commit
    fourcc = commit?.pixels.layout.fourcc
    whyCopied = commit?.whyCopied
    buffer = commit?.buffer.map { ($0.id, $0.generation) }
    if commit == nil {
      way = .nothing
    } else if let buffer = commit?.buffer {
      way = buffer.memory == .copy && commit?.whyCopied != nil ? .copy : .direct
    } else {
      way = commit?.whyCopied == nil ? .pixels : .copy
    }
  }
}

extension Scene {
  /// The outputs that are on.
  public var reports: [OutputReport] { states.compactMap(OutputReport.init) }
}

extension WhyCopied {
  /// In one word, as in the names of counters.
  public var name: String {
    switch self {
    case .pages(let kind): kind?.name ?? "pages"
    default: "\(self)"
    }
  }

  /// In words, with what helps.
  public var explanation: String {
    switch self {
    case .redrawn: "the guest draws into the picture on screen"
    case .asked: "--scanout copy"
    case .pages(let kind): kind?.explanation ?? "the guest's pages cannot be shown"
    case .wanted: "the consumer asked for copies"
    case .untrusted: "the consumer is not trusted"
    case .late: "the consumer is late"
    case .alignment: "the consumer wants other strides"
    }
  }
}
