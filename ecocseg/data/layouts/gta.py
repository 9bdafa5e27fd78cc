"""GTAv (Richter et al., 2016) as its archives 01_images.zip ... 10_labels.zip unpack together.

Source: https://download.visinf.tu-darmstadt.de/data/from_games/. Labels are palette PNGs whose
indices are Cityscapes label ids (34 is the licence plate). The archives hold fewer images than the
official list names (24,966): with a `list` use `missing: skip`.
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
images/00001.png ...
labels/00001.png ...   (the same names)"""
OPTIONS = LIST_OPTIONS
_DIGITS = 5


def recognises(root: Path, splits: Mapping[str, Mapping[str, Any]]) -> bool:
    """Whether `root` holds the images' folder and the labels' folder."""
    return (root / "images").is_dir() and (root / "labels").is_dir()


def key_of(text: str, options: Mapping[str, Any]) -> str:
    """`images/00001.png`, `00001` or `1` -> `00001` (the official list holds plain numbers)."""
    stem = Path(text).stem
    return stem.zfill(_DIGITS) if stem.isdigit() else stem


def listing(root: Path, split: str, options: Mapping[str, Any]) -> Listing:
    """Find the pairs of a split: those of its list, or all."""
    images = find(root / "images", IMAGE_EXTENSIONS)
    labels = find(root / "labels", LABEL_EXTENSIONS)
    listed, faults = read_list(root, options, key_of)
    result = pair(images, labels, listed, options)
    return Listing(result.items, (*faults, *result.faults), result.skipped)
