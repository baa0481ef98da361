import Glibc

/// Writes the first inputs of each target: what well-behaved peers say, so that a fuzzer starts
/// behind the handshakes.
enum Seeds {
  static func write(to folder: String) {
    let all: [String: [String: [UInt8]]] = [
      "vhost-user": VhostUserSeeds.all, "rings": RingSeeds.all, "gpu": GPUSeeds.all,
      "gpu-3d": GPU3DSeeds.all,
      "display": DisplaySeeds.all, "frames": FramesSeeds.all, "consumer": ConsumerSeeds.all,
      "renderer": RendererSeeds.all, "request": RequestSeeds.all,
      "rfb": RFBSeeds.all, "input": ControlSeeds.all,
    ]
    mkdir(folder, 0o755)
    for (target, seeds) in all {
      mkdir("\(folder)/\(target)", 0o755)
      for (name, bytes) in seeds { save(bytes, "\(folder)/\(target)/\(name)") }
    }
  }

  private static func save(_ bytes: [UInt8], _ path: String) {
    guard let file = fopen(path, "w") else { return claim(false, "cannot write \(path)") }
    fwrite(bytes, 1, bytes.count, file)
    fclose(file)
  }
}
