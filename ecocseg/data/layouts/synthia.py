"""SYNTHIA-RAND-CITYSCAPES (Ros et al., 2016) as its archive RAND_CITYSCAPES.rar unpacks.

Source: https://synthia-dataset.net, 9,400 images of 1280x760. Labels are PNGs of several channels
of 16 bits, the class in the first one and the instance in the second: `label_values:
first_channel`. GT/COLOR, GT/LABELS_NPY and Depth are passed over.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ecocseg.data.layouts.base import (
    IMAGE_EXTENSIONS,
    LABEL_EXTENSIONS,
    LIST_OPTIONS,
    TRAIN_IDS_SUFFIX,
    Listing,
    find,
    pair,
    read_list,
    with_keys,
)

TREE = """\
RGB/0000000.png ...
GT/LABELS/0000000.png ...   (the same names)"""
OPTIONS = LIST_OPTIONS
_DIGITS = 7


def recognises(root: Path, splits: Mapping[str, Mapping[str, Any]]) -> bool:
    """Whether `root` holds the images' folder and the labels' folder."""
    return (root / "RGB").is_dir() and (root / "GT" / "LABELS").is_dir()


def key_of(text: str, options: Mapping[str, Any]) -> str:
    """`RGB/0000012.png`, `0000012` or `12` -> `0000012`."""
    stem = Path(text).stem
    return stem.zfill(_DIGITS) if stem.isdigit() else stem


def listing(root: Path, split: str, options: Mapping[str, Any]) -> Listing:
    """Find the pairs of a split: those of its list, or all."""
    images = find(root / "RGB", IMAGE_EXTENSIONS)
    labels = find(root / "GT" / "LABELS", LABEL_EXTENSIONS, without=TRAIN_IDS_SUFFIX)
    listed, faults = read_list(root, options, key_of)
    result = pair(images, labels, listed, with_keys(options, key_of))
    return Listing(result.items, (*faults, *result.faults), result.skipped)
