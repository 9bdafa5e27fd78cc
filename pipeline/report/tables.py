"""Experiments into tables: which number stands where, with rank, spread and what it is compared to.

Nothing here knows a file format; `formats` writes a `Table` as Markdown, LaTeX, CSV or HTML.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from ecocseg.errors import ConfigError
from ecocseg.iou import class_iou
from pipeline.report import published
from pipeline.report.notes import table_notes
from pipeline.report.runs import Cell, Experiment, pairs
from pipeline.report.scores import (
    Statistic,
    chosen_confusion,
    mean_over,
    paired_difference,
    ranks,
    statistic,
)

Kind = Literal["measured", "paper", "to_paper", "difference"]
Values = dict[str, dict[int, float]]  # column -> seed -> percent


@dataclass(frozen=True, kw_only=True)
class Column:
    """One column of numbers; a mean shows its spread wherever it stands, a class where it fits."""

    name: str
    is_mean: bool


@dataclass(frozen=True, kw_only=True)
class Row:
    """One row: an entry per column (None is absent), ranks 1 and 2 for best and second."""

    kind: Kind
    label: str
    method: str
    encoding: str
    seeds: str
    entries: tuple[Statistic | None, ...]
    ranks: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Table:
    """A finished table; measured rows carry percent, difference rows points."""

    name: str
    title: str
    description: str
    layout: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    notes: tuple[str, ...]


def build_table(experiment: Experiment) -> Table:
    """The table of one experiment, finished or not.

    "per_class": a row per cell, a column per class and per mean. "grid": a row per (label, method,
    encoding), a column per `column` of the plan, filled with the experiment's first mean.
    Raises ConfigError for another layout, an unknown selection, class or row of the paper.
    """
    if experiment.layout == "per_class":
        columns, lines = _per_class(experiment)
    elif experiment.layout == "grid":
        columns, lines = _grid(experiment)
    else:
        raise ConfigError(
            f"experiment {experiment.name}, layout: got {experiment.layout!r}, "
            f"allowed per_class, grid"
        )
    return Table(
        name=experiment.name,
        title=experiment.title,
        description=experiment.description,
        layout=experiment.layout,
        columns=tuple(columns),
        rows=tuple(_rows(columns, lines)),
        notes=tuple(table_notes(experiment)),
    )


def cell_means(
    experiment: Experiment, cell: Cell, selection: str | None = None
) -> dict[int, float]:
    """The experiment's first mean in percent, for each finished seed of `cell`."""
    subset = next(iter(experiment.means.values()))
    return {
        seed: mean_over(
            class_iou(chosen_confusion(record, selection or cell.selection)),
            record["classes"],
            subset,
        )
        for seed, record in sorted(cell.records.items())
    }


@dataclass(frozen=True, kw_only=True)
class _Line:
    """A row in the making: the cells it shows and its values by column and seed."""

    label: str
    cells: tuple[Cell, ...]
    values: Values
    paper: Mapping[str, float | None] | None


def _per_class(experiment: Experiment) -> tuple[list[Column], list[_Line]]:
    classes = experiment.classes
    columns = [Column(name=name, is_mean=False) for name in classes]
    columns += [Column(name=name, is_mean=True) for name in experiment.means]
    lines = []
    for cell in experiment.cells:
        values: Values = {column.name: {} for column in columns}
        for seed, record in sorted(cell.records.items()):
            iou = class_iou(chosen_confusion(record, cell.selection))
            for name, value in zip(classes, iou, strict=True):
                values[name][seed] = float(value)
            for name, subset in experiment.means.items():
                values[name][seed] = mean_over(iou, classes, subset)
        lines.append(
            _Line(
                label=cell.label,
                cells=(cell,),
                values=values,
                paper=_paper_per_class(cell, experiment) if cell.paper else None,
            )
        )
    return columns, lines


def _paper_per_class(cell: Cell, experiment: Experiment) -> dict[str, float | None]:
    """The paper's values by column of a per-class table."""
    assert cell.paper is not None
    row = published.published_row(cell.paper["table"], cell.paper["where"])
    classes = experiment.classes
    found = {name: published.class_value(row, name) for name in classes}
    for i, (name, subset) in enumerate(experiment.means.items()):
        if cell.paper.get("column") and i == 0:
            found[name] = published.column_value(
                cell.paper["table"], row, str(cell.paper["column"])
            )
        else:
            found[name] = published.mean_value(row, subset or classes)
    return found


