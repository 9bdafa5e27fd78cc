"""Bringing images and labels to the size they are stored at.

`antialias` is Pillow's way: shrinking smooths first, a label takes the pixel under the centre of
the new one. `mmcv` is that of the published UDA code (cv2 in mmcv's `imrescale`), for results that
compare: bilinear between the four nearest pixels however much the image shrinks, and a label takes
pixel floor(i * old / new), the upper left corner of the new one. That moves labels against images
to the lower right, by half a stored pixel on the mean (GTAv to 1280x704), by a quarter where the
size halves (Cityscapes to 1024x512): a flaw that all published results share.

With `mmcv` an image that is to be enlarged is stored at its own size, and what a crop shows of it
is enlarged when it is read: that takes half the time and the disk of reading an enlarged PNG.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

RESIZES = ("antialias", "mmcv")
_BAND = 16
_WHOLE = slice(None)


def target_size(
    size: tuple[int, int], wanted: tuple[int, int] | None, keep_ratio: bool
) -> tuple[int, int]:
    """Size (height, width) that an image of `size` is stored at.

    With `keep_ratio` it is the largest that fits inside `wanted`, whichever way the longer side
    lies (as mmcv's `imrescale`, which the published UDA recipes use).
    """
    if wanted is None:
        return size
    if not keep_ratio:
        return wanted
    scale = min(max(wanted) / max(size), min(wanted) / min(size))
    return int(size[0] * scale + 0.5), int(size[1] * scale + 0.5)


def stored_size(raw: tuple[int, int], size: tuple[int, int], how: str) -> tuple[int, int]:
    """Size (height, width) of the file of an image of size `raw` that is read at `size`."""
    return raw if how == "mmcv" and raw[0] <= size[0] and raw[1] <= size[1] else size


def resize_image(image: Image.Image, size: tuple[int, int], how: str) -> Image.Image:
    """An RGB image at `size` (height, width)."""
    if (image.height, image.width) == size:
        return image
    if how == "antialias":
        return image.resize((size[1], size[0]), Image.Resampling.BILINEAR)
    return Image.fromarray(bilinear(np.asarray(image), size))


def resize_label(ids: NDArray[np.uint8], size: tuple[int, int], how: str) -> NDArray[np.uint8]:
    """Train ids [H,W] at `size` (height, width), each one of the old ones."""
    if ids.shape == size:
        return ids
    if how == "antialias":
        picture = Image.fromarray(ids).resize((size[1], size[0]), Image.Resampling.NEAREST)
        return np.asarray(picture)
    down, across = (np.arange(new) * old // new for old, new in zip(ids.shape, size, strict=True))
    return ids[down[:, None], across]


def bilinear(
    pixels: NDArray[np.uint8],
    size: tuple[int, int],
    rows: slice = _WHOLE,
    columns: slice = _WHOLE,
) -> NDArray[np.uint8]:
    """Rows and columns of the pixels [H,W,3] at `size`: plain bilinear, halves rounded up.

    Centres lie on centres, and the border goes on beyond itself.
    """
    above, below, down = _neighbours(pixels.shape[0], size[0], rows)
    left, right, across = _neighbours(pixels.shape[1], size[1], columns)
    pixels = pixels[:, left[0] : right[-1] + 1]
    left, right = left - left[0], right - left[0]
    result = np.empty((len(above), len(left), 3), dtype=np.uint8)
    # In bands that stay in the cache: ten times as fast as the whole image at once.
    for start in range(0, len(above), _BAND):
        band = slice(start, start + _BAND)
        mixed = _between(pixels[above[band]], pixels[below[band]], down[band, None, None])
        mixed = _between(mixed.take(left, 1), mixed.take(right, 1), across[:, None])
        mixed += 0.5
        result[band] = mixed
    return result


def _neighbours(
    old: int, new: int, wanted: slice
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]:
    """Of the wanted new places of an axis: the two old ones beside, and the second one's share."""
    place = ((np.arange(new)[wanted] + 0.5) * (old / new) - 0.5).clip(0, old - 1)
    first = place.astype(np.int64)
    return first, (first + 1).clip(max=old - 1), (place - first).astype(np.float32)


def _between(
    low: NDArray[Any], high: NDArray[Any], share: NDArray[np.float32]
) -> NDArray[np.float32]:
    mixed = high.astype(np.float32)
    mixed -= low
    mixed *= share
    mixed += low
    return mixed
