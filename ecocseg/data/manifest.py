"""The prepared data set as training reads it: `dataset.json` and `manifest.parquet`.

`dataset.json` is written last: its presence means that everything else is there.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from ecocseg.data.classes import ClassTable
from ecocseg.errors import DataError
from ecocseg.files import atomic_path, atomic_write

SCHEMA = 3
DATASET_FILE = "dataset.json"
MANIFEST_FILE = "manifest.parquet"


def processed_dir(data_root: Path, name: str) -> Path:
    """Return the folder of a prepared data set."""
    return Path(data_root) / "processed" / name


def partition_file(folder: Path, name: str) -> Path:
    """Where a prepared data set keeps a list of labelled images."""
    return Path(folder) / "partitions" / f"{name}.txt"


@dataclass(frozen=True, slots=True)
class Row:
    """One prepared pair; sizes are (height, width) in pixels.

    An image is read at `image_size`; its file is smaller where reading enlarges it.
    """

    split: str
    key: str
    image: Path
    label: Path
    image_size: tuple[int, int]
    label_size: tuple[int, int]
    raw_size: tuple[int, int]
    """Of the raw label (without one: of the raw image); a stored pixel stands for raw area / stored
    area original ones."""
    image_sha256: str
    label_sha256: str
    pixels: tuple[int, ...]
    """Pixels of each train id in the stored label, N numbers."""
    frames: int = 1
    """Images in the image file, one above the other: 2 for the pairs of change detection."""


@dataclass(frozen=True)
class Manifest:
    """A prepared data set."""

    folder: Path
    name: str
    classes: ClassTable
    fingerprint: str
    """SHA-256 over class names and every row with its checksums: equal data, equal fingerprint."""
    size: tuple[int, int] | None
    all_rows: tuple[Row, ...] = field(repr=False)

    @property
    def names(self) -> tuple[str, ...]:
        """Class names in train id order."""
        return self.classes.names

    @cached_property
    def splits(self) -> dict[str, int]:
        """Split name -> number of images."""
        counts: dict[str, int] = {}
        for row in self.all_rows:
            counts[row.split] = counts.get(row.split, 0) + 1
        return counts

    def rows(self, split: str) -> list[Row]:
        """Rows of a split in order of their keys; DataError when there is no such split."""
        rows = [row for row in self.all_rows if row.split == split]
        if not rows:
            raise DataError(
                f"{self.folder}: no split {split!r}, there are {', '.join(self.splits)}; "
                "name one of them, or add it to the data set's YAML and run preprocess"
            )
        return rows

    def pixels(self, split: str) -> tuple[int, ...]:
        """Pixels of each class over a split, N numbers: the statistics of rare class sampling."""
        counts = [row.pixels for row in self.rows(split)]
        return tuple(sum(column) for column in zip(*counts, strict=True))

    def partition(self, name: str) -> list[str]:
        """Keys of a published list of labelled images, in its order."""
        path = partition_file(self.folder, name)
        if not path.is_file():
            there = sorted(path.stem for path in path.parent.glob("*.txt"))
            raise DataError(
                f"{path}: no such partition, there are {', '.join(there) or 'none'}; add it to "
                "`partitions` in the data set's YAML and run fetch and preprocess"
            )
        return path.read_text().split("\n")[:-1]


def fingerprint(names: Sequence[str], rows: Sequence[Row]) -> str:
    """Hash of the schema, the class names and the rows' contents; paths and colours stay out."""
    content = [SCHEMA, list(names)] + [
        [
            row.split,
            row.key,
            row.image_size,
            row.label_size,
            row.raw_size,
            row.image_sha256,
            row.label_sha256,
            row.pixels,
            row.frames,
        ]
        for row in rows
    ]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def write_manifest(
    folder: Path,
    name: str,
    table: ClassTable,
    size: tuple[int, int] | None,
    rows: Sequence[Row],
    digest: str,
    partitions: Sequence[str] = (),
) -> Manifest:
    """Write `manifest.parquet`, then `dataset.json`, and return what they say.

    `partitions` are the names of the lists of labelled images that were written.
    """
    import pyarrow
    import pyarrow.parquet

    columns: dict[str, Any] = {
        "split": [row.split for row in rows],
        "key": [row.key for row in rows],
        "image": [row.image.relative_to(folder).as_posix() for row in rows],
        "label": [row.label.relative_to(folder).as_posix() for row in rows],
    }
    for column, place in (("height", 0), ("width", 1)):
        for kind in ("image", "label", "raw"):
            sizes = [getattr(row, f"{kind}_size")[place] for row in rows]
            columns[f"{kind}_{column}"] = pyarrow.array(sizes, pyarrow.int32())
    columns |= {
        "image_sha256": [row.image_sha256 for row in rows],
        "label_sha256": [row.label_sha256 for row in rows],
        "pixels": pyarrow.array([row.pixels for row in rows], pyarrow.list_(pyarrow.int64())),
        "frames": pyarrow.array([row.frames for row in rows], pyarrow.int8()),
    }
    with atomic_path(folder / MANIFEST_FILE) as temporary:
        pyarrow.parquet.write_table(pyarrow.table(columns), temporary)
    manifest = Manifest(folder, name, table, fingerprint(table.names, rows), size, tuple(rows))
    description = {
        "schema": SCHEMA,
        "name": name,
        "classes": {"names": table.names, "colors": table.colors, "ignore": table.ignore},
        "size": size,
        "fingerprint": manifest.fingerprint,
        "splits": manifest.splits,
        "pixels": {split: manifest.pixels(split) for split in manifest.splits},
        "digest": digest,
        "partitions": list(partitions),
    }
    atomic_write(folder / DATASET_FILE, json.dumps(description, indent=1) + "\n")
    return manifest


