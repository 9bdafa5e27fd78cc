"""Preparation: raw files in, the folder that training reads out.

Output per data set: `images/<split>/<key>`, `labels/<split>/<key>.png` (8-bit train ids),
`partitions/<name>.txt`, `overlay_<split>.png`, `manifest.parquet`, and last `dataset.json`. Every
file is complete or absent, so an interrupted preparation goes on with the files that are missing.
"""

import errno
import hashlib
import json
import logging
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ecocseg.data.config import DatasetConfig
from ecocseg.data.labels import Rules
from ecocseg.data.layouts import LAYOUTS, Fault, Item, Listing, find_root
from ecocseg.data.layouts.base import keys_of_list
from ecocseg.data.manifest import (
    DATASET_FILE,
    MANIFEST_FILE,
    SCHEMA,
    Manifest,
    Row,
    load_manifest,
    partition_file,
    read_description,
    write_manifest,
)
from ecocseg.data.overlay import write_overlay
from ecocseg.data.parallel import Progress, map_files
from ecocseg.data.readers import open_frames, open_item_label, raw_label_size
from ecocseg.data.resize import resize_image, resize_label, stored_size, target_size
from ecocseg.data.verify import fail_on, list_splits, rules_of, verify_raw
from ecocseg.data.volumes import is_volume
from ecocseg.errors import DataError, UserError
from ecocseg.files import atomic_path, atomic_write, require_space, sha256_file
from ecocseg.version import RESULTS_VERSION

log = logging.getLogger(__name__)

_STARTED = ".preparing.json"
_COPIED = {"PNG": ".png", "JPEG": ".jpg"}


@dataclass(frozen=True)
class _Common:
    """What every pair of a data set needs in preparation."""

    rules: Rules
    folder: Path
    size: tuple[int, int] | None
    keep_ratio: bool
    resize: str


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
    expected += [partition_file(folder, name) for name in description["partitions"]]
    if not all(path.is_file() for path in expected):
        return False
    # Folders are listed: asking for each of tens of thousands of files is slow on a network disk.
    there = {
        os.path.join(parent, name)
        for kind in ("images", "labels")
        for parent, _, names in os.walk(folder.absolute() / kind, followlinks=True)
        for name in names
    }
    rows = load_manifest(folder).all_rows
    return all(str(row.image) in there and str(row.label) in there for row in rows)


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
    _warn_of_counts(config, listings)
    require_space(folder, _bytes_needed(config, listings))
    digest = preparation_digest(config, source)
    _start(folder, digest)
    tasks = [
        _Task(item, split, config.evaluated(split))
        for split, listing in listings.items()
        for item in listing.items
    ]
    common = _Common(rules_of(config), folder, config.size, config.keep_ratio, config.resize)
    with _full_disk(folder):
        rows = map_files(_prepare_item, common, tasks, workers, progress)
        for name, keys in lists.items():
            atomic_write(partition_file(folder, name), "".join(f"{k}\n" for k in keys))
        for split in listings:
            chosen = [row for row in rows if row.split == split]
            write_overlay(
                folder / f"overlay_{split}.png", f"{config.name}: {split}", config.table, chosen
            )
        manifest = write_manifest(
            folder, config.name, config.table, config.size, rows, digest, sorted(lists)
        )
    (folder / _STARTED).unlink()
    return manifest


def _warn_of_counts(config: DatasetConfig, listings: Mapping[str, Listing]) -> None:
    """Say where a split has another number of images than published."""
    for split, listing in listings.items():
        expected = config.expected(split)
        if expected is not None and expected != len(listing.items):
            log.warning(
                "%s: the split %s has %s images, published are %s; results are not comparable with "
                "published ones, and schedules in epochs count the published number",
                config.name,
                split,
                f"{len(listing.items):,}",
                f"{expected:,}",
            )


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
    pixels = None if config.size is None else config.size[0] * config.size[1]
    total = 0
    for listing in listings.values():
        for item in listing.items:
            files = [path for path in (item.image, item.second) if path is not None]
            raw = sum(path.stat().st_size for path in files)
            most = raw if pixels is None else 2 * pixels * len(files)
            # Never enlarged, and no larger in the format that it has.
            kept = config.resize == "mmcv" and item.image.suffix.lower() == ".png"
            total += min(raw, most) if kept else most
            # A file of annotations, or a volume, is that of many labels.
            alone = item.label is not None and item.objects is None and item.part is None
            total += item.label.stat().st_size if item.label and alone else 4096
    return total