def _grid(experiment: Experiment) -> tuple[list[Column], list[_Line]]:
    mean = next(iter(experiment.means))
    names = list(dict.fromkeys(cell.column or mean for cell in experiment.cells))
    columns = [Column(name=name, is_mean=True) for name in names]
    groups: dict[tuple[str, str, str], list[Cell]] = {}
    for cell in experiment.cells:
        groups.setdefault((cell.label, cell.method, cell.encoding), []).append(cell)
    lines = []
    for (label, _, _), cells in groups.items():
        values: Values = {name: {} for name in names}
        paper: dict[str, float | None] = {}
        for cell in cells:
            name = cell.column or mean
            values[name] = cell_means(experiment, cell)
            if cell.paper:
                row = published.published_row(cell.paper["table"], cell.paper["where"])
                wanted = str(cell.paper.get("column") or cell.column or "miou")
                paper[name] = published.column_value(cell.paper["table"], row, wanted)
        lines.append(
            _Line(label=label, cells=tuple(cells), values=values, paper=paper if paper else None)
        )
    return columns, lines


def _rows(columns: Sequence[Column], lines: Sequence[_Line]) -> list[Row]:
    """Measured rows with the paper's beneath, then the differences of ECOC to one-hot."""
    statistics = [
        [statistic(list(line.values[column.name].values())) for column in columns] for line in lines
    ]
    ranked = [
        ranks(
            [
                entry.mean if entry and line.cells[0].ranked else None
                for line, entry in zip(lines, column, strict=True)
            ]
        )
        for column in zip(*statistics, strict=True)
    ]
    rows = []
    for i, (line, entries) in enumerate(zip(lines, statistics, strict=True)):
        cell = line.cells[0]
        rows.append(
            Row(
                kind="measured",
                label=line.label,
                method=cell.method,
                encoding=cell.encoding,
                seeds=_seeds(line.cells),
                entries=tuple(entries),
                ranks=tuple(column[i] for column in ranked),
            )
        )
        if line.paper is not None:
            rows += _paper_rows(columns, line, entries)
    return rows + _difference_rows(columns, lines)


def _plain(kind: Kind, label: str, cell: Cell, entries: Sequence[Statistic | None]) -> Row:
    """A row that is not ranked and has no seeds of its own."""
    return Row(
        kind=kind,
        label=label,
        method=cell.method,
        encoding=cell.encoding,
        seeds="",
        entries=tuple(entries),
        ranks=(0,) * len(entries),
    )


def _paper_rows(
    columns: Sequence[Column], line: _Line, entries: Sequence[Statistic | None]
) -> list[Row]:
    cell = line.cells[0]
    assert line.paper is not None
    assert cell.paper is not None
    printed = [line.paper.get(column.name) for column in columns]
    differences = [
        None if ours is None or theirs is None else ours.mean - theirs
        for ours, theirs in zip(entries, printed, strict=True)
    ]
    where = published.table_number(cell.paper["table"])
    kinds: tuple[tuple[Kind, str, list[float | None]], ...] = (
        ("paper", f"paper, {where}", printed),
        ("to_paper", "difference to paper", differences),
    )
    return [
        _plain(kind, label, cell, [None if v is None else statistic([v]) for v in values])
        for kind, label, values in kinds
    ]


def _difference_rows(columns: Sequence[Column], lines: Sequence[_Line]) -> list[Row]:
    by_cell = {cell.name: (line, cell) for line in lines for cell in line.cells}
    found: dict[tuple[int, int], None] = {}
    for ours, base in pairs([cell for _, cell in by_cell.values()]):
        found[(lines.index(by_cell[ours.name][0]), lines.index(by_cell[base.name][0]))] = None
    rows = []
    for i, j in found:
        ours_line, base_line = lines[i], lines[j]
        entries = [
            paired_difference(ours_line.values[column.name], base_line.values[column.name])
            if not _absent(ours_line, base_line, column)
            else None
            for column in columns
        ]
        # "DACS (ECOC)" minus "DACS (one-hot)" is shorter told.
        shared = ours_line.label.removesuffix(" (ECOC)")
        label = f"{ours_line.label} minus {base_line.label}"
        if f"{shared} (one-hot)" == base_line.label:
            label = f"{shared}: ECOC minus one-hot"
        rows.append(_plain("difference", label, ours_line.cells[0], entries))
    return rows


def _absent(ours: _Line, base: _Line, column: Column) -> bool:
    return any(
        not line.values[column.name]
        or all(math.isnan(value) for value in line.values[column.name].values())
        for line in (ours, base)
    )


def _seeds(cells: Sequence[Cell]) -> str:
    """Number of seeds behind a row; "1 of 2" while some are missing."""
    counts = {len(cell.run_ids) for cell in cells}
    finished = sum(len(cell.records) for cell in cells)
    planned = sum(len(cell.run_ids) for cell in cells)
    if finished < planned or len(counts) > 1:
        return f"{finished} of {planned}"
    return str(counts.pop())
