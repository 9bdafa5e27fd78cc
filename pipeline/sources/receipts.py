"""Receipts of fetched data sets: what the stage `preprocess` reads to find the raw files.

One JSON file per data set under `<data root>/fetched`, without times or other chance content, so
that fetching the same files again leaves it as it was.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from ecocseg.data.config import DatasetConfig
from ecocseg.data.verify import list_splits
from ecocseg.errors import DataError
from ecocseg.files import atomic_write


@dataclass(frozen=True, kw_only=True)
class Receipt:
    """Where a data set's raw files lie, and what they are."""

    name: str
    kind: str
    """local, archive, url or generate."""
    root: str
    """Folder of the raw files; relative to the data root when it lies below it."""
    files: int
    bytes: int
    fingerprint: str
    """Over the names and sizes of the files of all splits; in the user's own folder times too."""
    partitions: Mapping[str, str] = field(default_factory=dict)
    """Partition name -> its list file, relative to the data root."""
    downloads: Mapping[str, str] = field(default_factory=dict)
    """Address -> SHA-256 of what came from it."""

    def folder(self, data_root: Path) -> Path:
        """Return the folder of the raw files."""
        return data_root / self.root


def receipt_path(data_root: Path, name: str) -> Path:
    """Return the path of a data set's receipt."""
    return data_root / "fetched" / f"{name}.json"


def fingerprint_raw(config: DatasetConfig, folder: Path, *, times: bool) -> tuple[str, int, int]:
    """Return a hash over the raw files that the splits use, their number and their bytes.

    Content is not read: names and sizes count, and with `times` (for folders that others may
    change) the time of the last change.
    """
    lines, total = [], 0
    for split, listing in list_splits(config, folder).items():
        for item in listing.items:
            for path in (item.image, item.second, item.label):
                if path is None:
                    continue
                status = path.stat()
                total += status.st_size
                line = [split, os.path.relpath(path, folder), status.st_size]
                lines.append([*line, status.st_mtime_ns] if times else line)
    return hashlib.sha256(json.dumps(lines).encode()).hexdigest(), len(lines), total


def write_receipt(data_root: Path, receipt: Receipt) -> None:
    """Write a receipt, unless the same is there."""
    path = receipt_path(data_root, receipt.name)
    text = json.dumps(asdict(receipt), indent=1, sort_keys=True) + "\n"
    if not path.is_file() or path.read_text() != text:
        atomic_write(path, text)


def read_receipt(data_root: Path, name: str) -> Receipt:
    """Read a receipt; DataError when the data set has not been fetched."""
    path = receipt_path(data_root, name)
    if not path.is_file():
        raise DataError(
            f"{path}: the data set {name!r} has not been fetched; run the stage fetch "
            "(`dvc repro fetch`)"
        )
    try:
        return Receipt(**json.loads(path.read_text()))
    except (ValueError, TypeError) as error:
        raise DataError(f"{path}: no receipt ({error}); remove it and run fetch again") from error


def relative_to_root(path: Path, data_root: Path) -> str:
    """Return `path` relative to the data root when it lies below it, else absolute."""
    absolute, base = Path(os.path.abspath(path)), Path(os.path.abspath(data_root))
    if absolute.is_relative_to(base):
        return absolute.relative_to(base).as_posix()
    return str(absolute)