def _partition_keys(
    config: DatasetConfig, listings: Mapping[str, Listing], files: Mapping[str, Path]
) -> dict[str, list[str]]:
    """Keys of each partition whose list can be used.

    One that is not there, or that names images which the split lacks, is left out with a warning:
    only runs on it need it, and the plan says so.
    """
    layout = LAYOUTS[config.layout]
    lists, missing = {}, []
    for name, entry in config.partitions.items():
        split, path = entry["split"], files.get(name)
        if path is None or not path.is_file():
            missing.append(name)
            continue
        keys = keys_of_list(path.read_text(), config.splits[split], layout.key_of)
        absent = sorted(set(keys) - {item.key for item in listings[split].items})
        if keys and not absent:
            lists[name] = keys
            continue
        what = f"it names {len(absent)} images that the split {split} lacks, as {absent[:3]}"
        log.warning(
            "%s: partition %s is left out: %s (%s)",
            config.name,
            name,
            what if keys else "its list is empty",
            path,
        )
    if missing:
        named = ", ".join(missing)
        log.warning("%s: partition %s is left out: it was not fetched", config.name, named)
    return lists


def _prepare_item(common: _Common, task: _Task) -> Row:
    """Write the image and label of one pair, unless they are there, and describe them."""
    item, folder = task.item, common.folder
    frames = open_frames(item)
    first = frames[0]
    raw_size = first.height, first.width
    size = target_size(raw_size, common.size, common.keep_ratio)
    stored = stored_size(raw_size, size, common.resize)
    single = len(frames) == 1 and first.format in _COPIED
    as_is = single and first.mode == "RGB" and stored == raw_size
    suffix = _COPIED[str(first.format)] if as_is else ".png"
    image = folder / "images" / task.split / f"{item.key}{suffix}"
    if not image.is_file():
        _write_image(frames, item.image, image, stored, None if as_is else common.resize)
    label = folder / "labels" / task.split / f"{item.key}.png"
    if not label.is_file():
        ids = _train_ids(common.rules, item, size)
        if not task.evaluate:
            ids = resize_label(ids, size, common.resize)
        with atomic_path(label) as temporary:
            Image.fromarray(ids).save(temporary)
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
        raw_size=raw_label_size(item, common.rules) or raw_size,
        image_sha256=sha256_file(image),
        label_sha256=sha256_file(label),
        pixels=tuple(pixels.tolist()),
        frames=len(frames),
    )


def _write_image(
    frames: Sequence[Image.Image],
    source: Path,
    path: Path,
    size: tuple[int, int],
    resize: str | None,
) -> None:
    """Write the frames at `size`, one above the other; `resize` None copies the file as it is."""
    with atomic_path(path) as temporary:
        if resize is None:
            shutil.copyfile(source, temporary)
            return
        height, width = size
        sheet = Image.new("RGB", (width, height * len(frames)))
        for place, frame in enumerate(frames):
            sheet.paste(resize_image(frame.convert("RGB"), size, resize), (0, place * height))
        # Slices are grey: a third to read, and the same when read as RGB.
        sheet = sheet.convert("L") if is_volume(source) else sheet
        sheet.save(temporary, compress_level=3)


def _train_ids(rules: Rules, item: Item, image_size: tuple[int, int]) -> NDArray[np.uint8]:
    """Train ids of a raw label at its own size; without one all ignored at `image_size`."""
    if item.label is None:
        return np.full(image_size, rules.table.ignore, dtype=np.uint8)
    faults: list[Fault] = []
    raw = open_item_label(item, rules, faults)
    if raw is None:
        raise DataError(str(faults[0]))
    if rules.colors:
        mapped = rules.table.encode_colors(raw.astype(np.uint8))
    else:
        mapped = rules.table.lookup[raw]
    if mapped.min() < 0:
        raise DataError(f"{item.label}: changed since it was verified; run preprocess again")
    return mapped.astype(np.uint8)
