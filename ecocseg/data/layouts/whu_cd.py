"""WHU-CD (Ji et al., 2019): pairs of aerial images and a mask of the buildings that changed.

Source: the 256x256 tiles of SemiCD (wgcban/SemiCD) that UniMatch links, with UniMatch's lists. Mask
files hold 0 and 255.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ecocseg.data.layouts.base import (
    IMAGE_EXTENSIONS,
    LABEL_EXTENSIONS,
    LIST_OPTIONS,
    Fault,
    Listing,
    find,
    pair,
    read_list,
)

TREE = """\
A/whucd_00001.png ... (before), B/ (after) and label/ (0, 255) with the same names, and beside or
above these folders the lists that the splits' option `list` names"""
OPTIONS = LIST_OPTIONS


def recognises(root: Path, splits: Mapping[str, Mapping[str, Any]]) -> bool:
    """Whether `root` holds both folders of images and that of the masks."""
    return all((root / name).is_dir() for name in ("A", "B", "label"))


def key_of(text: str, options: Mapping[str, Any]) -> str:
    """`A/whucd_00002.png`, `whucd_00002.png` -> `whucd_00002`."""
    return Path(text).stem


def listing(root: Path, split: str, options: Mapping[str, Any]) -> Listing:
    """Find the pairs of images and their masks."""
    before, after = (find(root / name, IMAGE_EXTENSIONS) for name in ("A", "B"))
    listed, faults = read_list(_folder_of_list(root, options), options, key_of)
    result = pair(before, find(root / "label", LABEL_EXTENSIONS), listed, options)
    faults += after.faults
    items = []
    for item in result.items:
        second = after.files.get(item.key)
        if second is None:
            faults.append(
                Fault(
                    str(root / "B" / item.image.name),
                    "the later image is not there, and the earlier one is",
                    "copy it again, or leave the pair out with the split option `exclude`",
                )
            )
        else:
            items.append(replace(item, second=second))
    return Listing(tuple(items), (*faults, *result.faults), result.skipped)


def _folder_of_list(root: Path, options: Mapping[str, Any]) -> Path:
    """Where a split's list lies: above `root` if the tiles' archive brought a folder of its own."""
    name = options.get("list")
    folders = [root, *list(root.absolute().parents)[:2]]
    return next((folder for folder in folders if name and (folder / str(name)).is_file()), root)
