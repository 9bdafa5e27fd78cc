"""A PNG writer for tests that shares no code with the readers: zlib and struct alone."""

import struct
import zlib
from pathlib import Path

import numpy as np

COLOR_TYPE = {2: 4, 3: 2, 4: 6}
"""Number of channels -> colour type: gray with alpha, RGB, RGBA."""


def write_png16(path: Path, channels: np.ndarray, filters: tuple[int, ...] = (0, 1, 2)) -> Path:
    """Write channels [H,W,C] of 16 bits; row i is filtered by filters[i % len] (0, 1 or 2)."""
    height, width, count = channels.shape
    rows = channels.astype(">u2").view(np.uint8).reshape(height, -1).astype(int)
    body = bytearray()
    for place, row in enumerate(rows):
        kind = filters[place % len(filters)]
        before = np.zeros_like(row)
        if kind == 1:
            before[2 * count :] = row[: -2 * count]
        elif kind == 2 and place:
            before = rows[place - 1]
        body += bytes([kind]) + ((row - before) % 256).astype(np.uint8).tobytes()
    packed = zlib.compress(bytes(body))
    middle = len(packed) // 2
    head = struct.pack(">IIBBBBB", width, height, 16, COLOR_TYPE[count], 0, 0, 0)
    parts = [(b"IHDR", head), (b"tEXt", b"Software\0a test")]
    parts += [(b"IDAT", packed[:middle]), (b"IDAT", packed[middle:]), (b"IEND", b"")]
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.write(b"\x89PNG\r\n\x1a\n")
        for name, data in parts:
            file.write(struct.pack(">I", len(data)) + name + data)
            file.write(struct.pack(">I", zlib.crc32(name + data)))
    return path
