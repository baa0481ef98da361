import Buffers
import Display
import VirtioGPU

/// What the log says of the counters, as `name number` pairs.
func describe(
  _ device: GPUCounters, _ buffers: BufferCounters, _ frames: FrameServer.Counters?
) -> String {
  var pairs: [(String, UInt64)] = [
    ("commands", device.commands), ("errors", device.errors), ("flushes", device.flushes),
    ("frames", device.frames), ("direct", device.directFrames), ("copied", device.copiedFrames),
    ("copied-bytes", device.copiedBytes),
    ("transfers", device.transfers), ("discards", device.discards),
    ("discarded-pages", buffers.discardedPages), ("checks", buffers.checks),
    ("gated", buffers.gated), ("reports", buffers.reports),
    ("builds", buffers.builds), ("rebuilds", buffers.rebuilds), ("retries", buffers.retries),
    ("lost", buffers.losses), ("pins", buffers.pins), ("unpins", buffers.unpins),
    ("pinned-bytes", buffers.pinnedBytes),
  ]
  if let frames {
    pairs += [
      ("consumers", frames.consumers), ("sent", frames.framesSent), ("done", frames.framesDone),
      ("copies-sent", frames.copiesSent), ("late", frames.framesLate),
      ("copies-late", frames.copiesLate), ("fences", frames.fencesAwaited),
    ]
  }
  let fallbacks = buffers.fallbacks.map { ("copy-\($0.kind.name)", $0.count) }
  return (pairs + fallbacks).map { "\($0.0) \($0.1)" }.joined(separator: ", ")
}
