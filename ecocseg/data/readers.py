"""Raw images and labels of an item, whatever kind of file they stand in.

Most are pictures. Beside them: pairs of images (change detection), slices of volumes (ACDC), MATLAB
files (SBD), and instances of which a label is drawn (COCO).
"""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ecocseg.data.instances import draw_instances, instances_size
from ecocseg.data.labels import Rules, check_trailer, label_size, open_label
from ecocseg.data.layouts import Fault, Item
from ecocseg.data.volumes import is_volume, read_classes, read_grey
from ecocseg.errors import DataError

MATLAB = ".mat"
_COPY = "copy or download it again"


def open_frames(item: Item) -> list[Image.Image]:
    """The images of an item, one or two; loaded to their end.

    Raises OSError, SyntaxError or ValueError for a damaged file, DataError for a volume without an
    image.
    """
    if is_volume(item.image):
        return [Image.fromarray(read_grey(item.image, item.part))]
    return [_loaded(path) for path in (item.image, item.second) if path is not None]


def open_item_label(item: Item, rules: Rules, faults: list[Fault]) -> NDArray[np.int64] | None:
    """The raw label of an item that has one, [H,W] or [H,W,3]; None and a fault when it cannot be.

    Values are those of the file; drawn instances give class numbers and 255.
    """
    assert item.label is not None
    try:
        if item.objects is not None:
            return draw_instances(item.objects)
        if is_volume(item.label):
            return read_classes(item.label, item.part)
        if item.label.suffix.lower() == MATLAB:
            return _matlab(item.label)
    except DataError as error:
        faults.append(Fault(str(item.label), str(error), _COPY))
        return None
    return open_label(item.label, rules, faults)


def raw_label_size(item: Item, rules: Rules) -> tuple[int, int] | None:
    """Height and width of an item's label; by its head alone where it is a picture."""
    if item.label is None:
        return None
    if item.objects is not None:
        return instances_size(item.objects)
    if not is_volume(item.label) and item.label.suffix.lower() != MATLAB:
        return label_size(item.label)
    found = open_item_label(item, rules, [])
    return None if found is None else (found.shape[0], found.shape[1])


def _loaded(path: Path) -> Image.Image:
    with Image.open(path) as picture:
        picture.load()
        check_trailer(path, picture)
        return picture


def _matlab(path: Path) -> NDArray[np.int64]:
    """Segmentation [H,W] of an SBD file; DataError when it is damaged or of another kind."""
    from scipy.io import loadmat

    try:
        content = loadmat(path)
        found = np.asarray(content["GTcls"]["Segmentation"][0, 0])
    except Exception as error:
        # loadmat raises whatever its parser stumbles over.
        raise DataError(f"cannot be read as a class file of SBD ({error})") from error
    return found.astype(np.int64)
