"""Records as the report holds them: thousands of them, without what only some figures look at."""

import json
from collections.abc import Mapping, Sequence
from functools import lru_cache, partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.report.cells import Record
from pipeline.report.parallel import forked
from pipeline.store.record import read_short_record
from pipeline.store.record_text import read_diagnostics, read_training

MANY = 1000
"""Runs from which reading and drawing are worth processes of their own."""
# Sections of a record that most runs of an experiment share.
_SHARED = ("classes", "protocol", "data", "network", "environment")


class Reader:
    """Reads records, keeping one object of what many of them say alike."""

    def __init__(self) -> None:
        self._known: dict[str, Any] = {}
        self._last: dict[str, Any] = {}

    def read(self, path: Path, networks: Sequence[str]) -> Record:
        """The record at `path` with the matrices of `networks` ("last.student") as int64 arrays.

        `diagnostics` and the curves of training stay in the file: `diagnostics_of` and
        `training_of` get them. Raises RecordError for a record that is none.
        """
        record, diagnosed = read_short_record(path)
        record |= {"path": path, "diagnosed": diagnosed}
        for name in _SHARED:
            if name in record:
                record[name] = self._one(name, record[name])
        record["spec"] = {k: self._one(f"spec.{k}", v) for k, v in record["spec"].items()}
        self._keep(record["results"], networks)
        return record

    def _one(self, name: str, value: Any) -> Any:
        if self._last.get(name) != value:
            self._last[name] = self._known.setdefault(json.dumps(value), value)
        return self._last[name]

    def _keep(self, results: dict[str, Any], networks: Sequence[str]) -> None:
        for checkpoint in ("last", "best"):
            for role in ("student", "teacher"):
                found = results[checkpoint][role]
                if found is None:
                    continue
                if f"{checkpoint}.{role}" in networks:
                    found["confusion"] = np.array(found["confusion"], dtype=np.int64)
                else:
                    found.pop("confusion")


def read_runs(wanted: Mapping[Path, Sequence[str]]) -> dict[Path, Record]:
    """`Reader.read` of each path with its networks; of many in several processes."""
    paths = list(wanted)
    size = len(paths) if len(paths) < MANY else MANY // 2
    parts = [paths[start : start + size] for start in range(0, len(paths), size or 1)]
    tasks = [partial(_read, {path: wanted[path] for path in part}) for part in parts]
    found = forked(tasks) if len(tasks) > 1 else [task() for task in tasks]
    return dict(zip(paths, chain.from_iterable(found), strict=True))


def _read(wanted: Mapping[Path, Sequence[str]]) -> list[Record]:
    reader = Reader()
    return [reader.read(path, networks) for path, networks in wanted.items()]


def has_diagnostics(record: Record) -> bool:
    """Whether a run has diagnostics."""
    return "diagnostics" in record or bool(record.get("diagnosed"))


def diagnostics_of(record: Record) -> dict[str, Any] | None:
    """The diagnostics of a run, None where it has none."""
    if "diagnostics" in record or not has_diagnostics(record):
        return record.get("diagnostics")
    found = record["path"].stat()
    return _diagnostics(record["path"], found.st_mtime_ns, found.st_size)


def training_of(record: Mapping[str, Any], most: int) -> Sequence[Mapping[str, Any]]:
    """The points of a run's curves of training, of more than `most` every second, third, ..."""
    if "path" in record:
        return read_training(record["path"], most)
    points = record["curves"]["train"]
    return list(points[:: -(-len(points) // most) or 1])


# Several figures look at the same few cells.
@lru_cache(maxsize=256)
def _diagnostics(path: Path, changed_ns: int, size: int) -> dict[str, Any] | None:
    return read_diagnostics(path)
