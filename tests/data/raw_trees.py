"""Small data sets in the exact file layouts of the real ones, for tests of data and stages."""

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
