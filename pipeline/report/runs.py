"""What was planned and what is finished: plan.jsonl and the records, grouped by experiment."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ecocseg.errors import ConfigError, DataError
from pipeline.report.cells import Block, Cell, Experiment, Mean, Record, Reference
from pipeline.report.protocols import refuse_mixtures
from pipeline.report.reading import read_runs
from pipeline.store.deviations import deviations


def load_experiments(plan_path: Path, records_dir: Path) -> list[Experiment]:
    """Read the plan and the records of its finished runs, in the order of the plan.

    Records that the plan does not name (of earlier plans) are left alone. Raises DataError when
    the plan is missing or not a plan, and when the runs of one experiment were not evaluated
    alike, for one table never mixes protocols; RecordError for a record that is not one.
    """
    groups: dict[str, list[dict[str, Any]]] = {}
    for row in _read_plan(Path(plan_path)):
        groups.setdefault(row["experiment"], []).append(row)
    there = {path.stem: path for path in Path(records_dir).glob("*.json")}
    wanted = {
        there[row["run_id"]]: ("last.student", "best.student", _selection(row["report"]))
        for rows in groups.values()
        for row in rows
        if row["run_id"] in there
    }
    records = {path.stem: record for path, record in read_runs(wanted).items()}
    return [_experiment(name, rows, records) for name, rows in groups.items()]


def _read_plan(path: Path) -> list[dict[str, Any]]:
    """Lines of plan.jsonl as dictionaries, checked for the fields that the report needs."""
    if not path.is_file():
        raise DataError(f"{path}: there is no plan; run `ecocseg plan` (or `dvc repro`) first")
    rows: list[dict[str, Any]] = []
    for number, line in enumerate(_lines(path), start=1):
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
        # What the runs were made from stands in their records.
        row.pop("spec", None)
        if rows and rows[-1]["report"] == row["report"]:
            row["report"] = rows[-1]["report"]
        rows.append(row)
    return rows


def _lines(path: Path) -> Iterator[str]:
    with path.open(encoding="utf-8") as file:
        yield from file


def _selection(report: Mapping[str, Any]) -> str:
    return str(report.get("selection", "last.student"))


def _experiment(name: str, rows: list[dict[str, Any]], records: Mapping[str, Record]) -> Experiment:
    rows = sorted(rows, key=lambda row: row["report"].get("order", 0))
    cells: dict[str, Cell] = {}
    encodings: dict[str, set[str]] = {}
    for row in rows:
        shown = row["report"]["row"]
        encodings.setdefault(shown["label"], set()).add(shown["encoding"])
    blocks: dict[str, Block] = {}
    for row in rows:
        cell = cells.get(row["cell"])
        if cell is None:
            shown = row["report"]["row"]
            label = _label(shown, len(encodings[shown["label"]]) > 1)
            cell = cells[row["cell"]] = _cell(row, label, blocks)
        cell.run_ids[row["seed"]] = row["run_id"]
        if row["run_id"] in records:
            record = cell.records[row["seed"]] = records[row["run_id"]]
            bf16 = record["environment"].get("precision") == "bf16"
            found = deviations(row["report"], record["spec"].get("schedule", {}), bf16=bf16)
            cell.deviations.extend(text for text in found if text not in cell.deviations)
    first = rows[0]["report"]
    experiment = Experiment(
        name=name,
        title=first.get("title") or name,
        description=first.get("description") or "",
        layout=first.get("layout", "per_class"),
        cells=tuple(cells.values()),
        references=_references(first.get("reference") or (), name, blocks),
        mixed_protocols=bool(first.get("mixed_protocols")),
        columns=_text(first.get("columns")),
    )
    refuse_mixtures(experiment)
    return experiment


def _cell(row: Mapping[str, Any], label: str, blocks: dict[str, Block]) -> Cell:
    """The cell of a plan row; `blocks` are those so far, by key.

    Groups and further places are a grid's: another layout has a row for each cell.
    """
    report = row["report"]
    is_grid = report.get("layout") == "grid"
    section = report.get("section")
    if section is not None:
        classes = section.get("classes")
        block = Block(
            key=section["key"],
            title=section.get("title") or section["key"],
            classes=None if classes is None else tuple(classes),
        )
        section = blocks.setdefault(block.key, block)
    return Cell(
        name=row["cell"],
        label=label,
        method=report["row"]["method"],
        encoding=report["row"]["encoding"],
        column=_text(report.get("column")),
        paper=report.get("paper"),
        selection=_selection(report),
        ranked=report["row"].get("ranked", True),
        means={name: _mean(mean) for name, mean in (report.get("means") or {"mIoU": None}).items()},
        group=_text(report["row"].get("group")) if is_grid else None,
        block=section,
        also=tuple(_place(p, row["cell"]) for p in report.get("also") or ()) if is_grid else (),
    )


def _mean(mean: Any) -> Mean:
    """A mean as experiments write it: its classes, or a mapping of score and classes."""
    given = mean if isinstance(mean, Mapping) else {"classes": mean}
    classes = given.get("classes")
    return Mean(
        score=given.get("score", "iou"), classes=None if classes is None else tuple(classes)
    )


def _place(place: Mapping[str, Any], cell: str) -> dict[str, Any]:
    """Another place of a cell: group, column, paper, as far as they are given."""
    allowed = ("group", "column", "paper")
    if unknown := [name for name in place if name not in allowed]:
        raise ConfigError(f"cell {cell}, also: got {unknown[0]!r}, allowed {', '.join(allowed)}")
    return {name: v if name == "paper" else _text(v) for name, v in place.items()}


def _text(value: object) -> str | None:
    return None if value is None else str(value)


def _references(
    given: Sequence[Mapping[str, Any]], name: str, blocks: Mapping[str, Block]
) -> tuple[Reference, ...]:
    """The published rows that the experiment shows; ConfigError for one without a place."""
    found = []
    for one in given:
        block = one.get("section")
        if (block not in blocks) if blocks else (block is not None):
            raise ConfigError(
                f"experiment {name}, reference {one.get('label')}: got section {block!r}, "
                f"allowed {', '.join(blocks) or 'none, for the table has no sections'}"
            )
        found.append(
            Reference(
                label=one["label"],
                table=one["table"],
                where=one["where"],
                column=_text(one.get("column")),
                block=block,
            )
        )
    return tuple(found)


def _label(row: Mapping[str, Any], with_encoding: bool) -> str:
    """The row's name, told apart by encoding and variant: "DACS (ECOC)", "DACS (ECOC, text)"."""
    encoding = {"ecoc": "ECOC"}.get(row["encoding"], row["encoding"]) if with_encoding else None
    told = ", ".join(filter(None, (encoding, row.get("variant"))))
    return f"{row['label']} ({told})" if told else row["label"]
