import CXKB

/// Which key, with which modifiers, gives a keysym on the guest's keyboard; for viewers that do
/// not tell scan codes.
struct KeyLayout {
  /// A key and what must be held with it.
  struct Place: Equatable {
    /// The evdev code of the key.
    let key: UInt16
    /// With Shift.
    let needsShift: Bool
    /// With AltGr.
    let needsLevel3: Bool
    /// Whether Shift makes another keysym of it.
    let mindsShift: Bool
  }

  /// The layout cannot be made.
  struct Unknown: Error, CustomStringConvertible {
    let description: String
  }

  private var places: [UInt32: Place] = [:]

  /// Reads a layout of xkeyboard-config.
  ///
  /// - Parameters:
  ///   - layout: for example "us" or "de".
  ///   - variant: for example "nodeadkeys", or empty.
  init(layout: String, variant: String = "") throws(Unknown) {
    guard let context = xkb_context_new(XKB_CONTEXT_NO_ENVIRONMENT_NAMES) else {
      throw Unknown(description: "no memory for a keyboard layout")
    }
    defer { xkb_context_unref(context) }
    xkb_context_set_log_level(context, XKB_LOG_LEVEL_CRITICAL)
    let made = layout.withCString { layout in
      variant.withCString { variant in
        var names = xkb_rule_names(
          rules: nil, model: nil, layout: layout, variant: variant, options: nil)
        return xkb_keymap_new_from_names(context, &names, XKB_KEYMAP_COMPILE_NO_FLAGS)
      }
    }
    guard let keymap = made else {
      throw Unknown(
        description: "there is no keyboard layout \"\(layout)\""
          + (variant.isEmpty ? "" : " with the variant \"\(variant)\"")
          + " (see /usr/share/X11/xkb/rules/base.lst, package xkb-data)")
    }
    defer { xkb_keymap_unref(keymap) }
    collect(keymap)
  }

  /// The key for a keysym, nil if the keyboard has none.
  func place(of keysym: UInt32) -> Place? {
    if let place = places[keysym] { return place }
    // Unicode (0x01000000 + code point) and the older numbers stand for the same characters.
    let character = xkb_keysym_to_utf32(keysym)
    guard character > 0 else { return nil }
    return places[character | 0x0100_0000] ?? places[xkb_utf32_to_keysym(character)]
  }

  private mutating func collect(_ keymap: OpaquePointer) {
    let shift = mask(of: XKB_MOD_NAME_SHIFT, keymap)
    let level3 = mask(of: "Mod5", keymap)
    // Few levels first: a keysym's plainest place counts.
    for level in 0..<4 as Range<UInt32> {
      for code in xkb_keymap_min_keycode(keymap)...xkb_keymap_max_keycode(keymap) {
        guard code >= 8, code < 8 + 248,
          level < xkb_keymap_num_levels_for_key(keymap, code, 0)
        else { continue }
        var masks = [xkb_mod_mask_t](repeating: 0, count: 16)
        let count = xkb_keymap_key_get_mods_for_level(
          keymap, code, 0, level, &masks, masks.count)
        let wanted = masks.prefix(count).first { $0 & ~(shift | level3) == 0 }
        guard let wanted, let keysym = Self.keysym(keymap, code, level) else { continue }
        guard places[keysym] == nil else { continue }
        let other = Self.keysym(keymap, code, level ^ 1)
        places[keysym] = Place(
          key: UInt16(code - 8), needsShift: wanted & shift != 0,
          needsLevel3: wanted & level3 != 0, mindsShift: other != nil && other != keysym)
      }
    }
  }

  private func mask(of name: String, _ keymap: OpaquePointer) -> xkb_mod_mask_t {
    let index = xkb_keymap_mod_get_index(keymap, name)
    return index < 32 ? 1 << index : 0
  }

  private static func keysym(
    _ keymap: OpaquePointer, _ code: xkb_keycode_t, _ level: UInt32
  ) -> UInt32? {
    var symbols: UnsafePointer<xkb_keysym_t>?
    guard xkb_keymap_key_get_syms_by_level(keymap, code, 0, level, &symbols) == 1,
      let symbol = symbols?.pointee, symbol != 0
    else { return nil }
    return symbol
  }
}
