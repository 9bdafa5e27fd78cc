"""Result records: one JSON file per finished run, the truth from which every table is made.

A record holds confusion matrices, `confusion[i][j]` = pixels of true class i predicted as j, and
not only their means, so that any mean over any classes can be derived later. Where the protocol
counts per folder it holds a list of them, one for each folder of the evaluated images by name.
Points of `curves.eval` have the protocol's score as `student/miou` and `teacher/miou`.
"""

import json
import math
import re
from collections.abc import Callable, Mapping
from itertools import chain
from pathlib import Path
from typing import Any, NoReturn

from ecocseg.errors import UserError
from ecocseg.files import atomic_write
from pipeline.store.record_text import read_short, to_text

SCHEMA = 1
_FIELDS: dict[str, type] = {
    "schema": int,
    "run_id": str,
    "experiment": str,
    "cell": str,
    "seed": int,
    "spec": dict,
    "classes": list,
    "protocol": dict,
    "results": dict,
    "curves": dict,
    "data": dict,
    "environment": dict,
    "timing": dict,
}
# Came later, or are no longer written: records with and without them stay readable.
_OPTIONAL_FIELDS: dict[str, type] = {
    "diagnostics": dict,
    # parameters, macs (multiply-accumulates) for an image of size
    "network": dict,
    # The run that was computed: this record is a copy of that one's, of equal content.
    "same_as": str,
    # Once frozen here; the report derives them from the plan.
    "paper_exact": bool,
    "deviations": list,
}
_NETWORK: dict[str, type | tuple[type, ...]] = {
    "parameters": int,
    "macs": (int, float),
    "size": list,
}
_PROTOCOL_FIELDS = ("dataset", "split", "images", "mode", "image_size", "label_size", "fingerprint")
_DIAGNOSTICS = {"pixels": int, "rank": list, "bits": dict, "classes": dict, "labels": dict}
_VOLATILE_FIELDS = ("environment", "timing")
_RUN_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.=-]*")


class RecordError(UserError):
    """A record that does not follow the schema."""


def record_path(folder: Path, run_id: str) -> Path:
    """Where the record of `run_id` lies below the records folder."""
    return Path(folder) / f"{run_id}.json"


def write_record(folder: Path, record: Mapping[str, Any]) -> Path:
    """Check `record` and write it to `folder/<run_id>.json` in one step; returns that path.

    Numbers that JSON cannot hold (NaN, infinity) become null.

    Raises:
        RecordError: a field is missing, unknown or of the wrong form; nothing is written.
    """
    path = record_path(folder, str(record.get("run_id", "")))
    try:
        plain = json.loads(json.dumps(_finite(record), allow_nan=False))
    except TypeError as error:
        raise RecordError(
            f"{path}: {error}; a record holds plain numbers, texts, lists and mappings only"
        ) from error
    _validate(plain, path)
    atomic_write(path, to_text(plain))
    return path


def read_record(path: Path) -> dict[str, Any]:
    """The record at `path`.

    Raises:
        RecordError: no JSON, another schema, or fields that do not fit; the message names the file.
        FileNotFoundError: there is no such file.
    """
    try:
        record = json.loads(Path(path).read_text(encoding="utf-8"))
    except ValueError as error:
        raise RecordError(
            f"{path}: is no JSON ({error}); delete the file, and its run is done again"
        ) from error
    _validate(record, Path(path))
    return dict(record)


def read_short_record(path: Path) -> tuple[dict[str, Any], bool]:
    """The record at `path` without `diagnostics` and `curves.train`; whether it has diagnostics.

    For many runs: it takes a fraction of the time and memory. Raises as `read_record`; what is left
    out is not checked.
    """
    path = Path(path)
    try:
        found = read_short(path)
        if found is not None:
            _validate(found[0], path, short=True)
            return found
    except (ValueError, RecordError):
        # Not as it was written: the whole of it says what is wrong, if anything is.
        pass
    record = read_record(path)
    has_diagnostics = record.pop("diagnostics", None) is not None
    del record["curves"]["train"]
    return record, has_diagnostics


def read_records(folder: Path) -> list[dict[str, Any]]:
    """All records in `folder`, ordered by run id; empty when the folder is not there.

    Raises:
        RecordError: one of them is unreadable; the message names the file.
    """
    # Names that begin with a dot are files being written.
    paths = sorted(p for p in Path(folder).glob("*.json") if not p.name.startswith("."))
    return [read_record(path) for path in paths]


def is_finished(folder: Path, run_id: str) -> bool:
    """Whether `run_id` has a record, which means that it never needs to run again.

    Raises:
        RecordError: there is one, and it is unreadable.
    """
    path = record_path(folder, run_id)
    return path.exists() and bool(read_record(path))


