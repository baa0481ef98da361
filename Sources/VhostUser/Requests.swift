/// Requests that a front-end sends (QEMU docs/interop/vhost-user.rst, "Front-end message types").
package enum FrontEndRequest: UInt32, CaseIterable, Sendable {
  case getFeatures = 1
  case setFeatures = 2
  case setOwner = 3
  case resetOwner = 4
  case setMemoryTable = 5
  case setLogBase = 6
  case setLogFD = 7
  case setVringNum = 8
  case setVringAddress = 9
  case setVringBase = 10
  case getVringBase = 11
  case setVringKick = 12
  case setVringCall = 13
  case setVringError = 14
  case getProtocolFeatures = 15
  case setProtocolFeatures = 16
  case getQueueNum = 17
  case setVringEnable = 18
  case sendRARP = 19
  case netSetMTU = 20
  case setBackendRequestFD = 21
  case iotlb = 22
  case setVringEndian = 23
  case getConfig = 24
  case setConfig = 25
  case createCryptoSession = 26
  case closeCryptoSession = 27
  case postcopyAdvise = 28
  case postcopyListen = 29
  case postcopyEnd = 30
  case getInflightFD = 31
  case setInflightFD = 32
  case gpuSetSocket = 33
  case resetDevice = 34
  case vringKick = 35
  case getMaxMemorySlots = 36
  case addMemoryRegion = 37
  case removeMemoryRegion = 38
  case setStatus = 39
  case getStatus = 40
  case getSharedObject = 41
  case setDeviceStateFD = 42
  case checkDeviceState = 43
  case getSharedMemoryConfig = 44
}

/// Requests that a back-end sends on its own channel ("Back-end message types").
package enum BackEndRequest: UInt32, CaseIterable, Sendable {
  case iotlb = 1
  case configChange = 2
  case vringHostNotifier = 3
  case vringCall = 4
  case vringError = 5
  case sharedObjectAdd = 6
  case sharedObjectRemove = 7
  case sharedObjectLookup = 8
  case sharedMemoryMap = 9
  case sharedMemoryUnmap = 10
}
