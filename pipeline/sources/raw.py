"""Raw folders: the marker of those that were fetched, and what to tell of those that cannot be."""

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ecocseg.data.config import DatasetConfig
from ecocseg.data.layouts import LAYOUTS
from ecocseg.files import atomic_write

MARKER = ".ecocseg.json"
"""Lies in folders that the stage fetch made: digest of what was asked for, complete, downloads."""


def how_to_place(config: DatasetConfig, root: Path, why: str) -> str:
    """What to put where, for a data set that cannot be fetched."""
    place = os.path.abspath(root / "raw" / config.raw_name)
    register = str(config.raw.get("register") or "").strip()
    tree = "\n".join(f"    {line}" for line in LAYOUTS[config.layout].TREE.splitlines())
    return (
        f"The data set {config.raw_name!r} {why}. "
        + (f"{register}\n" if register else "\n")
        + f"Either set `data.sources.{config.raw_name}` in params.yaml to its folder or archive, "
        f"wherever it lies,\nor put the archives or the unpacked files into {place}\n"
        f"Expected there:\n{tree}"
    )


def digest_of(value: Any) -> str:
    """Hash of plain data."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=dict).encode()).hexdigest()


def read_marker(target: Path) -> dict[str, Any]:
    """Read the marker of a folder; {} when it has none."""
    try:
        return dict(json.loads((target / MARKER).read_text()))
    except (OSError, ValueError):
        return {}


def write_marker(target: Path, marker: Mapping[str, Any]) -> None:
    """Mark a folder as fetched."""
    atomic_write(target / MARKER, json.dumps(marker, indent=1, sort_keys=True))


def is_complete(target: Path, digest: str) -> bool:
    """Whether a folder holds all that stands behind `digest`."""
    marker = read_marker(target)
    return marker.get("digest") == digest and bool(marker.get("complete"))
