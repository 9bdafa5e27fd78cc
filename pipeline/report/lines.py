"""Cells into the lines of a table: which value of which seed stands in which column."""

from collections.abc import Mapping, Sequence

from ecocseg.errors import ConfigError
from ecocseg.iou import class_scores, overall_accuracy
from pipeline.report import published
from pipeline.report.cells import Cell, Experiment, Record, Reference
from pipeline.report.parts import Column, Line, Values
from pipeline.report.scores import chosen_confusion, mean_over, statistic


def cell_means(
    cell: Cell, selection: str | None = None, name: str | None = None
) -> dict[int, float]:
    """The mean `name` of a cell (None: its first) in percent, for each finished seed."""
    key = selection or cell.selection, name or next(iter(cell.means))
    if key not in cell.scores:
        cell.scores[key] = {
            seed: record_mean(cell, key[1], record, key[0])
            for seed, record in sorted(cell.records.items())
        }
    return cell.scores[key]


def foremost(cells: Sequence[Cell], most: int) -> list[Cell]:
    """The cells, in their order; of more than `most` those with the highest means."""
    if len(cells) <= most:
        return list(cells)
    scores = [statistic(list(cell_means(cell).values())) for cell in cells]
    there = [(-score.mean, place) for place, score in enumerate(scores) if score is not None]
    return [cells[place] for place in sorted(place for _, place in sorted(there)[:most])]


def record_mean(cell: Cell, name: str, record: Record, selection: str | None = None) -> float:
    """The mean `name` of one of the cell's runs, in percent."""
    confusion, score = chosen_confusion(record, selection or cell.selection), cell.means[name].score
    if score == "accuracy":
        return overall_accuracy(confusion)
    return mean_over(class_scores(confusion, score), record["classes"], cell.subset(name))


def best_cell(experiment: Experiment, among: Sequence[Cell] | None = None) -> Cell | None:
    """The ranked cell with the highest mean; of all cells when none is ranked.

    `among`: cells to choose from, by default all of the experiment; of several blocks the first
    with a finished run, for their means do not compare.
    """
    cells = experiment.cells if among is None else among
    finished = [cell for cell in cells if cell.records]
    finished = [cell for cell in finished if cell.block == finished[0].block]
    ranked = [cell for cell in finished if cell.ranked] or finished
    scored = [(statistic(list(cell_means(cell).values())), cell) for cell in ranked]
    there = [(score.mean, cell) for score, cell in scored if score is not None]
    return max(there, key=lambda pair: pair[0])[1] if there else None


def per_class_lines(experiment: Experiment) -> tuple[list[Column], list[Line]]:
    """A line per cell; a column per class and per mean, absent where a cell's block has it not."""
    classes = experiment.classes
    columns = [Column(name=name, is_mean=False) for name in classes]
    columns += [Column(name=name, is_mean=True) for name in experiment.means]
    lines = []
    for cell in experiment.cells:
        scored = _scored(cell, classes)
        values: Values = {column.name: {} for column in columns}
        for seed, record in sorted(cell.records.items()):
            scores = class_scores(chosen_confusion(record, cell.selection), cell.class_score)
            for name, value in zip(classes, scores, strict=True):
                if name in scored:
                    values[name][seed] = float(value)
        for name in cell.means:
            values[name] |= cell_means(cell, name=name)
        paper = None
        if cell.paper:
            table, column = cell.paper["table"], cell.paper.get("column")
            row = published.published_row(table, cell.paper["where"])
            paper = _printed(cell, row, classes, table, None if column is None else str(column))
        lines.append(Line(label=cell.label, cells=(cell,), values=values, paper=paper))
    return columns, lines


