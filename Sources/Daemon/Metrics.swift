import Buffers
import Fences
import FrameServer
import GuestMemory
import Linux
import Monitoring
import Pixels
import QEMUDisplay
import Scene
import VirtioGPU

// What each room counts, under the names that operators see.

extension GPUDevice {
  var metrics: [Metric] {
    let counters = counters
    return [
      Metric("commands", counters.commands, "virtio-gpu commands of the guest"),
      Metric("errors", counters.errors, "virtio-gpu commands answered with an error"),
      Metric("flushes", counters.flushes, "RESOURCE_FLUSH commands"),
      Metric("frames", counters.frames, "pictures that were shown"),
      Metric("direct", counters.directFrames, "pictures shown in the guest's own pages"),
      Metric("copied", counters.copiedFrames, "copies that were made for consumers"),
      Metric("copies-busy", counters.copiesBusy, "pictures that waited: all copies were in use"),
      Metric("copied-bytes", counters.copiedBytes, "bytes of pixels copied"),
      Metric("transfers", counters.transfers, "TRANSFER_TO_HOST_2D commands"),
      Metric("submits", counters.submits, "SUBMIT_3D commands"),
      Metric("rendered", counters.renderedFrames, "pictures that the renderer drew"),
      Metric(
        "render-failures", counters.renderFailures, "requests that the renderer refused or lost"),
      Metric("discards", counters.discards, "times that pages went from under a picture"),
      Metric(
        "host-bytes", hostBytes, "bytes of host memory that the guest's pictures take", .gauge),
    ]
  }

  var durations: [DurationMetric] {
    [DurationMetric("fence-wait", counters.fenceWaits, "fenced answers that waited behind others")]
  }
}

extension HoldQueue {
  var metrics: [Metric] {
    [
      Metric("holds-expired", expired, "flushes that consumers held until the deadline"),
      Metric("holds", UInt64(clamping: pending), "flushes that consumers hold back now", .gauge),
    ]
  }
}

extension BufferStore {
  var metrics: [Metric] {
    let counters = counters
    return [
      Metric("discarded-pages", counters.discardedPages, "pages that went from under pictures"),
      Metric("checks", counters.checks, "looks at the pages of pictures"),
      Metric("gated", counters.gated, "looks that file times spared"),
      Metric("reports", counters.reports, "discards that were reported and not repaired"),
      Metric("builds", counters.builds, "dma-bufs made"),
      Metric("rebuilds", counters.rebuilds, "dma-bufs made anew after a discard"),
      Metric("retries", counters.retries, "builds that a discard overtook"),
      Metric("lost", counters.losses, "dma-bufs given up for copies"),
      Metric("pins", counters.pins, "times that pages were pinned"),
      Metric("unpins", counters.unpins, "times that pages were let go"),
      Metric("pinned-bytes", counters.pinnedBytes, "bytes of guest memory that are pinned", .gauge),
      Metric("kept-buffers", counters.kept, "dma-bufs taken back that others still hold", .gauge),
      Metric("pin-limit-bytes", pinBudget, "most bytes that may be pinned (--max-pinned)", .gauge),
      Metric("offered-bytes", counters.exportedBytes, "bytes in dma-bufs on offer", .gauge),
    ]
  }

  /// Why buffers over guest pages were not made.
  var reasons: [Metric] {
    counters.fallbacks.map {
      Metric("copy-\($0.kind.name)", $0.count, "not shown directly: \($0.kind.explanation)")
    }
  }

  var durations: [DurationMetric] {
    [DurationMetric("rebuild", counters.rebuildTimes, "dma-bufs made anew after a discard")]
  }

  /// The newest 64 of them: a guest may have very many, and a document has to fit a socket.
  var state: [State.Buffer] {
    reports.suffix(64).map {
      State.Buffer(
        buffer: UInt64($0.id), generation: UInt64($0.generation), width: UInt64($0.layout.width),
        height: UInt64($0.layout.height), format: $0.layout.fourcc.description, bytes: $0.bytes,
        pieces: UInt64(clamping: $0.pieces))
    }
  }
}

extension WitnessKeeper {
  var metrics: [Metric] {
    [
      Metric("witness-faults", faults, "faults on witnesses of guest memory"),
      Metric("witness-removals", removals, "removals of guest pages that the kernel told"),
    ]
  }
}

extension FrameServer {
  var metrics: [Metric] {
    let late = reports.count { $0.lateNow > 0 }
    return [
      Metric("connected", UInt64(clamping: consumers), "frame consumers at present", .gauge),
      Metric("consumers-late", UInt64(clamping: late), "consumers that are late now", .gauge),
      Metric("consumers", counters.consumers, "frame consumers that have connected"),
      Metric("sent", counters.framesSent, "FRAME messages"),
      Metric("done", counters.framesDone, "FRAME_DONE messages"),
      Metric("copies-sent", counters.copiesSent, "FRAME messages with a copy"),
      Metric("late", counters.framesLate, "frames that a consumer kept past the deadline"),
      Metric("copies-late", counters.copiesLate, "copies that a consumer kept for very long"),
      Metric("fences", counters.fencesAwaited, "fences of consumers that were waited for"),
      Metric("dropped", counters.dropped, "frames that a consumer was too slow for"),
      Metric("closes-late", counters.closesLate, "buffers not closed before the deadline"),
      Metric("refused", counters.refused, "consumers refused or dropped"),
    ]
  }

  /// At most 64 of them, so that a document stays short.
  var state: [State.Consumer] {
    reports.prefix(64).map {
      State.Consumer(
        name: $0.name, process: UInt64(clamping: $0.pid), onlyCopies: $0.isCopyOnly,
        inFlight: UInt64(clamping: $0.inFlight), lateNow: UInt64(clamping: $0.lateNow),
        unclosed: UInt64(clamping: $0.unclosed), frames: $0.counters.frames,
        skipped: $0.counters.skipped, late: $0.counters.late)
    }
  }
}

extension QEMUDisplay {
  var metrics: [Metric] {
    let counters = counters
    return [
      Metric("qemu-display", isAttached ? 1 : 0, "1 while QEMU's display is connected", .gauge),
      Metric("qemu-sockets", UInt64(clamping: counters.sockets), "display sockets that QEMU gave"),
      Metric("qemu-updates", UInt64(clamping: counters.updates), "UPDATE messages to QEMU"),
      Metric(
        "qemu-merged", UInt64(clamping: counters.coalesced),
        "pictures merged into a later update, for QEMU was slow"),
      Metric("qemu-sent-bytes", counters.bytesSent, "bytes sent to QEMU's display"),
      Metric("qemu-copied-bytes", counters.bytesCopied, "bytes copied on their way to QEMU"),
      Metric(
        "qemu-dmabufs", UInt64(clamping: counters.dmabufs), "dma-bufs that QEMU's display was given"
      ),
      Metric(
        "qemu-dmabuf-updates", UInt64(clamping: counters.dmabufUpdates),
        "DMABUF_UPDATE messages to QEMU"),
    ]
  }
}

extension Scene {
  func state(at now: UInt64) -> [State.Output] {
    reports.map {
      let age = now &- min(now, $0.committedAt)
      return State.Output(
        output: UInt64(clamping: $0.output), width: UInt64($0.width), height: UInt64($0.height),
        format: $0.fourcc?.description ?? "", way: $0.way.rawValue,
        why: $0.way == .copy ? $0.whyCopied?.explanation ?? "" : "",
        buffer: $0.buffer.map { "\($0.id).\($0.generation)" } ?? "", frames: $0.commits,
        age: $0.committedAt == 0 ? 0 : age / 1000)
    }
  }
}
