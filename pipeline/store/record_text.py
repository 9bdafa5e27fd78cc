"""How a record lies in its file: what tables need comes first, what is long comes last.

A point of a curve and a row of a matrix are a line each. Of the 0.6 MB of a run of 40,000 steps
tables read less than a tenth.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_LAST = ("diagnostics", "curves")
_CURVES = b'\n "curves": {\n  "eval": ['
_TRAIN = b'\n  "train": ['
_END = b"\n  ]\n }\n}\n"
_DIAGNOSTICS = b'\n "diagnostics": {'
_ENCODER = json.JSONEncoder(allow_nan=False)
# Bytes that hold what comes before the training curves, in most records.
_FIRST = 1 << 16


def to_text(record: Mapping[str, Any]) -> str:
    """The record as JSON; raises ValueError for a number that JSON does not have."""
    ordered = {name: value for name, value in record.items() if name not in _LAST}
    ordered |= {name: record[name] for name in _LAST if name in record}
    curves = record.get("curves")
    if isinstance(curves, Mapping):
        ordered["curves"] = {name: curves[name] for name in sorted(curves)}
    return _text(ordered, 0) + "\n"


def read_short(path: Path) -> tuple[dict[str, Any], bool] | None:
    """A record without `diagnostics` and `curves.train`, and whether it has diagnostics.

    None where the file is not laid out as by `to_text`. Raises ValueError when it is no JSON.
    """
    with path.open("rb") as file:
        data = file.read(_FIRST)
        curves, train = _places(data)
        if train < 0:
            data += file.read()
            curves, train = _places(data)
    if train < 0:
        return None
    diagnostics = data.rfind(_DIAGNOSTICS, 0, curves)
    head = data[: curves if diagnostics < 0 else diagnostics]
    record = json.loads(head + data[curves:train].rstrip(b",") + b"}}")
    return record, diagnostics >= 0


def read_diagnostics(path: Path) -> dict[str, Any] | None:
    """The record's diagnostics, None where it has none."""
    data = path.read_bytes()
    curves, _ = _places(data)
    start = data.rfind(_DIAGNOSTICS, 0, max(curves, 0))
    if start < 0:
        found = json.loads(data).get("diagnostics")
    else:
        found = json.loads(b"{" + data[start:curves].rstrip(b",") + b"}")["diagnostics"]
    return None if found is None else dict(found)


def read_training(path: Path, most: int) -> list[dict[str, Any]]:
    """Points of the record's curves of training: of more than `most` every second, third, ..."""
    data = path.read_bytes()
    _, train = _places(data)
    # Behind them the layout has the ends of list, curves and record, and nothing else.
    if train < 0 or not data.endswith(_END):
        points = json.loads(data)["curves"]["train"]
        return list(points[:: -(-len(points) // most) or 1])
    lines = data[train + len(_TRAIN) : -len(_END)].split(b",\n")
    kept = b",".join(lines[:: -(-len(lines) // most)])
    return list(json.loads(b"[" + kept + b"]"))


def _places(data: bytes) -> tuple[int, int]:
    """Where the curves and among them those of training begin; -1 where that is not to be found."""
    curves = data.find(_CURVES)
    return curves, data.find(_TRAIN, curves) if curves >= 0 else -1


def _text(value: Any, depth: int) -> str:
    """JSON of `value`: what holds lists or mappings over several lines, all else on one."""
    items = list(value.values() if isinstance(value, Mapping) else value) if _holds(value) else []
    if not any(_holds(item) for item in items):
        return _ENCODER.encode(value)
    texts = [_text(item, depth + 1) for item in items]
    if isinstance(value, Mapping):
        texts = [f"{json.dumps(str(k))}: {t}" for k, t in zip(value, texts, strict=True)]
    brackets = "{}" if isinstance(value, Mapping) else "[]"
    inside = ",".join(f"\n{' ' * (depth + 1)}{text}" for text in texts)
    return f"{brackets[0]}{inside}\n{' ' * depth}{brackets[1]}"


def _holds(value: Any) -> bool:
    return isinstance(value, Mapping | list | tuple)
