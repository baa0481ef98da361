import ArgumentParser
import Buffers
import Command
import Glibc
import GuestMemory
import Linux
import Pictures
import Pixels

/// `pinhole-guest udmabuf`: what a program sees that makes a udmabuf once and keeps it.
struct GuestUdmabuf: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "udmabuf", abstract: "Show what a udmabuf that is made only once shows later.",
    discussion: """
      For comparison: it makes a udmabuf over pages of QEMU's memory-backend-memfd, prints \
      "ready", and writes the picture in it each time it reads a line. Pinhole logs the pages \
      of a picture with --log-level debug.
      """)

  @Option(help: "Process id of QEMU.")
  var pid: Int32

  @Option(help: "The pages as OFFSET[+LENGTH],…, in bytes of the memfd; 4096 without a length.")
  var pages: PageList

  @Option(help: "Size of the picture in pixels, 4 bytes each, rows without gaps.")
  var size = PictureSize()

  @Option(help: "The file to write.")
  var png: String

  func run() throws {
    do {
      try serve()
    } catch let failure as Failure {
      throw failure
    } catch { throw Failure("guest udmabuf: \(error)") }
  }

  private func serve() throws {
    let file = try GuestFile(try openMemory(of: pid))
    let ranges = pages.runs.map { FileRange(file: file, offset: $0.offset, count: $0.count) }
    let view = try DmaBufView(SharedFD(try UdmabufDevice.open().create(ranges)))
    answer("ready")
    while readLine() != nil {
      try write(view)
      answer("written")
    }
  }

  private func write(_ view: borrowing DmaBufView) throws {
    let (width, height) = (UInt32(size.width), UInt32(size.height))
    let picture = try view.read { bytes in
      Picture(
        bytes: bytes,
        layout: PixelLayout(width: width, height: height, stride: width * 4, fourcc: .xrgb8888))
    }
    guard let picture else {
      throw Failure("guest udmabuf: \(view.count) bytes hold no \(width)x\(height) picture")
    }
    try picture.writePNG(png)
  }

  private func answer(_ text: String) {
    print(text)
    fflush(nil)
  }
}

/// `--pages`, for example `4096+8192,65536+4096`.
struct PageList: ExpressibleByArgument {
  let runs: [PageSpan]

  init?(argument: String) {
    var runs: [PageSpan] = []
    for part in argument.split(separator: ",") {
      let numbers = part.split(separator: "+").map { UInt64($0) }
      guard (1...2).contains(numbers.count), let offset = numbers[0],
        let count = numbers.count == 2 ? numbers[1] : 4096, count > 0
      else { return nil }
      runs.append(PageSpan(offset: offset, count: count))
    }
    guard !runs.isEmpty else { return nil }
    self.runs = runs
  }
}

/// Opens the memory-backend-memfd of a QEMU process.
private func openMemory(of pid: Int32) throws -> OwnedFD {
  for open in try Folder.descriptors(of: pid) where open.target.contains("memory-backend-memfd") {
    return try OwnedFD.open(open.path, O_RDWR)
  }
  throw Failure("guest udmabuf: process \(pid) has no memory-backend-memfd")
}
