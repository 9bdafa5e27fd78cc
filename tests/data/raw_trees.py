"""Small data sets in the exact file layouts of the real ones, for tests of data and stages."""

import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from png_writer import write_png16

from ecocseg.data.config import DatasetConfig

HEIGHT, WIDTH = 24, 32
# Cityscapes label ids: void, road, sidewalk, building, pole, vegetation, sky, car, bicycle
LABEL_IDS = (0, 7, 8, 11, 17, 21, 23, 26, 33)
# SYNTHIA ids: void, sky, building, road, pole, car, traffic light, wall, lane marking
SYNTHIA_IDS = (0, 1, 2, 3, 7, 8, 15, 21, 22)


def photo(seed: int, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def labels(seed: int, values: tuple[int, ...], height: int = HEIGHT, width: int = WIDTH) -> Any:
    """Vertical bars that hold every one of `values`, in an order drawn by the seed."""
    order = np.random.default_rng(seed).permutation(values).astype(np.uint8)
    return np.tile(order[np.arange(width) * len(values) // width], (height, 1))


def save(path: Path, array: np.ndarray, mode: str | None = None, palette: Any = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.fromarray(array)
    if palette is not None:
        picture = Image.frombytes("P", picture.size, array.tobytes())
        picture.putpalette(palette)
    elif mode:
        picture = picture.convert(mode)
    picture.save(path)
    return path


def cityscapes(root: Path, counts: Mapping[str, int], suffix: str = "labelIds") -> list[str]:
    """Write leftImg8bit and gtFine with two cities per split; return the keys in their order."""
    values = LABEL_IDS if suffix == "labelIds" else (0, 1, 2, 5, 8, 10, 13, 18, 255)
    keys = []
    for split, count in counts.items():
        for index in range(count):
            city = ("aachen", "ulm")[index % 2]
            key = f"{city}_{index:06d}_000019"
            keys.append(key)
            save(root / f"leftImg8bit/{split}/{city}/{key}_leftImg8bit.png", photo(index))
            label = root / f"gtFine/{split}/{city}/{key}_gtFine_{suffix}.png"
            save(label, labels(index, values))
            # The archive holds these beside the ids; they are no labels for training.
            save(label.with_name(f"{key}_gtFine_instanceIds.png"), labels(index, (1, 2)))
            save(label.with_name(f"{key}_gtFine_color.png"), photo(index), "RGBA")
            label.with_name(f"{key}_gtFine_polygons.json").write_text("{}")
    return sorted(keys)


def gta(root: Path, count: int, gray: bool = False) -> None:
    """Write GTAv's images and palette labels, whose colours differ from their indices."""
    palette = [(3 * index + 40) % 256 for index in range(768)]
    for index in range(1, count + 1):
        save(root / f"images/{index:05d}.png", photo(index))
        array = labels(index, (*LABEL_IDS, 34))
        save(root / f"labels/{index:05d}.png", array, palette=None if gray else palette)


def synthia(root: Path, count: int, channels: int = 3) -> None:
    """Write SYNTHIA's images and 16-bit labels: class, instance and, as wanted, more channels.

    Instances are numbers that would be other classes, and above 255 too.
    """
    for index in range(count):
        save(root / f"RGB/{index:07d}.png", photo(index))
        stack = np.zeros((HEIGHT, WIDTH, channels), dtype=np.uint16)
        stack[..., 0] = labels(index, SYNTHIA_IDS)
        stack[..., 1] = (stack[..., 0] + 3) % 22 + 256 * (np.arange(WIDTH) % 3)
        stack[..., 2:] = 65535
        write_png16(root / f"GT/LABELS/{index:07d}.png", stack)
        # The archive holds these beside: no labels for training.
        save(root / f"GT/COLOR/{index:07d}.png", photo(index))
        save(root / f"Depth/Depth/{index:07d}.png", photo(index))


def camvid(
    root: Path, counts: Mapping[str, int], extension: str = ".png", prefix: str = "/SegNet/CamVid/"
) -> None:
    """Write SegNet's CamVid with its lists."""
    for split, count in counts.items():
        lines = []
        for index in range(count):
            name = f"0001TP_{index:06d}"
            save(root / split / f"{name}{extension}", photo(index))
            save(root / f"{split}annot" / f"{name}.png", labels(index, tuple(range(12))))
            lines.append(f"{prefix}{split}/{name}{extension} {prefix}{split}annot/{name}.png\n")
        (root / f"{split}.txt").write_text("".join(lines))


def voc(
    root: Path, blended: int, val: int, own: int = 1, sbd: str = "png", size: Any = (24, 32)
) -> list[str]:
    """Write VOC 2012 with `blended` training images, `own` of which are in train.txt; their keys.

    SBD's labels as `SegmentationClassAug` ("png") or as its own archive's files ("mat"), which know
    no boundary. VOC's own labels are palette files with 255 on one column.
    """
    from scipy.io import savemat

    top = root / "VOCdevkit/VOC2012"
    palette = [(5 * index + 3) % 256 for index in range(768)]
    keys = [f"2008_{index:06d}" for index in range(blended)]
    held_out = [f"2009_{index:06d}" for index in range(val)]
    values = (0, 1, 9, 15, 20)
    for index, key in enumerate([*keys, *held_out]):
        save(top / f"JPEGImages/{key}.jpg", photo(index, *size))
        label = labels(index, values, *size)
        marked = label.copy()
        marked[:, 4] = 255
        if key in keys[:own] or key in held_out:
            save(top / f"SegmentationClass/{key}.png", marked, palette=palette)
        if sbd == "png":
            save(top / f"SegmentationClassAug/{key}.png", label)
        elif key not in keys[: own // 2]:
            path = root / f"benchmark_RELEASE/dataset/cls/{key}.mat"
            path.parent.mkdir(parents=True, exist_ok=True)
            savemat(path, {"GTcls": {"Segmentation": label, "Boundaries": 0}})
    lists = top / "ImageSets/Segmentation"
    lists.mkdir(parents=True, exist_ok=True)
    (lists / "train.txt").write_text("".join(f"{key}\n" for key in keys[:own]))
    (lists / "val.txt").write_text("".join(f"{key}\n" for key in held_out))
    return keys


COCO_CATEGORIES = [n for n in range(1, 91) if n not in (12, 26, 29, 30, 45, 66, 68, 69, 71, 83)]
"""Ids of COCO's 80 categories, with their gaps."""


def coco(root: Path, counts: Mapping[str, int], size: tuple[int, int] = (24, 32)) -> None:
    """Write COCO 2017: of three images one has two overlapping instances, one a crowd, one none."""
    height, width = size
    for split, count in counts.items():
        images, annotations = [], []
        for index in range(count):
            number = 1000 * len(split) + index
            name = f"{number:012d}.jpg"
            save(root / f"{split}2017/{name}", photo(index, *size))
            images.append({"id": number, "file_name": name, "height": height, "width": width})
            if index % 3 == 0:
                big = [0, 0, 16, 0, 16, 16, 0, 16]
                annotations.append(instance(number, COCO_CATEGORIES[index % 80], [big], 256))
                small = [8, 8, 14, 8, 14, 14, 8, 14]
                annotations.append(instance(number, 90, [small], 36))
            if index % 3 == 1:
                runs = {"counts": [height * 4, height * 20, height * 8], "size": [height, width]}
                annotations.append(instance(number, 1, runs, 9000, crowd=1))
                annotations.append(instance(number, 13, [[0, 0, 8, 0, 8, 8, 0, 8]], 64))
        content = {
            "images": images,
            "annotations": [{"id": n, **each} for n, each in enumerate(annotations)],
            "categories": [{"id": n, "name": f"thing {n}"} for n in COCO_CATEGORIES],
        }
        path = root / f"annotations/instances_{split}2017.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content))


def instance(image: int, category: int, shape: Any, area: int, crowd: int = 0) -> dict[str, Any]:
    return {
        "image_id": image,
        "category_id": category,
        "segmentation": shape,
        "area": area,
        "iscrowd": crowd,
    }


def acdc(root: Path, slices: Mapping[str, int], volumes: Mapping[str, int]) -> None:
    """Write SSL4MIS's ACDC: patient -> number of slices, of one frame; volumes are not square."""
    for patient, depth in [*slices.items(), *volumes.items()]:
        stem = f"patient{patient}_frame01"
        for place in range(depth):
            seed = int(patient) * 100 + place
            image = np.random.default_rng(seed).random((20, 28)).astype(np.float32)
            label = labels(seed, (0, 1, 2, 3), 20, 28)
            if patient in slices:
                path = root / f"data/slices/{stem}_slice_{place + 1}.h5"
                write_h5(path, image, label)
        if patient in volumes:
            images = np.random.default_rng(int(patient)).random((depth, 20, 28))
            stack = [labels(int(patient) * 100 + d, (0, 1, 2, 3), 20, 28) for d in range(depth)]
            write_h5(root / f"data/{stem}.h5", images.astype(np.float32), np.stack(stack))


def acdc_original(root: Path, frames: Mapping[str, tuple[int, int]]) -> None:
    """Write the challenge's files: patient -> its two annotated frames; volumes are 28x20x3."""
    import nibabel

    for patient, numbers in frames.items():
        folder = root / f"patient{patient}"
        folder.mkdir(parents=True)
        for frame in numbers:
            random = np.random.default_rng(100 * int(patient) + frame)
            stem = f"patient{patient}_frame{frame:02d}"
            for name, values in (
                (stem, random.integers(30, 700, (28, 20, 3)).astype(np.int16)),
                (f"{stem}_gt", random.integers(0, 4, (28, 20, 3)).astype(np.uint8)),
            ):
                nibabel.save(nibabel.Nifti1Image(values, np.eye(4)), folder / f"{name}.nii.gz")
        # All frames as a film: no annotated frame.
        nibabel.save(
            nibabel.Nifti1Image(np.zeros((4, 4, 2, 3), dtype=np.int16), np.eye(4)),
            folder / f"patient{patient}_4d.nii.gz",
        )


def write_h5(path: Path, image: np.ndarray, label: np.ndarray) -> None:
    import h5py

    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        file["image"] = image
        file["label"] = label


def whu_cd(root: Path, counts: Mapping[str, int], size: tuple[int, int] = (24, 32)) -> list[str]:
    """Write WHU-CD's tiles and a list of each split; every third pair is unchanged."""
    names, number = [], 0
    for split, count in counts.items():
        lines = []
        for _ in range(count):
            name = f"whucd_{number:05d}.png"
            for place, folder in enumerate(("A", "B")):
                save(root / folder / name, photo(2 * number + place, *size))
            mask = np.zeros(size, dtype=np.uint8)
            if number % 3:
                mask[4:12, 6:20] = 255
            save(root / "label" / name, mask)
            lines.append(f"{name}\n")
            names.append(name)
            number += 1
        (root / f"{split}.txt").write_text("".join(lines))
    return names


def config(which: str, /, **changes: Any) -> DatasetConfig:
    """Return a small configuration of one of the layouts."""
    base: dict[str, dict[str, Any]] = {
        "cityscapes": {
            "classes": "cityscapes19",
            "splits": {"train": {}, "val": {"evaluate": True}},
        },
        "gta": {"classes": "gta19", "splits": {"train": {}}},
        "synthia": {
            "classes": "synthia19",
            "label_values": "first_channel",
            "splits": {"train": {}},
        },
        "camvid": {"classes": "camvid11", "splits": {"train": {}, "val": {"evaluate": True}}},
        "voc": {
            "classes": "pascal21",
            "splits": {"train": {"set": "blended"}, "val": {"evaluate": True}},
        },
        "coco": {"classes": "coco81", "splits": {"train": {}, "val": {"evaluate": True}}},
        "acdc": {
            "classes": "acdc4",
            "splits": {
                "train": {"without": ["007"]},
                "test": {"volumes": True, "patients": ["007"], "evaluate": True},
            },
        },
        "whu_cd": {
            "classes": "whu_cd2",
            "splits": {
                "train": {"list": "train.txt"},
                "test": {"list": "test.txt", "evaluate": True},
            },
        },
        "folders": {
            "classes": {"names": ["floor", "wall"]},
            "splits": {"train": {"images": "photos", "labels": "masks"}},
        },
    }
    return DatasetConfig.from_mapping({"name": which, "layout": which, **base[which], **changes})


def zipped(folder: Path, path: Path, below: str = "") -> Path:
    """Pack a folder's files, below the folder `below` of the archive."""
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(folder.rglob("*")):
            if file.is_file():
                archive.write(file, Path(below) / file.relative_to(folder))
    return path
