/// PC scan codes of set 1 in one byte, as QEMU and RFB's "QEMU Extended Key Event" name keys:
/// codes behind 0xe0 have bit 7 set.
public enum ScanCode {
  /// The key with this scan code.
  ///
  /// - Returns: `KEY_*` of linux/input-event-codes.h, nil if there is none.
  public static func key(_ scanCode: UInt8) -> UInt16? {
    if isPlain(UInt16(scanCode)) { return UInt16(scanCode) }
    return others.first { $0.scanCode == scanCode }?.key
  }

  /// The scan code of a key.
  ///
  /// - Parameter key: `KEY_*` of linux/input-event-codes.h.
  /// - Returns: nil for keys that no PC keyboard has.
  public static func of(_ key: UInt16) -> UInt8? {
    if isPlain(key) { return UInt8(key) }
    return others.first { $0.key == key }?.scanCode
  }

  /// Linux took the numbers of the first keys from set 1: `KEY_ESC` to `KEY_KPDOT`, `KEY_102ND`,
  /// `KEY_F11` and `KEY_F12`.
  private static func isPlain(_ code: UInt16) -> Bool {
    (1...83).contains(code) || (86...88).contains(code)
  }

  private static let others: [(key: UInt16, scanCode: UInt8)] = [
    (89, 0x73),  // KEY_RO
    (90, 0x78),  // KEY_KATAKANA
    (91, 0x77),  // KEY_HIRAGANA
    (92, 0x79),  // KEY_HENKAN
    (93, 0x70),  // KEY_KATAKANAHIRAGANA
    (94, 0x7b),  // KEY_MUHENKAN
    (95, 0x5c),  // KEY_KPJPCOMMA
    (96, 0x9c),  // KEY_KPENTER
    (97, 0x9d),  // KEY_RIGHTCTRL
    (98, 0xb5),  // KEY_KPSLASH
    (99, 0x54),  // KEY_SYSRQ
    (99, 0xb7),  // what a PC keyboard sends for it without Alt
    (100, 0xb8),  // KEY_RIGHTALT
    (102, 0xc7),  // KEY_HOME
    (103, 0xc8),  // KEY_UP
    (104, 0xc9),  // KEY_PAGEUP
    (105, 0xcb),  // KEY_LEFT
    (106, 0xcd),  // KEY_RIGHT
    (107, 0xcf),  // KEY_END
    (108, 0xd0),  // KEY_DOWN
    (109, 0xd1),  // KEY_PAGEDOWN
    (110, 0xd2),  // KEY_INSERT
    (111, 0xd3),  // KEY_DELETE
    (113, 0xa0),  // KEY_MUTE
    (114, 0xae),  // KEY_VOLUMEDOWN
    (115, 0xb0),  // KEY_VOLUMEUP
    (116, 0xde),  // KEY_POWER
    (117, 0x59),  // KEY_KPEQUAL
    (119, 0xc6),  // KEY_PAUSE
    (121, 0x7e),  // KEY_KPCOMMA
    (122, 0x72),  // KEY_HANGEUL
    (123, 0x71),  // KEY_HANJA
    (124, 0x7d),  // KEY_YEN
    (125, 0xdb),  // KEY_LEFTMETA
    (126, 0xdc),  // KEY_RIGHTMETA
    (127, 0xdd),  // KEY_COMPOSE
    (128, 0xe8),  // KEY_STOP
    (140, 0xa1),  // KEY_CALC
    (142, 0xdf),  // KEY_SLEEP
    (143, 0xe3),  // KEY_WAKEUP
    (155, 0xec),  // KEY_MAIL
    (156, 0xe6),  // KEY_BOOKMARKS
    (157, 0xeb),  // KEY_COMPUTER
    (158, 0xea),  // KEY_BACK
    (159, 0xe9),  // KEY_FORWARD
    (163, 0x99),  // KEY_NEXTSONG
    (164, 0xa2),  // KEY_PLAYPAUSE
    (165, 0x90),  // KEY_PREVIOUSSONG
    (166, 0xa4),  // KEY_STOPCD
    (172, 0xb2),  // KEY_HOMEPAGE
    (173, 0xe7),  // KEY_REFRESH
    (217, 0xe5),  // KEY_SEARCH
    (226, 0xed),  // KEY_MEDIA
  ]
}
