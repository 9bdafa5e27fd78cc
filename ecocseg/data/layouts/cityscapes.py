"""Cityscapes as its archives leftImg8bit_trainvaltest.zip and gtFine_trainvaltest.zip unpack.

Source: https://www.cityscapes-dataset.com (Cordts et al., 2016). Labels are `*_gtFine_labelIds.png`
(ids 0..33); `*_gtFine_labelTrainIds.png`, which cityscapesScripts makes, are read on demand.
"""

from collections.abc import Mapping
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
leftImg8bit/{train,val}/<city>/<city>_<seq>_<frame>_leftImg8bit.png
gtFine/{train,val}/<city>/<city>_<seq>_<frame>_gtFine_labelIds.png"""
OPTIONS = LIST_OPTIONS | {"folder", "labels"}
"""`folder`: train, val ... (the split's name if left out); `labels`: labelIds or labelTrainIds."""
LABELS = ("labelIds", "labelTrainIds")
_IMAGE = "_leftImg8bit"


def recognises(root: Path, splits: Mapping[str, Mapping[str, Any]]) -> bool:
    """Whether `root` holds the images' folder and the labels' folder."""
    return (root / "leftImg8bit").is_dir() and (root / "gtFine").is_dir()


def key_of(text: str, options: Mapping[str, Any]) -> str:
    """`leftImg8bit/train/ulm/ulm_000001_000019_leftImg8bit.png` -> `ulm_000001_000019`."""
    stem = Path(text).name.partition(".")[0]
    return stem.removesuffix(_IMAGE).partition("_gtFine_")[0]


def listing(root: Path, split: str, options: Mapping[str, Any]) -> Listing:
    """Find the pairs of a split over all its cities."""
    folder = str(options.get("folder") or split)
    kind = str(options.get("labels") or LABELS[0])
    if kind not in LABELS:
        wrong = Fault(f"splits.{split}.labels", f"got {kind!r}", f"allowed are {', '.join(LABELS)}")
        return Listing(faults=(wrong,))
    images = find(root / "leftImg8bit" / folder, IMAGE_EXTENSIONS, _IMAGE)
    labels = find(root / "gtFine" / folder, LABEL_EXTENSIONS, f"_gtFine_{kind}")
    other = LABELS[1 - LABELS.index(kind)]
    if images.files and not labels.files and not labels.faults:
        there = find(root / "gtFine" / folder, LABEL_EXTENSIONS, f"_gtFine_{other}").files
        remedy = (
            f"*_gtFine_{other}.png are there: set the split option `labels: {other}` and the class "
            f"table `{'cityscapes19_train_ids' if other == LABELS[1] else 'cityscapes19'}`"
            if there
            else "unpack gtFine_trainvaltest.zip beside leftImg8bit"
        )
        wrong = Fault(str(labels.folder), f"no *_gtFine_{kind}.png is there", remedy)
        return Listing(faults=(wrong,))
    listed, faults = read_list(root, options, key_of)
    result = pair(images, labels, listed, options)
    return Listing(result.items, (*faults, *result.faults), result.skipped)
