"""What was planned and what is finished: plan.jsonl and the records, grouped by experiment."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ecocseg.errors import DataError
from pipeline.records import read_record, record_path

Record = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One cell of an experiment: a configuration that is run once per seed."""

    name: str
    label: str
    method: str
    encoding: str
    column: str | None
    paper: Mapping[str, Any] | None
    selection: str
    ranked: bool
    run_ids: dict[int, str] = field(default_factory=dict)
    records: dict[int, Record] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """A table's worth of cells, in the order of their rows."""

    name: str
    title: str
    description: str
    layout: str
    means: Mapping[str, list[str] | None]
    cells: tuple[Cell, ...]

    @property
    def planned(self) -> int:
        """Number of runs in the plan."""
        return sum(len(cell.run_ids) for cell in self.cells)

    @property
    def records(self) -> list[Record]:
        """Records of the finished runs, by cell, then seed."""
        return [cell.records[seed] for cell in self.cells for seed in sorted(cell.records)]

    @property
    def classes(self) -> list[str]:
        """Class names; empty before the first run is finished."""
        records = self.records
        return list(records[0]["classes"]) if records else []

    @property
    def protocol(self) -> dict[str, Any]:
        """The one evaluation protocol of all runs; empty before the first is finished."""
        records = self.records
        return dict(records[0]["protocol"]) if records else {}

    @property
    def status(self) -> str:
        """Such as "6 of 8 runs finished"."""
        return f"{len(self.records)} of {self.planned} runs finished"


def load_experiments(plan_path: Path, records_dir: Path) -> list[Experiment]:
    """Read the plan and the records of its finished runs, in the order of the plan.

    Records that the plan does not name (of earlier plans) are left alone. Raises DataError when
    the plan is missing or not a plan, and when the runs of one experiment were not evaluated
    alike, for one table never mixes protocols; RecordError for a record that is not one.
    """
    groups: dict[str, list[dict[str, Any]]] = {}
    for row in _read_plan(Path(plan_path)):
        groups.setdefault(row["experiment"], []).append(row)
    return [_experiment(name, rows, Path(records_dir)) for name, rows in groups.items()]


def pairs(cells: Sequence[Cell]) -> list[tuple[Cell, Cell]]:
    """(ECOC, one-hot) cells of equal method and column, where the one-hot cell is the only one."""
    found = []
    for cell in cells:
        if cell.encoding.lower() != "ecoc":
            continue
        base = [
            other
            for other in cells
            if other.encoding.lower() == "one-hot"
            and (other.method, other.column) == (cell.method, cell.column)
        ]
        if len(base) == 1:
            found.append((cell, base[0]))
    return found


def _read_plan(path: Path) -> list[dict[str, Any]]:
    """Lines of plan.jsonl as dictionaries, checked for the fields that the report needs."""
    if not path.is_file():
        raise DataError(f"{path}: there is no plan; run `ecocseg plan` (or `dvc repro`) first")
    rows = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            row = json.loads(line)
            missing = {"run_id", "experiment", "cell", "seed", "report"} - row.keys()
        except (ValueError, AttributeError) as error:
            raise DataError(f"{path}, line {number}: not a JSON object ({error})") from error
        if missing:
            raise DataError(
                f"{path}, line {number}: no field {sorted(missing)[0]!r}; "
                f"write the plan again with `ecocseg plan`"
            )
        rows.append(row)
    return rows


def _experiment(name: str, rows: list[dict[str, Any]], records_dir: Path) -> Experiment:
    rows = sorted(rows, key=lambda row: row["report"].get("order", 0))
    cells: dict[str, Cell] = {}
    encodings: dict[str, set[str]] = {}
    for row in rows:
        shown = row["report"]["row"]
        encodings.setdefault(shown["label"], set()).add(shown["encoding"])
    for row in rows:
        report = row["report"]
        cell = cells.setdefault(
            row["cell"],
            Cell(
                name=row["cell"],
                label=_label(report["row"], len(encodings[report["row"]["label"]]) > 1),
                method=report["row"]["method"],
                encoding=report["row"]["encoding"],
                column=None if report.get("column") is None else str(report["column"]),
                paper=report.get("paper"),
                selection=report.get("selection", "last.student"),
                ranked=report["row"].get("ranked", True),
            ),
        )
        cell.run_ids[row["seed"]] = row["run_id"]
        path = record_path(records_dir, row["run_id"])
        if path.is_file():
            cell.records[row["seed"]] = read_record(path)
    first = rows[0]["report"]
    experiment = Experiment(
        name=name,
        title=first.get("title") or name,
        description=first.get("description") or "",
        layout=first.get("layout", "per_class"),
        means=first.get("means") or {"mIoU": None},
        cells=tuple(cells.values()),
    )
    _refuse_mixtures(experiment)
    return experiment


def _label(row: Mapping[str, Any], with_encoding: bool) -> str:
    """The row's name, told apart by its encoding where several share it: "DACS (ECOC)"."""
    encoding = {"ecoc": "ECOC"}.get(row["encoding"], row["encoding"])
    return f"{row['label']} ({encoding})" if with_encoding else row["label"]


def _refuse_mixtures(experiment: Experiment) -> None:
    """Raise DataError unless all runs share classes and evaluation protocol."""
    records = experiment.records
    for record in records[1:]:
        first = {**records[0]["protocol"], "classes": records[0]["classes"]}
        other = {**record["protocol"], "classes": record["classes"]}
        differing = [key for key in first | other if first.get(key) != other.get(key)]
        if differing:
            key = differing[0]
            raise DataError(
                f"experiment {experiment.name}: run {records[0]['run_id']} was evaluated with "
                f"{key} = {first.get(key)!r}, run {record['run_id']} with {other.get(key)!r}; one "
                f"table never mixes protocols: make them two experiments, or evaluate both alike"
            )
