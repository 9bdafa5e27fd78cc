"""Raw images and labels of an item, whatever kind of file they stand in.

Most are pictures. Beside them: pairs of images (change detection), slices of HDF5 volumes (ACDC as
SSL4MIS prepared it), MATLAB files (SBD), and instances of which a label is drawn (COCO).
"""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ecocseg.data.instances import draw_instances
from ecocseg.data.labels import Rules, check_trailer, label_size, open_label
from ecocseg.data.layouts import Fault, Item
from ecocseg.errors import DataError

VOLUMES, MATLAB = (".h5", ".hdf5"), ".mat"
_COPY = "copy or download it again"


def open_frames(item: Item) -> list[Image.Image]:
    """The images of an item, one or two; loaded to their end.

    Raises OSError, SyntaxError or ValueError for a damaged file, DataError for a volume without an
    image.
    """
    if item.image.suffix.lower() in VOLUMES:
        slice_ = _volume(item.image, "image", item.part)
        # SSL4MIS scales each volume to 0..1; UniMatch rounds it to 8 bits too.
        return [Image.fromarray((slice_.clip(0, 1) * 255).astype(np.uint8))]
    return [_loaded(path) for path in (item.image, item.second) if path is not None]


def open_item_label(item: Item, rules: Rules, faults: list[Fault]) -> NDArray[np.int64] | None:
    """The raw label of an item that has one, [H,W] or [H,W,3]; None and a fault when it cannot be.

    Values are those of the file; drawn instances give class numbers and 255.
    """
    assert item.label is not None
    try:
        if item.objects is not None:
            return draw_instances(item.objects)
        if item.label.suffix.lower() in VOLUMES:
            return _volume(item.label, "label", item.part).astype(np.int64)
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
    if item.objects is None and item.label.suffix.lower() not in (*VOLUMES, MATLAB):
        return label_size(item.label)
    found = open_item_label(item, rules, [])
    return None if found is None else (found.shape[0], found.shape[1])


def _loaded(path: Path) -> Image.Image:
    with Image.open(path) as picture:
        picture.load()
        check_trailer(path, picture)
        return picture


def _volume(path: Path, name: str, part: int | None) -> NDArray[Any]:
    """A slice [H,W] of the array `name`; DataError when the file is damaged or lacks it."""
    # Imported here: only this format needs it, and workers start faster without.
    import h5py

    try:
        with h5py.File(path, "r") as file:
            if name not in file:
                raise DataError(f"holds no array {name!r}, only {', '.join(file) or 'nothing'}")
            array = file[name]
            found = np.asarray(array if part is None else array[part])
    except (OSError, ValueError) as error:
        raise DataError(f"cannot be read as HDF5 ({error})") from error
    if found.ndim != 2:
        raise DataError(f"its array {name!r} has {found.ndim} dimensions where a slice has 2")
    return found


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
