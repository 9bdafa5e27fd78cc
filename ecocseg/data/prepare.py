"""Preparation: raw files in, the folder that training reads out.

Output per data set: `images/<split>/<key>`, `labels/<split>/<key>.png` (8-bit train ids),
`partitions/<name>.txt`, `overlay_<split>.png`, `manifest.parquet`, and last `dataset.json`. Every
file is complete or absent, so an interrupted preparation goes on with the files that are missing.
"""

import errno
import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from ecocseg.data.config import DatasetConfig
from ecocseg.data.layouts import LAYOUTS, Fault, Item, Listing, find_root
from ecocseg.data.layouts.base import keys_of_list
from ecocseg.data.manifest import (
    DATASET_FILE,
    MANIFEST_FILE,
    SCHEMA,
    Manifest,
    Row,
    load_manifest,
    read_description,
    write_manifest,
)
from ecocseg.data.overlay import write_overlay
from ecocseg.data.parallel import Progress, map_files
from ecocseg.data.verify import Rules, fail_on, list_splits, open_label, rules_of, verify_raw
from ecocseg.errors import DataError, UserError
from ecocseg.files import atomic_path, atomic_write, require_space, sha256_file
from ecocseg.version import RESULTS_VERSION

_STARTED = ".preparing.json"
_COPIED = {"PNG": ".png", "JPEG": ".jpg"}


@dataclass(frozen=True)
class _Common:
    """What every pair of a data set needs in preparation."""

    rules: Rules
    folder: Path
    size: tuple[int, int] | None
    keep_ratio: bool


@dataclass(frozen=True)
class _Task:
    item: Item
    split: str
    evaluate: bool


def preparation_digest(config: DatasetConfig, source: str) -> str:
    """Hash of all that decides the output; `source` stands for the raw files' content."""
    return hashlib.sha256(
        json.dumps([SCHEMA, RESULTS_VERSION, config.digest(), source]).encode()
    ).hexdigest()


def is_prepared(config: DatasetConfig, folder: Path, source: str = "") -> bool:
    """Whether `folder` holds the finished output of this configuration and these raw files."""
    description = read_description(folder)
    if description is None or description["digest"] != preparation_digest(config, source):
        return False
    if not (folder / MANIFEST_FILE).is_file():
        return False
    expected = [folder / f"overlay_{split}.png" for split in config.splits]
    expected += [folder / "partitions" / f"{name}.txt" for name in config.partitions]
    for row in load_manifest(folder).all_rows:
        expected += [row.image, row.label]
    return all(path.is_file() for path in expected)


def prepare(
    config: DatasetConfig,
    root: Path,
    folder: Path,
    *,
    source: str = "",
    partitions: Mapping[str, Path] | None = None,
    workers: int | None = None,
    progress: Progress | None = None,
    verified: bool = False,
) -> Manifest:
    """Write the prepared data set into `folder` and return its manifest.

    `root` is the raw folder, `source` a fingerprint of its content, `partitions` the raw list file
    of each partition. The result does not depend on the number of workers. Raises DataError with
    all faults (unless `verified`: then the caller has checked), UserError when the disk is full.
    """
    folder = Path(folder).absolute()
    if is_prepared(config, folder, source):
        return load_manifest(folder)
    if not verified:
        fail_on(verify_raw(config, root, workers))
    top = find_root(root, LAYOUTS[config.layout], config.splits) or root
    listings = list_splits(config, top)
    lists = _partition_keys(config, listings, partitions or {})
    require_space(folder, _bytes_needed(config, listings))
    digest = preparation_digest(config, source)
    _start(folder, digest)
    tasks = [
        _Task(item, split, config.evaluated(split))
        for split, listing in listings.items()
        for item in listing.items
    ]
    common = _Common(rules_of(config), folder, config.size, config.keep_ratio)
    with _full_disk(folder):
        rows = map_files(_prepare_item, common, tasks, workers, progress)
        for name, keys in lists.items():
            atomic_write(folder / "partitions" / f"{name}.txt", "".join(f"{k}\n" for k in keys))
        for split in listings:
            chosen = [row for row in rows if row.split == split]
            write_overlay(
                folder / f"overlay_{split}.png", f"{config.name}: {split}", config.table, chosen
            )
        manifest = write_manifest(folder, config.name, config.table, config.size, rows, digest)
    (folder / _STARTED).unlink()
    return manifest


def _start(folder: Path, digest: str) -> None:
    """Clear what another configuration or other raw files left, and half-written files."""
    started = folder / _STARTED
    described = read_description(folder) or {}
    before = json.loads(started.read_text()) if started.is_file() else described
    if before.get("digest") != digest:
        for name in ("images", "labels", "partitions"):
            shutil.rmtree(folder / name, ignore_errors=True)
        for path in folder.glob("overlay_*.png"):
            path.unlink()
    atomic_write(started, json.dumps({"digest": digest}))
    (folder / DATASET_FILE).unlink(missing_ok=True)
    for path in folder.rglob(".*.tmp*"):
        path.unlink(missing_ok=True)


