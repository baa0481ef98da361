import Linux
import Testing
import Virtqueue

@Suite("Notifications in both directions")
struct NotificationTests {
  /// Pushes a number of answers and says whether the guest is to be interrupted.
  private func push(_ count: Int, _ driver: Driver, _ queue: Virtqueue) throws -> Bool {
    var chains: [DescriptorChain] = []
    for _ in 0..<count {
      driver.offer(0)
      chains.append(try #require(try queue.pop()))
    }
    for chain in chains { queue.push(chain, written: 0) }
    return queue.shouldNotify()
  }

  @Test("Without the event index the driver's flag decides")
  func flag() throws {
    let driver = try Driver()
    let queue = try driver.queue()
    driver.describe(0, Driver.buffers, 1)
    #expect(!queue.shouldNotify(), "nothing was answered")
    #expect(try push(1, driver, queue))
    #expect(!queue.shouldNotify(), "the driver was told already")
    driver.setAvailableFlags(1)
    #expect(try !push(2, driver, queue))
    driver.setAvailableFlags(0)
    #expect(!queue.shouldNotify(), "what the flag held back is not made up for")
    #expect(try push(1, driver, queue))
  }

  @Test(
    "With the event index, interrupt exactly when the driver's index is passed",
    arguments: [0, 1, 100, 32767, 32768, 65528, 65530, 65534, 65535] as [UInt16])
  func eventIndex(start: UInt16) throws {
    for count in 0...8 {
      for distance in -12...12 {
        let driver = try Driver(start: start)
        let queue = try driver.queue(eventIndex: true)
        driver.describe(0, Driver.buffers, 1)
        let event = start &+ UInt16(truncatingIfNeeded: distance)
        driver.setUsedEvent(event)
        // The entry number `event` is among those that were just pushed.
        let expected = (0..<count).contains(distance)
        let notified = try push(count, driver, queue)
        guard notified == expected else {
          Issue.record("start \(start), \(count) answers, event at \(event): \(notified)")
          return
        }
      }
    }
  }

  @Test("A driver that asks for each interrupt gets each, all around")
  func everyIndex() throws {
    let driver = try Driver()
    let queue = try driver.queue(eventIndex: true)
    driver.describe(0, Driver.buffers, 1)
    for round in 0..<66_000 {
      driver.setUsedEvent(UInt16(truncatingIfNeeded: round))
      guard try push(1, driver, queue) else {
        Issue.record("no interrupt in round \(round)")
        return
      }
    }
  }

  @Test("Answers that nobody asked about for a whole turn of the index are told")
  func longSilence() throws {
    let driver = try Driver()
    let queue = try driver.queue(eventIndex: true)
    driver.describe(0, Driver.buffers, 1)
    for _ in 0..<65_536 {
      driver.offer(0)
      let chain = try #require(try queue.pop())
      queue.push(chain, written: 0)
    }
    #expect(queue.shouldNotify())
  }

  @Test("Kicks are switched by flag, and a request in between is reported")
  func kickFlag() throws {
    let driver = try Driver()
    let queue = try driver.queue()
    #expect(driver.usedFlags == 0)
    queue.disableNotifications()
    #expect(driver.usedFlags == 1)
    #expect(!queue.enableNotifications())
    #expect(driver.usedFlags == 0)
    queue.disableNotifications()
    driver.describe(0, Driver.buffers, 1)
    driver.offer(0)
    #expect(queue.enableNotifications(), "the request came while kicks were off")
    #expect(try queue.pop() != nil)
    #expect(!queue.enableNotifications())
  }

  @Test("Kicks are asked for by index, and a request in between is reported")
  func kickIndex() throws {
    let driver = try Driver(start: 65_535)
    let queue = try driver.queue(eventIndex: true)
    #expect(driver.availableEvent == 65_535)
    driver.describe(0, Driver.buffers, 1)
    driver.offer(0)
    queue.disableNotifications()
    #expect(driver.usedFlags == 0, "the flag is not used with the event index")
    #expect(try queue.pop() != nil)
    #expect(!queue.enableNotifications())
    #expect(driver.availableEvent == 0)
    driver.offer(0)
    #expect(queue.enableNotifications())
    #expect(try queue.pop() != nil)
    #expect(!queue.enableNotifications())
    #expect(driver.availableEvent == 1)
  }
}