def comparable(record: Mapping[str, Any]) -> dict[str, Any]:
    """What two runs of one specification must agree on: all but `environment` and `timing`."""
    return {name: value for name, value in record.items() if name not in _VOLATILE_FIELDS}


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value


def _validate(record: Any, path: Path, *, short: bool = False) -> None:
    def fail(field: str, problem: str) -> NoReturn:
        raise RecordError(f"{path}: {field}: {problem}")

    if not isinstance(record, dict) or record.get("schema") != SCHEMA:
        found = record.get("schema") if isinstance(record, dict) else None
        fail(
            "schema",
            f"got {found!r}, allowed {SCHEMA}; the file was written by another version of this "
            "project: use that version, or move the file away and run again",
        )
    for name, kind in (_FIELDS | _OPTIONAL_FIELDS).items():
        if name not in record:
            if name in _OPTIONAL_FIELDS:
                continue
            fail(name, "is missing")
        # bool is an int in Python; a seed of True is a mistake all the same.
        value, is_bool = record[name], isinstance(record[name], bool)
        if not isinstance(value, kind) or is_bool != (kind is bool):
            fail(name, f"got {value!r:.60}, allowed a {kind.__name__}")
    if unknown := sorted(set(record) - set(_FIELDS | _OPTIONAL_FIELDS)):
        fail(unknown[0], f"is unknown; allowed {', '.join(_FIELDS | _OPTIONAL_FIELDS)}")
    if not _RUN_ID.fullmatch(record["run_id"]):
        fail("run_id", f"got {record['run_id']!r}, allowed letters, digits and _ . = -")
    if "same_as" in record and not _RUN_ID.fullmatch(record["same_as"]):
        fail("same_as", f"got {record['same_as']!r}, allowed a run id")
    for name, numbers in _NETWORK.items():
        if "network" in record and not isinstance(record["network"].get(name), numbers):
            fail(f"network.{name}", f"got {record['network'].get(name)!r:.60}")
    if path.stem != record["run_id"]:
        fail("run_id", f"got {record['run_id']!r} in a file of another name")
    for name in _PROTOCOL_FIELDS:
        if name not in record["protocol"]:
            fail(f"protocol.{name}", "is missing")
    for name in ("eval",) if short else ("train", "eval"):
        if not isinstance(record["curves"].get(name), list):
            fail(f"curves.{name}", "got no list of points")
        if any("step" not in point for point in record["curves"][name]):
            fail(f"curves.{name}", "has a point without step")
    _validate_results(record, fail)
    _validate_diagnostics(record, fail)


def _validate_diagnostics(record: dict[str, Any], fail: Callable[[str, str], NoReturn]) -> None:
    found = record.get("diagnostics")
    if found is None:
        return
    for who in ("student", "teacher"):
        field = f"diagnostics.{who}"
        if who not in found:
            fail(field, "is missing")
        if found[who] is None and who == "teacher":
            continue
        if not isinstance(found[who], dict):
            fail(field, f"got {found[who]!r:.60}, allowed a mapping")
        for name, kind in _DIAGNOSTICS.items():
            if not isinstance(found[who].get(name), kind):
                fail(f"{field}.{name}", f"got no {kind.__name__}")


def _validate_results(record: dict[str, Any], fail: Callable[[str, str], NoReturn]) -> None:
    by_folder = record["protocol"].get("per") == "folder"
    for when in ("last", "best"):
        result = record["results"].get(when)
        if not isinstance(result, dict) or not isinstance(result.get("step"), int):
            fail(f"results.{when}", "got no mapping with an integer step")
        for who in ("student", "teacher"):
            field = f"results.{when}.{who}"
            if who not in result:
                fail(field, "is missing")
            if result[who] is None and who == "teacher":
                continue
            field = f"{field}.confusion"
            found = result[who].get("confusion") if isinstance(result[who], dict) else None
            if by_folder and (not isinstance(found, list) or not found):
                fail(field, "got no list of matrices, one per folder")
            for matrix in (found or []) if by_folder else [found]:
                _validate_matrix(matrix, len(record["classes"]), field, fail)


def _validate_matrix(
    rows: Any, size: int, field: str, fail: Callable[[str, str], NoReturn]
) -> None:
    if not isinstance(rows, list) or len(rows) != size:
        fail(field, f"got no list of {size} rows, one per class")
    if any(not isinstance(row, list) or len(row) != size for row in rows):
        fail(field, f"has a row that is no list of {size} counts")
    counts = list(chain.from_iterable(rows))
    if set(map(type, counts)) - {int} or min(counts, default=0) < 0:
        fail(field, "has an entry that is no pixel count (integer >= 0)")
