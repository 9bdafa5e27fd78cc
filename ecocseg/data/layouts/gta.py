"""GTAv (Richter et al., 2016) as its archives 01_images.zip ... 10_labels.zip unpack together.

Source: https://download.visinf.tu-darmstadt.de/data/from_games/. Labels are palette PNGs whose
indices are Cityscapes label ids (34 is the licence plate). Copies differ from the 24,966 frames of
the official list, in which case a `list` wants `missing: skip`: some hold 24,941 (02154-02158,
04634-04637, 07115-07119, 09683-09688 and 12050-12054 are not there). Most frames have 1914x1052
pixels, some a few less, and a label of another size than its frame has been reported: verification
names such pairs, `exclude` leaves them out. 15188 and 17705 are all black or white with sound
labels; the published UDA code trains on them.
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
    labels = find(root / "labels", LABEL_EXTENSIONS, without=TRAIN_IDS_SUFFIX)
    listed, faults = read_list(root, options, key_of)
    result = pair(images, labels, listed, with_keys(options, key_of))
    return Listing(result.items, (*faults, *result.faults), result.skipped)
