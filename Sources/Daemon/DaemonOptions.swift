import Buffers
import Fences
import GuestMemory
import Linux
import QEMUDisplay
import Sandbox
import VirtioGPU

/// How the device's process runs; `pinhole serve` takes it from its command line.
package struct DaemonOptions {
  /// Listens here, and serves one front-end after another.
  package var socketPath: String?
  /// A connected socket of a front-end.
  package var fd: CInt?
  /// Ends when the first front-end leaves.
  package var once = false
  /// Where `pinhole status` asks.
  package var control: String?
  /// Where frame consumers connect.
  package var framesSocket: String?
  /// Who may connect there.
  package var framesAccess = UnixSocket.Access.owner
  /// What QEMU's display gets; nil: nothing.
  package var qemuDisplay: QEMUDisplay.Way? = .pixels
  /// How discards are found; nil: the best way that works.
  package var detector: Detector?
  /// What follows a discard.
  package var onDiscard = DiscardResponse.republish
  /// Nanoseconds that those who read frames may keep the guest waiting.
  package var holdDeadline = HoldQueue.defaultDeadline
  /// Seconds without a turn of the loop after which the process ends; 0 for never.
  package var watchdog: UInt32 = 30
  /// What is given up before anything is served.
  package var sandbox = Sandbox.Mode.on
  /// The device, and what a guest may take of this process.
  package var device = GPUConfiguration()
  /// Bytes of guest memory in dma-bufs.
  package var maxPinned = BufferStore.defaultPinBudget
  /// Frame consumers at a time.
  package var maxConsumers = 32
  /// Who draws a guest's OpenGL; nil: nobody.
  package var rendering: RenderingOptions?

  /// The defaults.
  package init() {}
}
