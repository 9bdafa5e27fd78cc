"""Verification of raw data: every fault with file and remedy, all of them at once."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ecocseg.data.classes import UNKNOWN, ClassTable
from ecocseg.data.config import DatasetConfig
from ecocseg.data.labels import Rules, check_trailer, unreadable
from ecocseg.data.layouts import LAYOUTS, Fault, Item, Listing, find_root
from ecocseg.data.parallel import Progress, map_files
from ecocseg.data.readers import open_frames, open_item_label
from ecocseg.errors import DataError

SHOWN = 50
"""Faults printed in a message; the file beside the processed folder holds all."""
_IMAGE_MODES = {"1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr"}
_ORIENTATION = 0x0112


@dataclass(frozen=True)
class Seen:
    """What one pair showed: its faults and the raw values of its label."""

    faults: tuple[Fault, ...] = ()
    values: frozenset[int] = frozenset()


def rules_of(config: DatasetConfig) -> Rules:
    """Return what the label files of a data set are read by."""
    return Rules(config.table, config.label_values)


def list_splits(config: DatasetConfig, root: Path) -> dict[str, Listing]:
    """Find the items of every split, without opening an image."""
    layout = LAYOUTS[config.layout]
    return {split: layout.listing(root, split, config.splits[split]) for split in config.splits}


def verify_raw(
    config: DatasetConfig,
    root: Path,
    workers: int | None = None,
    progress: Progress | None = None,
) -> list[Fault]:
    """Check the raw files of a data set and return every fault found, [] when there is none.

    Checked are: the folder, the splits and their lists, pairs, whether each image and label opens
    to its end, equal sizes, the label's mode, and its values against the class table.
    """
    layout = LAYOUTS[config.layout]
    if not root.is_dir():
        return [
            Fault(
                str(root),
                "the data root is not there",
                f"put the data set {config.name} there, or give its folder as "
                f"`data.sources.{config.raw_name}` in params.yaml; expected in it:\n{layout.TREE}",
            )
        ]
    top = find_root(root, layout, config.splits) or root
    listings = list_splits(config, top)
    faults = [fault for listing in listings.values() for fault in listing.faults]
    for split, listing in listings.items():
        if not listing.items and not listing.faults:
            faults.append(
                Fault(
                    f"{top} (split {split})",
                    "the split is empty",
                    f"check its options in the data set's YAML; expected here:\n{layout.TREE}",
                )
            )
        elif config.evaluated(split) and any(item.label is None for item in listing.items):
            faults.append(
                Fault(
                    f"splits.{split}",
                    "is to be scored (`evaluate: true`) and has no labels",
                    "name the folder of its labels, or drop `evaluate`",
                )
            )
    tasks = [item for listing in listings.values() for item in listing.items]
    seen = map_files(check_item, rules_of(config), tasks, workers, progress)
    faults += [fault for result in seen for fault in result.faults]
    start = 0
    for split, listing in listings.items():
        part = seen[start : start + len(listing.items)]
        start += len(listing.items)
        faults += _split_faults(config, split, part)
    return sorted(set(faults), key=lambda fault: (fault.file, fault.problem))


def fail_on(faults: Sequence[Fault], full_list: Path | None = None) -> None:
    """Raise DataError naming the first 50 faults and their number, if there is one."""
    if not faults:
        return
    lines = [f"{len(faults)} fault{'s' if len(faults) > 1 else ''} in the data:"]
    lines += [f"  {fault}" for fault in faults[:SHOWN]]
    if len(faults) > SHOWN:
        lines.append(f"  ... and {len(faults) - SHOWN} more")
    if full_list is not None:
        lines.append(f"all of them: {full_list}")
    raise DataError("\n".join(lines))


def check_item(rules: Rules, item: Item) -> Seen:
    """Open one pair to its end and check it; never raises for a faulty file."""
    faults: list[Fault] = []
    size = _image_size(item, faults)
    if item.label is None:
        return Seen(tuple(faults))
    raw = open_item_label(item, rules, faults)
    if raw is None:
        return Seen(tuple(faults))
    if size is not None and raw.shape[:2] != size:
        faults.append(
            Fault(
                str(item.label),
                f"is {_size(raw.shape)}, its image {item.image} is {_size(size)} (width x height)",
                "label and image must have the same size: take both from the same release, or "
                f'leave the pair out with the split option `exclude: ["{item.key}"]`',
            )
        )
    values = frozenset(np.unique(raw).tolist()) if not rules.colors else frozenset()
    if rules.colors:
        faults += _color_faults(item.label, raw, rules.table)
    else:
        faults += _value_faults(item.label, values, rules.table)
    return Seen(tuple(faults), values)


def _image_size(item: Item, faults: list[Fault]) -> tuple[int, int] | None:
    """Height and width of an item's images; None and faults when they cannot be used."""
    try:
        frames = open_frames(item)
    except DataError as error:
        faults.append(Fault(str(item.image), str(error), "copy or download it again"))
        return None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        faults.append(unreadable(_damaged(item), error))
        return None
    for path, picture in zip((item.image, item.second), frames, strict=False):
        _picture_faults(path or item.image, picture, faults)
    sizes = [(picture.height, picture.width) for picture in frames]
    if len(set(sizes)) > 1:
        faults.append(
            Fault(
                str(item.second),
                f"is {_size(sizes[1])}, the earlier image {_size(sizes[0])} (width x height)",
                "both images of a pair must have the same size: take them from the same release",
            )
        )
    return sizes[0]


