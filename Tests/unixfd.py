#!/usr/bin/env python3
"""A reader of GStreamer's unixfd protocol without GStreamer: takes frames, looks at none of them and
gives each back when the next one has come, as a sink that keeps its last buffer.

usage: Tests/unixfd.py SOCKET
"""

import os
import socket
import struct
import sys

link = socket.socket(socket.AF_UNIX)
link.connect(sys.argv[1])
data, last = b"", None
while True:
    more, fds, _, _ = socket.recv_fds(link, 65536, 16)
    for fd in fds:
        os.close(fd)
    if not more:
        break
    data += more
    while len(data) >= 8:
        kind, size = struct.unpack_from("<II", data)
        if len(data) < 8 + size:
            break
        if kind == 0:
            if last is not None:
                link.sendall(struct.pack("<IIQ", 1, 8, last))
            last, = struct.unpack_from("<Q", data, 8)
        data = data[8 + size:]
