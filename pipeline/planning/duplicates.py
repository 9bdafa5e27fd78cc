"""Runs of equal content are computed once: experiments share cells, as the paper's tables do.

A run's digest leaves out the names of experiment and cell. Of the planned runs with one digest one
is trained; the others get its record under their own names, with `same_as` naming the run.
"""

import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from ecocseg.errors import UserError
from pipeline.config.run_spec import DIGITS, RunSpec
from pipeline.store.deviations import SPEED_ONLY
from pipeline.store.paths import record_file, run_directory
from pipeline.store.record import read_record, read_short_record, write_record

Row = Mapping[str, Any]
_TOLD = re.compile(rf".*-([0-9a-f]{{{DIGITS}}})")


def digest_of(row: Row) -> str:
    """The content of a plan row."""
    return RunSpec.from_dict(row["spec"]).digest


def originals(rows: Sequence[Row], results: Path) -> dict[str, str]:
    """Run ids of rows without a record whose content another run has or will have: that run.

    A run with a record comes first, of this plan or an earlier one, then one that has begun.
    """
    done = {path.stem for path in (results / "records").glob("*.json")}
    digests = {row["run_id"]: digest_of(row) for row in rows if row["run_id"] not in done}
    if not digests:
        return {}
    known = _finished(results / "records", set(digests.values()))
    for run_id in sorted(digests, key=lambda run_id: not _begun(results, run_id)):
        known.setdefault(digests[run_id], run_id)
    found = {run_id: known[digest] for run_id, digest in digests.items()}
    return {run_id: source for run_id, source in found.items() if source != run_id}


def copy_record(row: Row, source: str, results: Path) -> bool:
    """Write the record of `row` as a copy of that of `source`; False while it has none."""
    path = record_file(results, source)
    if not path.is_file():
        return False
    record = read_record(path)
    spec = RunSpec.from_dict(row["spec"])
    # Time and memory are those of the original: so are the settings that decide only them.
    measured = record["spec"]["schedule"]
    plain = spec.to_dict()
    plain["schedule"] = plain["schedule"] | {
        name: measured[name] for name in SPEED_ONLY if name in measured
    }
    write_record(
        results / "records",
        record
        | {
            "run_id": row["run_id"],
            "experiment": spec.experiment,
            "cell": spec.cell,
            "spec": plain,
            "same_as": record.get("same_as", source),
        },
    )
    return True


def _finished(records: Path, wanted: Collection[str]) -> dict[str, str]:
    """Digest -> run id of the records with a digest that is wanted, the computed before copies.

    A run's id ends with the beginning of its digest: only those records are read, and those that
    are called otherwise.
    """
    beginnings = {digest[:DIGITS] for digest in wanted}
    found: dict[str, str] = {}
    copies: dict[str, str] = {}
    for path in sorted(p for p in records.glob("*.json") if not p.name.startswith(".")):
        told = _TOLD.fullmatch(path.stem)
        if told and told[1] not in beginnings:
            continue
        try:
            record, _ = read_short_record(path)
            digest = digest_of(record)
        except (UserError, KeyError, TypeError):
            # Of another version of this project: no run of this plan has its content.
            continue
        (copies if "same_as" in record else found)[digest] = record["run_id"]
    return copies | found


def _begun(results: Path, run_id: str) -> bool:
    return (run_directory(results, run_id) / "last.pt").is_file()
