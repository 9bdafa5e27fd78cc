"""Pascal VOC 2012 with the additional labels of SBD (Hariharan et al., 2011).

Source: VOCtrainval_11-May-2012.tar. SBD's labels lie beside its class folder as the common
`SegmentationClassAug` (8-bit PNGs), or as SBD's own archive, benchmark_RELEASE/dataset/cls/*.mat.
The blended training split holds every labelled image that is not in val: 10,582 of them. Where an
image has a label of VOC's own and one in SBD's archive, VOC's is taken: it marks the boundary (255)
and is the better one (the semi-supervised papers call these 1,464 labels high-quality). A folder
that somebody has blended is taken as it is: `SegmentationClassAug`, or the SegmentationClass that
UniMatch releases in place of VOC's.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ecocseg.data.layouts.base import (
    IMAGE_EXTENSIONS,
    LABEL_EXTENSIONS,
    LIST_OPTIONS,
    Fault,
    Found,
    Listing,
    find,
    keys_of_list,
    pair,
    read_list,
)

TREE = """\
VOCdevkit/VOC2012/ (or this folder itself) with
JPEGImages/2007_000032.jpg ..., SegmentationClass/2007_000032.png ...,
ImageSets/Segmentation/train.txt, val.txt, and for the blended training split (here or above)
SegmentationClassAug/2007_000032.png ... or benchmark_RELEASE/dataset/cls/*.mat"""
OPTIONS = LIST_OPTIONS | {"set"}
"""`set`: train or val (VOC's own lists and labels) or blended (every label but val's); the split's
name if left out."""
_SETS = ("train", "val", "blended")
_LISTS = Path("ImageSets/Segmentation")
_AUGMENTED, _SBD = "SegmentationClassAug", Path("benchmark_RELEASE/dataset/cls")


def recognises(root: Path, splits: Mapping[str, Mapping[str, Any]]) -> bool:
    """Whether `root` holds the images' folder and the lists."""
    return (root / "JPEGImages").is_dir() and (root / _LISTS).is_dir()


def key_of(text: str, options: Mapping[str, Any]) -> str:
    """`JPEGImages/2007_000032.jpg`, `2007_000032` -> `2007_000032`."""
    return Path(text).stem


def listing(root: Path, split: str, options: Mapping[str, Any]) -> Listing:
    """Find the pairs of a split."""
    chosen = str(options.get("set") or split)
    if chosen not in _SETS:
        wrong = f"set: got {chosen!r}, allowed {', '.join(_SETS)}"
        return Listing(faults=(Fault(f"splits.{split}", wrong, "name one in the YAML"),))
    images = find(root / "JPEGImages", IMAGE_EXTENSIONS)
    own = find(root / "SegmentationClass", LABEL_EXTENSIONS)
    listed, faults = read_list(root, options, key_of)
    labels = own
    if chosen == "blended":
        vocs = {name: _list(root, name, faults) for name in ("train", "val")}
        labels = _blended(root, own, {*vocs["train"], *vocs["val"]}, faults)
        if listed is None:
            listed = sorted(labels.files.keys() - set(vocs["val"]))
    elif listed is None:
        listed = _list(root, chosen, faults)
    result = pair(images, labels, listed, options)
    return Listing(result.items, (*faults, *result.faults), result.skipped)


def _list(root: Path, name: str, faults: list[Fault]) -> list[str]:
    """Keys of one of VOC's own lists."""
    path = root / _LISTS / f"{name}.txt"
    if not path.is_file():
        faults.append(Fault(str(path), "the split list is not there", "unpack VOC's archive again"))
        return []
    return keys_of_list(path.read_text(encoding="utf-8"), {}, key_of)


def _blended(root: Path, own: Found, vocs: set[str], faults: list[Fault]) -> Found:
    """Labels of VOC and SBD by key; `vocs` are the images that VOC itself labels."""
    folders = [root, *list(root.absolute().parents)[:2]]
    for folder in folders:
        if (folder / _AUGMENTED).is_dir():
            return find(folder / _AUGMENTED, LABEL_EXTENSIONS)
    for folder in folders:
        if (folder / _SBD).is_dir():
            files = find(folder / _SBD, frozenset({".mat"})).files | own.files
            return Found(folder / _SBD, files)
    if not own.files.keys() - vocs:
        faults.append(
            Fault(
                str(root / _AUGMENTED),
                "SBD's labels are not there: of the 10,582 training images 1,464 have a label",
                f"put the folder {_AUGMENTED} here, or unpack SBD's benchmark.tgz beside VOCdevkit",
            )
        )
    return own