def _damaged(item: Item) -> Path:
    """Which image of an item cannot be opened."""
    if item.second is None:
        return item.image
    try:
        with Image.open(item.image) as picture:
            picture.load()
            check_trailer(item.image, picture)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return item.image
    return item.second


def _picture_faults(path: Path, picture: Image.Image, faults: list[Fault]) -> None:
    if picture.mode not in _IMAGE_MODES:
        faults.append(
            Fault(
                str(path),
                f"has mode {picture.mode} (more than 8 bits a channel)",
                "save it as 8-bit RGB: how its range maps to 0..255 is yours to say",
            )
        )
    if picture.getexif().get(_ORIENTATION, 1) not in (0, 1):
        faults.append(
            Fault(
                str(path),
                "its EXIF tag says that it is to be shown rotated, and programs differ in whether "
                "they do",
                "rotate the pixels to match the label and drop the tag (ImageMagick: `mogrify "
                "-auto-orient`)",
            )
        )


def _value_faults(path: Path, values: frozenset[int], table: ClassTable) -> list[Fault]:
    unknown = sorted(v for v in values if not 0 <= v < 65536 or table.lookup[v] == UNKNOWN)
    if not unknown:
        return []
    classes = len(table.names)
    known = sorted(table.ids)
    problem = f"holds the unknown class value{'s' if len(unknown) > 1 else ''} {_few(unknown)}"
    remedy = f"the class table knows {_ranges(known)}: correct the file, or `classes` in the YAML"
    if not table.identity and unknown == [255] and max(values - {255}, default=0) < classes:
        problem += ": these look like train ids where label ids belong"
        remedy = _TRAIN_IDS_REMEDY
    elif table.identity and classes == 19 and all(v in range(35) for v in unknown):
        problem += ": these look like Cityscapes label ids where train ids belong"
        remedy = (
            "use the *_labelTrainIds files, or set `classes: cityscapes19` (gta19 for GTA), which "
            "maps label ids"
        )
    elif table.identity and all(v < 256 for v in unknown):
        remedy += "; if these are label ids where train ids belong, map them with `classes.ids`"
    return [Fault(str(path), problem, remedy)]


_TRAIN_IDS_REMEDY = (
    "use the label files that hold label ids (*_labelIds.png), or set `classes: "
    "cityscapes19_train_ids` (own data: leave out `classes.ids`), which takes train ids as they are"
)


def _color_faults(path: Path, rgb: NDArray[np.int64], table: ClassTable) -> list[Fault]:
    wrong = table.encode_colors(rgb.astype(np.uint8)) == UNKNOWN
    if not wrong.any():
        return []
    colors = [tuple(color) for color in np.unique(rgb[wrong], axis=0).tolist()]
    return [
        Fault(
            str(path),
            f"holds {int(wrong.sum())} pixels of {len(colors)} unknown colours, as {_few(colors)}",
            "add them to `classes.colors` or `classes.ignore_colors`; blended colours come from "
            "JPEG or a smooth resize: take the original PNG",
        )
    ]


def _split_faults(config: DatasetConfig, split: str, seen: Sequence[Seen]) -> list[Fault]:
    """What passes file by file and shows over a whole split: train ids for label ids, lost bits."""
    table = config.table
    values = frozenset().union(*(result.values for result in seen))
    if table.ids.get(table.ignore) == table.ignore:
        values -= {table.ignore}
    if values == {0} and config.label_values == "first_channel" and table.lookup[0] == table.ignore:
        return [
            Fault(
                f"split {split} of {config.name}",
                "no pixel of any class is in its labels, all are 0: so do labels of 16 bits look "
                "that a program has saved again with 8",
                "take the original files",
            )
        ]
    largest = max(raw for raw, train in table.ids.items() if train != table.ignore)
    if not values or max(values) >= len(table.names) or largest < len(table.names):
        return []
    if values == {0} and table.lookup[0] != table.ignore:
        # Nothing but the first class, such as pairs in which nothing changed.
        return []
    return [
        Fault(
            f"split {split} of {config.name}",
            f"no label holds a value above {max(values)}: these look like train ids where label "
            "ids belong (or every label is void, as the test split's are)",
            _TRAIN_IDS_REMEDY,
        )
    ]


def _size(shape: Sequence[int]) -> str:
    return f"{shape[1]}x{shape[0]}"


def _few(values: Sequence[object], most: int = 8) -> str:
    shown = ", ".join(str(value) for value in values[:most])
    return shown + (f" and {len(values) - most} more" if len(values) > most else "")


def _ranges(values: Iterable[int]) -> str:
    """`0, 1, 2, 5` as `0-2, 5`."""
    parts: list[list[int]] = []
    for value in values:
        if parts and value == parts[-1][-1] + 1:
            parts[-1].append(value)
        else:
            parts.append([value])
    return ", ".join(str(p[0]) if len(p) == 1 else f"{p[0]}-{p[-1]}" for p in parts)
