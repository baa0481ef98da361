#!/usr/bin/env python3
"""A VNC viewer for tests: a framebuffer, and what comes over the wire; Raw and ZRLE.

  rfb.py ADDRESS shot FILE.ppm [ENCODING]       the first whole picture
  rfb.py ADDRESS watch SECONDS [ENCODING]       counts updates, and tells sizes and pixels
  rfb.py ADDRESS follow WIDTHxHEIGHT SECONDS    until it is told of a size
  rfb.py ADDRESS type TEXT                      presses the keys of US letters
  rfb.py ADDRESS hold CHARACTER                 presses a key and leaves
  rfb.py ADDRESS point X Y [BUTTONS]            moves the pointer, clicks
  rfb.py ADDRESS stop SECONDS                   asks for a picture and never reads
  rfb.py ADDRESS until FILE.ppm SECONDS         follows until its picture equals the file's

ADDRESS is a port of 127.0.0.1 or a path.
"""
import socket
import struct
import sys
import time
import zlib

RAW, ZRLE, EXTENDED_SIZE, KEYS = 0, 16, -308, -258


class Viewer:
    def __init__(self, address, encodings=(ZRLE, RAW, EXTENDED_SIZE, KEYS)):
        if "/" in address:
            self.socket = socket.socket(socket.AF_UNIX)
            self.socket.connect(address)
        else:
            self.socket = socket.create_connection(("127.0.0.1", int(address)))
        self.socket.settimeout(30)
        self.inflate = zlib.decompressobj()
        self.received = 0
        self.updates = 0
        self.sizes = []
        self.is_blind = False
        assert self.read(12) == b"RFB 003.008\n"
        self.send(b"RFB 003.008\n")
        assert self.read(self.read(1)[0]) == b"\1"
        self.send(b"\1")
        assert self.read(4) == bytes(4)
        self.send(b"\1")
        self.width, self.height = struct.unpack(">HH", self.read(4))
        self.read(16)
        self.name = self.read(struct.unpack(">I", self.read(4))[0]).decode()
        self.pixels = bytearray(self.width * self.height * 3)
        self.send(struct.pack(">BxH", 2, len(encodings)) +
                  b"".join(struct.pack(">i", e) for e in encodings))

    def send(self, data):
        self.socket.sendall(data)

    def read(self, count):
        data = bytearray()
        while len(data) < count:
            piece = self.socket.recv(count - len(data))
            if not piece:
                raise EOFError("the server closed the connection")
            data += piece
        self.received += count
        return bytes(data)

    def request(self, incremental):
        self.send(struct.pack(">BBHHHH", 3, incremental, 0, 0, self.width, self.height))

    def update(self):
        """One FramebufferUpdate; whether the size has changed."""
        while True:
            kind = self.read(1)[0]
            if kind == 0:
                break
            raise ValueError("message %d" % kind)
        count, = struct.unpack(">xH", self.read(3))
        self.updates += 1
        resized = False
        for _ in range(count):
            x, y, w, h, encoding = struct.unpack(">HHHHi", self.read(12))
            if encoding == RAW:
                data = self.read(w * h * 4)
                rows = [] if self.is_blind else [b"".join(self.rgb(data[(r * w + c) * 4:(r * w + c) * 4 + 3])
                                 for c in range(w)) for r in range(h)]
                self.put(x, y, w, rows)
            elif encoding == ZRLE:
                data = self.read(struct.unpack(">I", self.read(4))[0])
                if not self.is_blind:
                    self.zrle(x, y, w, h, self.inflate.decompress(data))
            elif encoding == EXTENDED_SIZE:
                self.read(4 + 16 * self.read(1)[0] - 1)
                if (w, h) != (self.width, self.height):
                    self.width, self.height = w, h
                    self.pixels = bytearray(w * h * 3)
                    resized = True
                self.sizes.append("%dx%d" % (w, h))
            elif encoding == KEYS:
                pass
            else:
                raise ValueError("encoding %d" % encoding)
        return resized

    @staticmethod
    def rgb(bgr):
        return bgr[::-1]

    def put(self, x, y, w, rows):
        for row, data in enumerate(rows):
            at = ((y + row) * self.width + x) * 3
            self.pixels[at:at + w * 3] = data

    def zrle(self, x, y, w, h, data):
        at = 0

        def colour():
            nonlocal at
            at += 3
            return self.rgb(data[at - 3:at])

        def run():
            nonlocal at
            length = 1
            while True:
                more = data[at]
                at += 1
                length += more
                if more != 255:
                    return length
        for top in range(0, h, 64):
            for left in range(0, w, 64):
                tw, th = min(64, w - left), min(64, h - top)
                kind = data[at]
                at += 1
                if kind == 0:
                    tile = [colour() for _ in range(tw * th)]
                elif kind == 1:
                    tile = [colour()] * (tw * th)
                elif kind <= 16:
                    palette = [colour() for _ in range(kind)]
                    bits = 1 if kind == 2 else 2 if kind <= 4 else 4
                    tile = []
                    for _ in range(th):
                        row = data[at:at + (tw * bits + 7) // 8]
                        at += len(row)
                        tile += [palette[row[c * bits // 8] >> (8 - bits - c * bits % 8)
                                         & ((1 << bits) - 1)] for c in range(tw)]
                elif kind == 128:
                    tile = []
                    while len(tile) < tw * th:
                        one = colour()
                        tile += [one] * run()
                else:
                    palette = [colour() for _ in range(kind - 128)]
                    tile = []
                    while len(tile) < tw * th:
                        index = data[at]
                        at += 1
                        tile += [palette[index & 127]] * (run() if index > 127 else 1)
                assert len(tile) == tw * th
                self.put(x + left, y + top, tw,
                         [b"".join(tile[r * tw:(r + 1) * tw]) for r in range(th)])
        assert at == len(data)

    def whole(self):
        """A whole picture, of whatever size it is by then."""
        self.request(0)
        while self.update():
            self.request(0)

    def write(self, path):
        with open(path, "wb") as file:
            file.write(b"P6\n%d %d\n255\n" % (self.width, self.height) + self.pixels)

    def key(self, keysym, scan_code, down):
        self.send(struct.pack(">BBHII", 255, 0, down, keysym, scan_code))


# Scan codes of set 1.
SCAN_CODES = {c: 16 + i for i, c in enumerate("qwertyuiop")}
SCAN_CODES.update({c: 30 + i for i, c in enumerate("asdfghjkl")})
SCAN_CODES.update({c: 44 + i for i, c in enumerate("zxcvbnm")})
SCAN_CODES.update({c: 2 + i for i, c in enumerate("1234567890")})
SCAN_CODES.update({" ": 57, "\n": 28, "-": 12, ".": 52, "/": 53, ";": 39})


def main(address, command, *rest):
    encoding = [int(rest[1])] if command in ("shot", "watch") and len(rest) > 1 else [ZRLE, RAW]
    if command == "follow":
        encoding = [RAW]
    viewer = Viewer(address, encoding + [EXTENDED_SIZE, KEYS])
    if command == "shot":
        viewer.whole()
        viewer.write(rest[0])
        print("%s %dx%d bytes %d" % (viewer.name, viewer.width, viewer.height, viewer.received))
    elif command == "watch":
        # Pixels are not looked at: that keeps up with any server.
        viewer.is_blind = True
        viewer.whole()
        first, end = viewer.updates, time.time() + float(rest[0])
        while time.time() < end:
            viewer.request(1)
            viewer.socket.settimeout(max(0.01, end - time.time()))
            try:
                if viewer.update():
                    viewer.whole()
            except socket.timeout:
                break
        print("updates %d bytes %d sizes %s" % (
            viewer.updates - first, viewer.received, ",".join(viewer.sizes)))
    elif command == "follow":
        viewer.is_blind = True
        end = time.time() + float(rest[1])
        viewer.whole()
        while rest[0] not in viewer.sizes[-1:]:
            viewer.request(1)
            viewer.socket.settimeout(max(0.01, end - time.time()))
            if viewer.update():
                viewer.whole()
        print("sizes %s" % ",".join(viewer.sizes))
    elif command == "type":
        viewer.whole()
        for character in rest[0].replace("\\n", "\n"):
            code = SCAN_CODES[character]
            viewer.key(ord(character), code, 1)
            viewer.key(ord(character), code, 0)
            time.sleep(0.03)
        time.sleep(0.3)
    elif command == "hold":
        viewer.whole()
        viewer.key(ord(rest[0]), SCAN_CODES[rest[0]], 1)
        time.sleep(0.2)
    elif command == "point":
        viewer.whole()
        x, y = int(rest[0]), int(rest[1])
        buttons = int(rest[2]) if len(rest) > 2 else 0
        for now in (0, buttons, 0):
            viewer.send(struct.pack(">BBHH", 5, now, x, y))
        time.sleep(0.3)
    elif command == "stop":
        viewer.request(0)
        time.sleep(float(rest[0]))
    elif command == "until":
        data = open(rest[0], "rb").read()
        end = time.time() + float(rest[1])
        viewer.whole()
        while bytes(viewer.pixels) != data[-len(viewer.pixels):]:
            if time.time() > end:
                viewer.write(rest[0] + ".seen.ppm")
                sys.exit("its picture differs after %d updates" % viewer.updates)
            viewer.request(1)
            viewer.socket.settimeout(max(0.01, end - time.time()))
            try:
                if viewer.update():
                    viewer.whole()
            except socket.timeout:
                pass
        print("equal after %d updates" % viewer.updates)
    else:
        sys.exit(__doc__)


main(*sys.argv[1:])
