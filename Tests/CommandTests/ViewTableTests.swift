import Testing

@testable import pinhole

@Suite struct ViewTableTests {
  /// A copied output, whose reason is longer than what is left of 80 columns.
  private func table() -> ViewTable {
    var table = ViewTable()
    table.rows[0] = ViewTable.Row(
      size: "1920x1080", format: "XR24", way: "copy (the guest draws into the picture on screen)",
      buffer: "3.2", frames: 12)
    table.rows[1] = ViewTable.Row(size: "640x480", format: "XR24", way: "direct", buffer: "4.1")
    return table
  }

  @Test(arguments: [1, 20, 79, 80])
  func noLineWrapsInTheTerminal(_ width: Int) {
    let lines = table().lines(width: width)
    #expect(lines.count == 3)
    #expect(lines.allSatisfy { $0.count <= width })
  }

  @Test func aWideTerminalShowsAll() {
    let lines = table().lines(width: 200)
    #expect(lines[0].hasPrefix("output  size"))
    #expect(lines[1].contains("copy (the guest draws into the picture on screen)  3.2     12"))
    #expect(lines[2].hasPrefix("1       640x480    XR24    direct "))
  }
}