def grid_lines(experiment: Experiment) -> tuple[list[Column], list[Line]]:
    """A line per group or else per label and encoding, a column per `column`, of the first mean.

    Columns that are all numbers stand in their order, others as they come; those of the first mean
    before those of the next. Raises ConfigError when two cells stand in one place.
    """
    places = [place for cell in experiment.cells for place in cell.places]
    names = in_order([cell.place for cell in places])
    further = [_further(cell, mean) for mean in experiment.means[1:] for cell in places]
    rows: dict[tuple[str | None, ...], list[Cell]] = {}
    for cell in places:
        block = cell.block.key if cell.block else None
        kind = (cell.group,) if cell.group else (cell.label, cell.method, cell.encoding)
        rows.setdefault((block, *kind), []).append(cell)
    lines = []
    for cells in rows.values():
        values: Values = {name: {} for name in (*names, *further)}
        paper: dict[str, float | None] = {}
        taken: dict[str, Cell] = {}
        for cell in cells:
            name = cell.place
            if name in taken:
                raise ConfigError(
                    f"experiment {experiment.name}: cells {taken[name].name} and {cell.name} both "
                    f"stand in row {cell.row!r}, column {name!r}; give one another group or column"
                )
            taken[name] = cell
            values[name] = cell_means(cell)
            for mean in list(cell.means)[1:]:
                values[_further(cell, mean)] = cell_means(cell, name=mean)
            if cell.paper:
                row = published.published_row(cell.paper["table"], cell.paper["where"])
                wanted = str(cell.paper.get("column") or cell.column or "miou")
                paper[name] = published.column_value(cell.paper["table"], row, wanted)
        lines.append(
            Line(
                label=cells[0].row,
                cells=tuple(cells),
                values=values,
                paper=paper or None,
                along=cells[0].group is not None,
            )
        )
    columns = [Column(name=name, is_mean=True) for name in names]
    columns += [Column(name=n, is_mean=True, further=True) for n in dict.fromkeys(further)]
    return columns, lines


def _further(cell: Cell, mean: str) -> str:
    """The column of a grid that shows a mean other than the first."""
    return f"{cell.column}, {mean}" if cell.column else mean


def reference_values(
    experiment: Experiment, reference: Reference, columns: Sequence[Column]
) -> dict[str, float | None]:
    """The printed values of a row of the paper by column.

    Raises ConfigError when the row is not there or, but for tables of classes, a column.
    """
    row = published.published_row(reference.table, reference.where)
    if experiment.layout != "per_class":
        first = [column.name for column in columns if not column.further]
        wanted = {n: n if len(first) > 1 else reference.column or n for n in first}
        return {n: published.column_value(reference.table, row, c) for n, c in wanted.items()}
    inside = (c for c in experiment.cells if (c.block.key if c.block else None) == reference.block)
    return _printed(next(inside), row, experiment.classes, reference.table, reference.column)


def _printed(
    cell: Cell, row: Mapping[str, str], classes: Sequence[str], table: str, column: str | None
) -> dict[str, float | None]:
    """The paper's classes and means that the cell's block has; `column` is the first mean's."""
    found = {name: published.class_value(row, name) for name in _scored(cell, classes)}
    for name in cell.means:
        found[name] = published.mean_value(row, cell.subset(name) or classes or None)
    if column is not None:
        found[next(iter(cell.means))] = published.column_value(table, row, column)
    return found


def _scored(cell: Cell, classes: Sequence[str]) -> Sequence[str]:
    """The classes that the cell's block is scored on; ConfigError for one that nobody has."""
    if cell.block is None or cell.block.classes is None or not classes:
        return classes
    if unknown := [name for name in cell.block.classes if name not in classes]:
        raise ConfigError(
            f"section {cell.block.key}, classes: got {unknown[0]!r}, allowed {', '.join(classes)}"
        )
    return [name for name in classes if name in cell.block.classes]


def in_order(names: Sequence[str]) -> list[str]:
    """Each once: by number where all are numbers."""
    found = list(dict.fromkeys(names))
    try:
        return sorted(found, key=float)
    except ValueError:
        return found