def read_description(folder: Path) -> Mapping[str, Any] | None:
    """Read `dataset.json`; None when it is not there or of another schema."""
    path = Path(folder) / DATASET_FILE
    if not path.is_file():
        return None
    try:
        description = json.loads(path.read_text())
    except ValueError as error:
        raise DataError(f"{path}: no JSON ({error}); remove it and run preprocess again") from error
    return description if description.get("schema") == SCHEMA else None


def read_fingerprint(folder: Path) -> str:
    """Fingerprint of a prepared data set, without its rows; DataError when there is none."""
    description = read_description(folder)
    if description is None:
        raise _not_prepared(folder)
    return str(description["fingerprint"])


def _not_prepared(folder: Path) -> DataError:
    return DataError(
        f"{folder}: no prepared data set (no {DATASET_FILE} of schema {SCHEMA}, or no "
        f"{MANIFEST_FILE}); run the stages fetch and preprocess"
    )


def load_manifest(folder: Path) -> Manifest:
    """Read a prepared data set; DataError when preparation has not finished there."""
    import pyarrow.parquet

    folder = Path(folder).absolute()
    description = read_description(folder)
    if description is None or not (folder / MANIFEST_FILE).is_file():
        raise _not_prepared(folder)
    table = pyarrow.parquet.read_table(folder / MANIFEST_FILE)
    columns = {name: table[name].to_pylist() for name in table.column_names if name != "pixels"}
    sizes = {
        kind: list(zip(columns[f"{kind}_height"], columns[f"{kind}_width"], strict=True))
        for kind in ("image", "label", "raw")
    }
    # Lists of numbers are slow to make one by one.
    pixels = table["pixels"].combine_chunks().flatten().to_numpy().reshape(len(table), -1)
    rows = [
        Row(
            split=columns["split"][place],
            key=columns["key"][place],
            image=folder / columns["image"][place],
            label=folder / columns["label"][place],
            image_size=sizes["image"][place],
            label_size=sizes["label"][place],
            raw_size=sizes["raw"][place],
            image_sha256=columns["image_sha256"][place],
            label_sha256=columns["label_sha256"][place],
            pixels=tuple(counts),
            frames=columns["frames"][place],
        )
        for place, counts in enumerate(pixels.tolist())
    ]
    classes = description["classes"]
    names = tuple(classes["names"])
    class_table = ClassTable(
        names=names,
        colors=tuple(tuple(color) for color in classes["colors"]),
        ids={index: index for index in range(len(names))} | {classes["ignore"]: classes["ignore"]},
        ignore=classes["ignore"],
    )
    size = tuple(description["size"]) if description["size"] else None
    return Manifest(
        folder, description["name"], class_table, description["fingerprint"], size, tuple(rows)
    )