@contextmanager
def _full_disk(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise UserError(
            f"{folder}: the disk is full ({error.strerror}); free some space, or point `data.root` "
            "(params.yaml) to another disk, and run again: what is done is kept"
        ) from error


def _bytes_needed(config: DatasetConfig, listings: Mapping[str, Listing]) -> int:
    """An upper estimate: a photograph's PNG takes about 2 bytes a pixel."""
    total = 0
    for listing in listings.values():
        for item in listing.items:
            stored = item.image.stat().st_size
            total += stored if config.size is None else 2 * config.size[0] * config.size[1]
            total += item.label.stat().st_size if item.label else 4096
    return total


def _partition_keys(
    config: DatasetConfig, listings: Mapping[str, Listing], files: Mapping[str, Path]
) -> dict[str, list[str]]:
    """Keys of each partition; DataError when a list names images that the split lacks."""
    layout = LAYOUTS[config.layout]
    lists, faults = {}, []
    for name, entry in config.partitions.items():
        split = entry["split"]
        path = files.get(name)
        if path is None or not path.is_file():
            faults.append(
                Fault(str(path or name), "the partition list is not there", "run the stage fetch")
            )
            continue
        keys = keys_of_list(path.read_text(), config.splits[split], layout.key_of)
        absent = sorted(set(keys) - {item.key for item in listings[split].items})
        if absent or not keys:
            what = f"names {len(absent)} images that the split {split} lacks, as {absent[:3]}"
            faults.append(
                Fault(
                    str(path),
                    what if keys else "the partition list is empty",
                    "complete the split's images, or drop this entry of `partitions` in the data "
                    "set's YAML",
                )
            )
        lists[name] = keys
    fail_on(faults)
    return lists


def _prepare_item(common: _Common, task: _Task) -> Row:
    """Write the image and label of one pair, unless they are there, and describe them."""
    item, folder = task.item, common.folder
    with Image.open(item.image) as picture:
        size = target_size((picture.height, picture.width), common.size, common.keep_ratio)
        as_is = (
            picture.format in _COPIED
            and picture.mode == "RGB"
            and size == (picture.height, picture.width)
        )
        suffix = _COPIED[str(picture.format)] if as_is else ".png"
        image = folder / "images" / task.split / f"{item.key}{suffix}"
        if not image.is_file():
            _write_image(picture, item.image, image, size, as_is)
    label = folder / "labels" / task.split / f"{item.key}.png"
    if not label.is_file():
        _write_label(common.rules, item, label, None if task.evaluate else size, size)
    with Image.open(label) as picture:
        ids = np.asarray(picture)
    pixels = np.bincount(ids.reshape(-1), minlength=256)[: len(common.rules.table.names)]
    return Row(
        split=task.split,
        key=item.key,
        image=image,
        label=label,
        image_size=size,
        label_size=(ids.shape[0], ids.shape[1]),
        image_sha256=sha256_file(image),
        label_sha256=sha256_file(label),
        pixels=tuple(pixels.tolist()),
    )


def target_size(
    size: tuple[int, int], wanted: tuple[int, int] | None, keep_ratio: bool
) -> tuple[int, int]:
    """Size (height, width) that an image of `size` is stored at.

    With `keep_ratio` it is the largest that fits inside `wanted`, whichever way the longer side
    lies (as mmcv's `imrescale`, which the published UDA recipes use).
    """
    if wanted is None:
        return size
    if not keep_ratio:
        return wanted
    scale = min(max(wanted) / max(size), min(wanted) / min(size))
    return int(size[0] * scale + 0.5), int(size[1] * scale + 0.5)


def _write_image(
    picture: Image.Image, source: Path, path: Path, size: tuple[int, int], as_is: bool
) -> None:
    with atomic_path(path) as temporary:
        if as_is:
            shutil.copyfile(source, temporary)
            return
        rgb = picture.convert("RGB")
        if (rgb.height, rgb.width) != size:
            rgb = rgb.resize((size[1], size[0]), Image.Resampling.BILINEAR)
        rgb.save(temporary, compress_level=3)


def _write_label(
    rules: Rules,
    item: Item,
    path: Path,
    stored: tuple[int, int] | None,
    image_size: tuple[int, int],
) -> None:
    """Write train ids at the size `stored`, None for the label's own; without a label all 255."""
    table = rules.table
    if item.label is None:
        ids = np.full(image_size, table.ignore, dtype=np.uint8)
    else:
        faults: list[Fault] = []
        raw = open_label(item.label, rules, faults)
        if raw is None:
            raise DataError(str(faults[0]))
        mapped = table.encode_colors(raw.astype(np.uint8)) if rules.colors else table.lookup[raw]
        if mapped.min() < 0:
            raise DataError(f"{item.label}: changed since it was verified; run preprocess again")
        ids = mapped.astype(np.uint8)
    picture = Image.fromarray(ids)
    if stored is not None and ids.shape != stored:
        picture = picture.resize((stored[1], stored[0]), Image.Resampling.NEAREST)
    with atomic_path(path) as temporary:
        picture.save(temporary)
