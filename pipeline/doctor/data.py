"""The prepared data, and whether the plan was made with it."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ecocseg.data.manifest import fingerprint, load_manifest, processed_dir, read_fingerprint
from ecocseg.errors import DataError, UserError
from pipeline.config.params import Params
from pipeline.doctor.finding import FAULT, OK, WARNING, Finding
from pipeline.planning.plan import datasets_of
from pipeline.store.paths import PLAN_FILE, record_file

_PREPARE = "type `dvc repro preprocess`"
_SAMPLE = 5


def datasets(params: Params) -> Iterator[Finding]:
    """Each data set that is needed: prepared, its manifest unchanged, files of it there."""
    for dataset in datasets_of(params):
        folder = processed_dir(Path(params.data.root), dataset.name)
        if not (folder / "dataset.json").is_file():
            yield Finding(WARNING, "data set", f"{dataset.name}: not prepared", _PREPARE)
            continue
        try:
            yield _examined(folder, dataset.name)
        except (DataError, OSError, ValueError, KeyError) as error:
            remedy = f"rm -r {folder}, then {_PREPARE}"
            yield Finding(FAULT, "data set", f"{dataset.name}: {error}", remedy)


def _examined(folder: Path, name: str) -> Finding:
    manifest = load_manifest(folder)
    rows = manifest.all_rows
    if fingerprint(manifest.names, rows) != manifest.fingerprint:
        text = f"{name}: its manifest was changed after it was prepared ({folder})"
        return Finding(FAULT, "data set", text, f"rm -r {folder}, then {_PREPARE}")
    sample = rows[:: max(1, len(rows) // _SAMPLE)]
    gone = [f for row in sample for f in (row.image, row.label) if not _is_filled(f)]
    if gone:
        text = f"{name}: {gone[0]} is missing or empty"
        return Finding(FAULT, "data set", text, f"rm -r {folder}, then {_PREPARE}")
    return Finding(OK, "data set", f"{name}: {len(rows)} images, {manifest.fingerprint[:12]}")


def _is_filled(file: Path) -> bool:
    return file.is_file() and file.stat().st_size > 0


def plan(params: Params) -> Iterator[Finding]:
    """The plan: whether its unfinished runs were planned with the data that is there."""
    if not PLAN_FILE.is_file():
        yield Finding(OK, "plan", "there is none yet; `dvc repro plan` makes it")
        return
    try:
        rows = unfinished()
    except UserError as error:
        yield Finding(FAULT, "plan", str(error), "type `dvc repro -f plan`")
        return
    planned = {
        (name, digest)
        for row in rows
        for name, digest in row["spec"]["data"].items()
        if (processed_dir(Path(params.data.root), name) / "dataset.json").is_file()
    }
    stale = sorted(
        name
        for name, digest in planned
        if read_fingerprint(processed_dir(Path(params.data.root), name)) != digest
    )
    if stale:
        text = f"{PLAN_FILE} was made with other data than now in {', '.join(stale)}"
        yield Finding(FAULT, "plan", text, "type `dvc repro plan`")
    else:
        yield Finding(OK, "plan", f"{len(rows)} runs are not finished, and fit the data")


def unfinished() -> list[dict[str, Any]]:
    """Rows of the plan without a record; DataError when the plan is no JSON."""
    try:
        rows = [json.loads(line) for line in PLAN_FILE.read_text().splitlines() if line]
        for row in rows:
            dict(row["spec"]["data"])
        return [r for r in rows if not record_file(PLAN_FILE.parent, r["run_id"]).is_file()]
    except (ValueError, TypeError, KeyError) as error:
        raise DataError(f"{PLAN_FILE}: is no plan ({error})") from error
