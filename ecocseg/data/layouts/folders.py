"""A data set of the user's own: per split a folder of images and a folder of label files.

A label has its image's name (and folders below), each with a suffix if wanted:
`{images: photos/train, labels: masks/train, label_suffix: _mask}` pairs `photos/train/a/1.JPG`
with `masks/train/a/1_mask.png`. `labels: null` is a split of images without labels.
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
the folders that the splits' options `images` and `labels` name, with files of the same names"""
OPTIONS = LIST_OPTIONS | {"images", "labels", "image_suffix", "label_suffix"}


def recognises(root: Path, splits: Mapping[str, Mapping[str, Any]]) -> bool:
    """Whether `root` holds the images' folder of every split."""
    return all(
        options.get("images") and (root / str(options["images"])).is_dir()
        for options in splits.values()
    )


def key_of(text: str, options: Mapping[str, Any]) -> str:
    """Return a path below the images' folder (or with it in front) without suffix and extension."""
    path = Path(text)
    folder = Path(str(options["images"]))
    if path.is_relative_to(folder):
        path = path.relative_to(folder)
    if path.suffix.lower() in IMAGE_EXTENSIONS:
        path = path.with_suffix("")
    return path.as_posix().removesuffix(str(options.get("image_suffix") or ""))


def listing(root: Path, split: str, options: Mapping[str, Any]) -> Listing:
    """Find the pairs of a split: those of its list, or all."""
    if not options.get("images") or "labels" not in options:
        wrong = Fault(
            f"splits.{split}",
            "names no folder `images` or no folder `labels`",
            "name both in the data set's YAML (`labels: null` for images without labels)",
        )
        return Listing(faults=(wrong,))
    images = find(
        root / str(options["images"]),
        IMAGE_EXTENSIONS,
        str(options.get("image_suffix") or ""),
        whole_path=True,
    )
    labels = (
        find(
            root / str(options["labels"]),
            LABEL_EXTENSIONS,
            str(options.get("label_suffix") or ""),
            whole_path=True,
        )
        if options["labels"]
        else None
    )
    listed, faults = read_list(root, options, key_of)
    result = pair(images, labels, listed, options)
    return Listing(result.items, (*faults, *result.faults), result.skipped)
