"""Experiments into tables: which number stands where, with rank, spread and what it is compared to.

Nothing here knows a file format; `formats` writes a `Table` as Markdown, LaTeX, CSV or HTML.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

from ecocseg.errors import ConfigError
from pipeline.report import published
from pipeline.report.cells import Block, Cell, Experiment, pairs
from pipeline.report.cost import cost_lines
from pipeline.report.lines import grid_lines, per_class_lines, reference_values
from pipeline.report.notes import table_notes
from pipeline.report.parts import Column, Kind, Line, Row, Table
from pipeline.report.scores import (
    Statistic,
    paired_difference,
    paired_ratio,
    ranks,
    statistic,
)

_LAYOUTS: dict[str, Callable[[Experiment], tuple[list[Column], list[Line]]]] = {
    "per_class": per_class_lines,
    "grid": grid_lines,
    "cost": cost_lines,
}
Entries = Sequence[Statistic | None]


def build_table(experiment: Experiment) -> Table:
    """The table of one experiment, finished or not.

    "per_class": a row per cell, a column per class and per mean. "grid": a row per group, or per
    label and encoding, a column per `column` of the plan, filled with the first mean. "cost": a
    row per cell, what it needs in columns. Blocks follow each other, each ranked by itself.
    Raises ConfigError for another layout, an unknown selection, class or row of the paper.
    """
    if experiment.layout not in _LAYOUTS:
        raise ConfigError(
            f"experiment {experiment.name}, layout: got {experiment.layout!r}, "
            f"allowed {', '.join(_LAYOUTS)}"
        )
    columns, lines = _LAYOUTS[experiment.layout](experiment)
    rows: list[Row] = []
    for block in experiment.blocks:
        rows += _reference_rows(experiment, block, columns)
        rows += _rows(experiment.layout, columns, [line for line in lines if line.block == block])
    # In a grid, blocks of one row each are there for their classes: the rows say it all.
    headed = experiment.layout != "grid" or len(lines) > len(experiment.blocks)
    return Table(
        name=experiment.name,
        title=experiment.title,
        description=experiment.description,
        layout=experiment.layout,
        columns=tuple(columns),
        rows=tuple(row if headed else replace(row, section="") for row in rows),
        notes=tuple(table_notes(experiment)),
        columns_are=experiment.columns,
    )


def _rows(layout: str, columns: Sequence[Column], lines: Sequence[Line]) -> list[Row]:
    """Measured rows with the paper's beneath, then the comparisons of ECOC to one-hot."""
    statistics = [
        [statistic(list(line.values[column.name].values())) for column in columns] for line in lines
    ]
    ranked = [[0] * len(columns) for _ in lines]
    if layout != "cost":
        ranked = _ranks(columns, lines, statistics)
    rows = []
    for line, entries, places in zip(lines, statistics, ranked, strict=True):
        deviates = any(cell.deviations for cell in line.cells)
        measured = _row("measured", line.label, line.cells, entries)
        rows.append(
            replace(measured, seeds=_seeds(line.cells), ranks=tuple(places), deviates=deviates)
        )
        if line.paper is not None:
            rows += _paper_rows(layout, columns, line, entries)
    compared = _ratio_rows if layout == "cost" else _difference_rows
    return rows + compared(columns, lines)


def _ranks(
    columns: Sequence[Column], lines: Sequence[Line], statistics: Sequence[Entries]
) -> list[list[int]]:
    """Rank of each entry, [lines][columns]: down a column, or along a line that competes so."""

    def value(line: Line, column: Column, entry: Statistic | None) -> float | None:
        cell = line.cell(column.name)
        return entry.mean if entry and cell and cell.ranked else None

    means = [
        [value(line, column, entry) for column, entry in zip(columns, entries, strict=True)]
        for line, entries in zip(lines, statistics, strict=True)
    ]
    down = [row for line, row in zip(lines, means, strict=True) if not line.along]
    by_column = [ranks(column) for column in zip(*down, strict=True)]
    ranked_down = zip(*by_column, strict=True)
    return [
        ranks(row) if line.along else list(next(ranked_down))
        for line, row in zip(lines, means, strict=True)
    ]


def _row(kind: Kind, label: str, cells: Sequence[Cell], entries: Entries) -> Row:
    """A row of these cells, not ranked and without seeds of its own."""
    block = cells[0].block
    return Row(
        kind=kind,
        label=label,
        method=", ".join(dict.fromkeys(cell.method for cell in cells)),
        encoding=", ".join(dict.fromkeys(cell.encoding for cell in cells)),
        seeds="",
        entries=tuple(entries),
        ranks=(0,) * len(entries),
        section=block.title if block else "",
    )


