"""COCO 2017 (Lin et al., 2014): labels drawn from the instance annotations.

Source: https://cocodataset.org, train2017.zip, val2017.zip, annotations_trainval2017.zip. 80
categories and background; how instances become a label says `ecocseg/data/instances.py`.
"""

import json
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from ecocseg.data.instances import instance_text
from ecocseg.data.layouts.base import (
    IMAGE_EXTENSIONS,
    LIST_OPTIONS,
    Fault,
    Item,
    Listing,
    find,
    read_list,
    with_keys,
)
from ecocseg.errors import DataError

TREE = """\
train2017/000000000009.jpg ..., val2017/000000000139.jpg ...,
annotations/instances_train2017.json, annotations/instances_val2017.json"""
OPTIONS = LIST_OPTIONS | {"folder"}
"""`folder`: train2017 or val2017 (the split's name and 2017 if left out)."""
_COPY = "download annotations_trainval2017.zip again"


def recognises(root: Path, splits: Mapping[str, Mapping[str, Any]]) -> bool:
    """Whether `root` holds the annotations and the images of one of the splits."""
    folders = [_folder(split, options) for split, options in splits.items()]
    return (root / "annotations").is_dir() and any((root / name).is_dir() for name in folders)


def key_of(text: str, options: Mapping[str, Any]) -> str:
    """`train2017/000000177254.jpg`, `000000177254` -> `000000177254`."""
    return Path(text).stem


def _folder(split: str, options: Mapping[str, Any]) -> str:
    return str(options.get("folder") or f"{split}2017")


def listing(root: Path, split: str, options: Mapping[str, Any]) -> Listing:
    """Find the images of a split and their instances; one without any is background."""
    folder = _folder(split, options)
    images = find(root / folder, IMAGE_EXTENSIONS)
    if images.faults:
        return Listing(faults=tuple(images.faults))
    path = root / "annotations" / f"instances_{folder}.json"
    try:
        stamp = path.stat().st_mtime_ns if path.is_file() else 0
        instances = _instances(path, stamp)
    except DataError as error:
        return Listing(faults=(Fault(str(path), str(error), _COPY),))
    listed, faults = read_list(root, options, key_of)
    excluded = set(with_keys(options, key_of)["exclude"])
    wanted = sorted(set(instances if listed is None else listed) - excluded)
    items, skipped = [], 0
    for key in wanted:
        image = images.files.get(key)
        if image is not None and key in instances:
            items.append(Item(key, image, path, objects=instances[key]))
        elif options.get("missing") == "skip":
            skipped += 1
        else:
            problem = "the image is not there, and its annotations are"
            if key not in instances:
                problem = f"is in the split's list, and {path.name} does not know it"
            faults.append(
                Fault(
                    str(root / folder / f"{key}.jpg"),
                    problem,
                    "copy it again, or leave it out with the split option `exclude` (or `missing: "
                    "skip` for all such)",
                )
            )
    return Listing(tuple(items), tuple(faults), skipped)


@lru_cache(maxsize=2)
def _instances(path: Path, stamp: int) -> dict[str, str]:
    """Key -> instances of every image of an annotation file, whose time is `stamp`.

    Kept, as it is read to verify and to prepare. Raises DataError, told without the file's name.
    """
    if not stamp:
        raise DataError("the annotations are not there")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        categories = sorted(each["id"] for each in content["categories"])
        classes = {category: place for place, category in enumerate(categories, start=1)}
        sizes = {each["id"]: (each["height"], each["width"]) for each in content["images"]}
        names = {each["id"]: Path(each["file_name"]).stem for each in content["images"]}
        of_image: dict[int, list[Any]] = {number: [] for number in sizes}
        for each in content["annotations"]:
            of_image[each["image_id"]].append(each)
        return {
            names[number]: instance_text(sizes[number], found, classes)
            for number, found in of_image.items()
        }
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"is no file of instance annotations ({error!r})") from error
