"""Raw label files: numbers or colours per pixel, read without losing a bit.

Pillow reads a PNG of several 16-bit channels by its high bytes, in which SYNTHIA's classes (first
channel, the instance in the second) all become 0. Here both bytes are read.
"""

import struct
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from ecocseg.data.classes import ClassTable
from ecocseg.data.layouts import Fault

_NUMBER_MODES = {"1", "L", "P", "I", "I;16", "I;16B", "I;16L"}
_CHANNEL_MODES = _NUMBER_MODES | {"LA", "RGB", "RGBA", "RGBX"}
_PNG = b"\x89PNG\r\n\x1a\n"
_HEADER = struct.Struct(">IIBBBBB")
# Colour type of the PNG -> the modes in which Pillow unpacks high and low bytes. Gray with alpha
# takes four bytes a pixel, as RGBA does in 8 bits: there one pass gives both.
_BYTES = {2: ("RGB", "RGB;16B", "RGB;16L"), 6: ("RGBA", "RGBA;16B", "RGBA;16L")}
_GRAY_ALPHA = 4


@dataclass(frozen=True)
class Rules:
    """How label files are read; small, since it is sent to worker processes."""

    table: ClassTable
    values: str
    """`label_values` of the data set."""

    @property
    def colors(self) -> bool:
        """Whether the files hold class colours."""
        return self.values == "colors"


def open_label(path: Path, rules: Rules, faults: list[Fault]) -> NDArray[np.int64] | None:
    """Read a label: numbers [H,W], or colours [H,W,3]; None and a fault when it cannot be."""
    try:
        with Image.open(path) as picture:
            deep = picture.format == "PNG" and deep_channels(path)
            if rules.colors:
                picture.load()
                check_trailer(path, picture)
                return np.asarray(picture.convert("RGB"))
            first = rules.values == "first_channel"
            if deep and first:
                return read_deep_png(path)[..., 0]
            picture.load()
            check_trailer(path, picture)
            if deep or picture.mode not in (_CHANNEL_MODES if first else _NUMBER_MODES):
                faults.append(_wrong_mode(path, picture.mode, bool(deep)))
                return None
            array = np.asarray(picture).astype(np.int64)
            return array[..., 0] if array.ndim == 3 else array
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        faults.append(unreadable(path, error))
        return None


def _wrong_mode(path: Path, mode: str, deep: bool) -> Fault:
    what = "several channels of 16 bits" if deep else f"mode {mode} (colours)"
    remedy = "use the label files that hold ids (8-bit gray or palette PNG), or set "
    remedy += (
        "`label_values: first_channel` where the first of them is the class, as in SYNTHIA"
        if deep
        else "`label_values: colors` with the classes' colours"
    )
    return Fault(str(path), f"has {what}, one number per pixel is wanted", remedy)


def deep_channels(path: Path) -> bool:
    """Whether a PNG has several channels of 16 bits."""
    with path.open("rb") as file:
        start = file.read(len(_PNG) + 8 + _HEADER.size)
    if len(start) < len(_PNG) + 8 + _HEADER.size:
        return False
    _, _, bits, kind, *_ = _HEADER.unpack_from(start, len(_PNG) + 8)
    return bits == 16 and (kind == _GRAY_ALPHA or kind in _BYTES)


def read_deep_png(path: Path) -> NDArray[np.int64]:
    """Channels [H,W,C] of a PNG for which `deep_channels` holds; OSError for a damaged file."""
    content = path.read_bytes()
    packed = bytearray()
    place, kind = len(_PNG), b""
    while kind != b"IEND":
        if place + 12 > len(content):
            raise OSError("truncated: the end of the PNG is not there")
        (length,) = struct.unpack_from(">I", content, place)
        kind, data = content[place + 4 : place + 8], content[place + 8 : place + 8 + length]
        check = content[place + 8 + length : place + 12 + length]
        if check != struct.pack(">I", zlib.crc32(kind + data)):
            raise OSError(f"truncated or damaged: the part {kind!r} of the PNG has a wrong sum")
        if kind == b"IHDR":
            width, height, _, color, _, _, interlaced = _HEADER.unpack(data)
        elif kind == b"IDAT":
            packed += data
        place += 12 + length

    def unpacked(mode: str, raw: str) -> NDArray[np.int64]:
        picture = Image.frombytes(mode, (width, height), bytes(packed), "zip", raw, interlaced)
        return np.asarray(picture).astype(np.int64)

    if color == _GRAY_ALPHA:
        values = unpacked("RGBA", "RGBA")
        return values[..., 0::2] << 8 | values[..., 1::2]
    mode, high, low = _BYTES[color]
    return unpacked(mode, high) << 8 | unpacked(mode, low)


def label_size(path: Path) -> tuple[int, int]:
    """Height and width of a label file, by its head alone."""
    with Image.open(path) as picture:
        return picture.height, picture.width


def check_trailer(path: Path, picture: Image.Image) -> None:
    """Raise OSError for a PNG whose end is cut off: the decoder is content with whole pixels."""
    if picture.format == "PNG":
        with Image.open(path) as again:
            try:
                again.verify()
            except SyntaxError as error:
                raise OSError(f"truncated or damaged: {error}") from error


def unreadable(path: Path, error: Exception) -> Fault:
    """The fault of a file that raised `error` when it was read."""
    if path.is_file() and path.stat().st_size == 0:
        problem = "the file is empty"
    elif isinstance(error, UnidentifiedImageError):
        problem = "is no image, or its beginning is damaged"
    elif "truncated" in str(error):
        problem = f"the file is truncated ({error})"
    else:
        problem = f"cannot be read ({error})"
    return Fault(str(path), problem, "copy or download it again")