def _reference_rows(
    experiment: Experiment, block: Block | None, columns: Sequence[Column]
) -> list[Row]:
    """Published rows of other methods."""
    rows = []
    for reference in experiment.references:
        if reference.block == (block.key if block else None):
            values = reference_values(experiment, reference, columns)
            entries = _single([values.get(column.name) for column in columns])
            rows.append(
                Row(
                    kind="reference",
                    label=f"{reference.label} ({published.table_number(reference.table)})",
                    method=reference.label,
                    encoding=str(reference.where.get("encoding", "")),
                    seeds="",
                    entries=tuple(entries),
                    ranks=(0,) * len(entries),
                    section=block.title if block else "",
                )
            )
    return rows


def _paper_rows(layout: str, columns: Sequence[Column], line: Line, entries: Entries) -> list[Row]:
    assert line.paper is not None
    cell = next(cell for cell in line.cells if cell.paper)
    assert cell.paper is not None
    printed = [line.paper.get(column.name) for column in columns]
    where = published.table_number(cell.paper["table"])
    rows = [_row("paper", f"paper, {where}", line.cells, _single(printed))]
    if layout != "cost":
        differences = [
            None if ours is None or theirs is None else ours.mean - theirs
            for ours, theirs in zip(entries, printed, strict=True)
        ]
        rows.append(_row("to_paper", "difference to paper", line.cells, _single(differences)))
    return rows


def _difference_rows(columns: Sequence[Column], lines: Sequence[Line]) -> list[Row]:
    """ECOC minus one-hot: within a line where its columns compete, else between two lines."""
    found: dict[tuple[int, int], dict[str, Statistic | None]] = {}
    for i, j, (ours, base) in _line_pairs(lines):
        shown = [column.name for column in columns if not lines[i].along]
        for name in shown or [ours.place]:
            ours_values = lines[i].values[name]
            base_values = lines[j].values[base.place if lines[i].along else name]
            there = _there(ours_values) and _there(base_values)
            difference = paired_difference(ours_values, base_values) if there else None
            found.setdefault((i, j), {})[name] = difference
    return [
        _row(
            "difference",
            _versus(lines[i], lines[j], "minus"),
            lines[i].cells[:1] if i != j else lines[i].cells,
            [entries.get(column.name) for column in columns],
        )
        for (i, j), entries in found.items()
    ]


def _ratio_rows(columns: Sequence[Column], lines: Sequence[Line]) -> list[Row]:
    """ECOC over one-hot, and the same of the paper's numbers."""
    rows = []
    for i, j, _ in _line_pairs(lines):
        ours, base = lines[i], lines[j]
        ratios = [paired_ratio(ours.values[c.name], base.values[c.name]) for c in columns]
        rows.append(_row("ratio", _versus(ours, base, "over"), ours.cells, ratios))
        if ours.paper and base.paper and ours.cells[0].paper:
            printed = [(ours.paper[c.name], base.paper[c.name]) for c in columns]
            where = published.table_number(ours.cells[0].paper["table"])
            values = _single([a / b if a and b else None for a, b in printed])
            rows.append(_row("ratio", f"paper, {where}: ECOC over one-hot", ours.cells, values))
    return rows


def _line_pairs(lines: Sequence[Line]) -> list[tuple[int, int, tuple[Cell, Cell]]]:
    """Places of the lines whose cells compare, ECOC first, and the two cells."""
    lines_of = {(cell.name, cell.row): i for i, line in enumerate(lines) for cell in line.cells}
    cells = [cell for line in lines for cell in line.cells]
    return [
        (lines_of[ours.name, ours.row], lines_of[base.name, base.row], (ours, base))
        for ours, base in pairs(cells)
    ]


def _versus(ours: Line, base: Line, word: str) -> str:
    """ "DACS (ECOC, text)" minus "DACS (one-hot)" is shorter told."""
    if ours is base:
        return f"{ours.label}: ECOC {word} one-hot"
    shared, bracket, told = ours.label.partition(" (ECOC")
    if bracket and f"{shared} (one-hot)" == base.label:
        return f"{shared}: ECOC{told.removesuffix(')')} {word} one-hot"
    return f"{ours.label} {word} {base.label}"


def _single(values: Sequence[float | None]) -> list[Statistic | None]:
    return [None if value is None else statistic([value]) for value in values]


def _there(values: dict[int, float]) -> bool:
    return any(not math.isnan(value) for value in values.values())


def _seeds(cells: Sequence[Cell]) -> str:
    """Number of seeds behind a row; "1 of 2" while some are missing."""
    counts = {len(cell.run_ids) for cell in cells}
    finished = sum(len(cell.records) for cell in cells)
    planned = sum(len(cell.run_ids) for cell in cells)
    if finished < planned or len(counts) > 1:
        return f"{finished} of {planned}"
    return str(counts.pop())
