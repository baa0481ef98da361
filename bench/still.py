#!/usr/bin/env python3
"""A producer of frames, version 1 of the protocol, whose pictures stand still: memfds that are made
once. It tells each consumer with room of a frame RATE times a second, all of it changed or a part.
What a program costs with it is the least that its own library and protocol need.

usage: bench/still.py SOCKET WIDTHxHEIGHT RATE terminal [WIDTHxHEIGHT of what changes]
       bench/still.py SOCKET WIDTHxHEIGHT RATE FRAMES

terminal: lines of text. FRAMES: another producer's socket; its next pictures are taken, so that
both show the same.

SIGUSR1: prints how many frames were answered.
"""

import fcntl
import os
import random
import selectors
import signal
import socket
import struct
import sys
import time

PATH, RATE = sys.argv[1], float(sys.argv[3])
WIDTH, HEIGHT = map(int, sys.argv[2].split("x"))
PICTURES = sys.argv[4]
DAMAGE = tuple(map(int, (sys.argv[5] if len(sys.argv) > 5 else sys.argv[2]).split("x")))
STRIDE = (WIDTH * 4 + 255) // 256 * 256
SIZE = (STRIDE * HEIGHT + 4095) // 4096 * 4096
COPIES = 6
XR24 = 0x34325258
COPY_ONLY, POOL = 1 << 3, 1 << 5
done = 0


def memory(fill):
    """A copy as producers make them; fill() yields the bytes of its rows from the top."""
    fd = os.memfd_create("still", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(fd, SIZE)
    for row, pixels in enumerate(fill):
        os.pwrite(fd, pixels[:WIDTH * 4], row * STRIDE)
    fcntl.fcntl(fd, 1033, 1 | 2 | 4 | 16)  # F_ADD_SEALS: SEAL, SHRINK, GROW, FUTURE_WRITE
    return fd


def text(seed):
    """Lines of 16 rows with glyphs of 8 columns, white on black, as a terminal has them."""
    dice = random.Random(seed)
    black, white = b"\0\0\0\0", b"\xd0\xd0\xd0\0"
    glyphs = [[b"".join(dice.choice((black, black, white)) for _ in range(8)) for _ in range(16)]
              for _ in range(64)]
    for line in range(0, HEIGHT, 16):
        line_text = [dice.choice(glyphs) for _ in range((WIDTH + 7) // 8)]
        for row in range(min(16, HEIGHT - line)):
            yield b"".join(glyph[row] for glyph in line_text)


def taken(path):
    """The pictures of so many frames of a producer, as copies of its copies."""
    link = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    link.connect(path)
    link.send(struct.pack("<IIIIIIQII32s", 1, 72, 0x52464850, 1, 1, 1, COPY_ONLY, 0, 0, b"still"))
    buffers = {}
    copies = []
    while len(copies) < COPIES:
        packet, fds, _, _ = socket.recv_fds(link, 4096, 4)
        kind, = struct.unpack_from("<I", packet)
        if kind == 0x103:
            number, _, width, height, fourcc = struct.unpack_from("<IIIII", packet, 8)
            _, stride, offset = struct.unpack_from("<IIQ", packet, 56)
            if (width, height, fourcc) != (WIDTH, HEIGHT, XR24):
                sys.exit(f"still.py: pictures of {width}x{height} in {fourcc:#x} on {path}")
            buffers[number] = fds[0], stride, offset
        elif kind == 0x105:
            number, generation = struct.unpack_from("<II", packet, 8)
            os.close(buffers.pop(number)[0])
            link.send(struct.pack("<IIII", 3, 16, number, generation))
        elif kind == 0x104:
            output, _, serial, number = struct.unpack_from("<IIQI", packet, 8)
            fd, stride, offset = buffers[number]
            copies.append(memory(os.pread(fd, WIDTH * 4, offset + row * stride)
                                 for row in range(HEIGHT)))
            link.send(struct.pack("<IIIIQQ", 2, 32, output, 0, serial, 0))
        elif kind == 0x107 or not packet:
            sys.exit(f"still.py: {path} has no pictures: {packet!r}")
    link.close()
    return copies


class Consumer:
    def __init__(self, link):
        self.link, self.serial, self.known, self.flying = link, 0, set(), {}
        self.greeted = False

    def say(self, kind, body, fds=()):
        extra = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, struct.pack(f"{len(fds)}i", *fds))]
        self.link.sendmsg([struct.pack("<II", kind, len(body) + 8) + body], extra if fds else [])

    def hear(self):
        global done
        packet = self.link.recv(4096)
        if not packet:
            raise ConnectionResetError
        kind, = struct.unpack_from("<I", packet)
        if kind == 1:
            features, = struct.unpack_from("<Q", packet, 24)
            features &= COPY_ONLY | POOL
            self.limit = 4 if features & POOL else 2
            self.say(0x101, struct.pack("<IIQIIII32s", 0x52464850, 1, features, self.limit, 40000,
                                        40000, 16, b"still"))
            self.say(0x102, struct.pack("<IIIIII", 0, 1, WIDTH, HEIGHT, 0, 0))
            for number in range(COPIES):
                plane = struct.pack("<IIQ", 0, STRIDE, 0)
                self.say(0x103, struct.pack("<IIIIIIQQII", number + 1, 1, WIDTH, HEIGHT, XR24, 2, 0,
                                            SIZE, 1, 1) + plane + bytes(48), [MEMORY[number]])
            self.greeted = True
        elif kind == 2:
            serial, = struct.unpack_from("<Q", packet, 16)
            done += self.flying.pop(serial, None) is not None

    def frame(self):
        if not self.greeted or len(self.flying) >= self.limit:
            return
        number = next(n for n in range(COPIES) if n not in self.flying.values())
        self.serial += 1
        full = number not in self.known
        self.known.add(number)
        self.flying[self.serial] = number
        part = (0, 0, WIDTH, HEIGHT) if full else (0, 0, *DAMAGE)
        self.say(0x104, struct.pack("<IIQII4IIIQQ", 0, int(full), self.serial, number + 1, 1, 0, 0,
                                    WIDTH, HEIGHT, 0, 1, 0, time.monotonic_ns())
                 + struct.pack("<4I", *part) + bytes(16 * 15))


MEMORY = [memory(text(number)) for number in range(COPIES)] if PICTURES == "terminal" else taken(PICTURES)
signal.signal(signal.SIGUSR1, lambda *_: print("done", done, flush=True))
loop = selectors.DefaultSelector()
door = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
door.bind(PATH)
door.listen(4)
loop.register(door, selectors.EVENT_READ)
consumers = {}


def attempt(link, action):
    """A consumer that has gone, whenever that shows, is forgotten."""
    try:
        action()
    except OSError:
        loop.unregister(link)
        del consumers[link]
        link.close()


due = time.monotonic()
print("ready", flush=True)
while True:
    for key, _ in loop.select(max(0, due - time.monotonic())):
        if key.fileobj is door:
            link, _ = door.accept()
            consumers[link] = Consumer(link)
            loop.register(link, selectors.EVENT_READ)
            continue
        attempt(key.fileobj, consumers[key.fileobj].hear)
    if time.monotonic() >= due:
        due = max(due + 1 / RATE, time.monotonic())
        for link, consumer in list(consumers.items()):
            attempt(link, consumer.frame)
