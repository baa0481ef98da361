/* SPA's pods are macros that Swift cannot import: Sources/CPipeWire uses them. */
