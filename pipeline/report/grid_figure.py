"""A grid as a picture: its first mean over the columns, a line for each row."""

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path

from matplotlib.axes import Axes

from pipeline.report.canvas import WIDTH, Drawn, canvas, legend_of_all, plain
from pipeline.report.cells import Cell, Experiment
from pipeline.report.lines import cell_means, in_order
from pipeline.report.scores import statistic
from pipeline.report.style import COLOURS, LINES

_LETTER = 0.075  # inches, of the labels along the axis
_Row = Mapping[str | None, Cell]


def draw_grid(experiment: Experiment, path: Path) -> Drawn | None:
    """One panel for each block that has several rows; all in one where none has."""
    places = [place for cell in experiment.cells for place in cell.places]
    columns = in_order([place.column for place in places if place.column])
    if experiment.layout != "grid" or len(columns) < 2:
        return None
    blocks: dict[str, dict[str, dict[str | None, Cell]]] = {}
    for place in places:
        block = place.block.title if place.block else ""
        blocks.setdefault(block, {}).setdefault(place.row, {})[place.column] = place
    if all(len(rows) == 1 for rows in blocks.values()):
        alone = len({row for rows in blocks.values() for row in rows}) == len(blocks)
        lines = {
            row if alone else f"{block}, {row}": cells
            for block, rows in blocks.items()
            for row, cells in rows.items()
        }
        panels: dict[str, dict[str, dict[str | None, Cell]]] = {"": lines}
    else:
        panels = blocks
    rows = list(dict.fromkeys(row for lines in panels.values() for row in lines))
    scale = _scale(columns) if experiment.columns else None
    # Names want the whole width; on a scale blocks are compared side by side.
    across = 1 if scale is None else min(len(panels), 2)
    down = math.ceil(len(panels) / across)
    height = 3.6 if down == 1 else 3.0
    with canvas(path, down, across, height, sharey=across > 1) as axes:
        for axis, (block, lines) in zip(axes, panels.items(), strict=False):
            for row, cells in lines.items():
                _line(axis, row, cells, columns, rows.index(row), len(rows), scale)
            _columns(axis, columns, scale)
            axis.set_title(plain(block or experiment.title), fontsize=9.5 if across == 1 else 8.5)
            if experiment.columns:
                axis.set_xlabel(plain(experiment.columns))
        for axis in axes[::across]:
            axis.set_ylabel(f"{experiment.means[0]} (%)")
        for axis in axes[len(panels) :]:
            axis.set_visible(False)
        legend_of_all(axes)
    return Drawn(path=path, caption=_caption(experiment))


def _caption(experiment: Experiment) -> str:
    bars = "mean of the seeds, bars are one standard deviation"
    if experiment.columns is None:
        return f"The grid as a picture: {bars}."
    return (
        f"{experiment.means[0]} over {experiment.columns}: {bars}. Lines are set apart a little "
        "along the axis, so that their bars do not hide each other."
    )


def _scale(columns: Sequence[str]) -> list[float] | None:
    """The columns as numbers; None where one is none."""
    try:
        return [float(column) for column in columns]
    except ValueError:
        return None


def _line(
    axis: Axes,
    label: str,
    cells: _Row,
    columns: Sequence[str],
    position: int,
    among: int,
    scale: Sequence[float] | None,
) -> None:
    """A row, interrupted where the columns change the network."""
    places = scale or range(len(columns))
    apart = 0.03 if scale is None else 0.01 * (max(scale) - min(scale))
    scores = [
        statistic(list(cell_means(cells[c]).values())) if c in cells else None for c in columns
    ]
    shown: str | None = label
    for part in [range(len(columns))] if scale else _parts(columns):
        there = [(i, score) for i in part if (score := scores[i]) is not None]
        if not there:
            continue
        axis.errorbar(
            [places[i] + apart * (position - (among - 1) / 2) for i, _ in there],
            [score.mean for _, score in there],
            yerr=[score.std or 0.0 for _, score in there],
            color=COLOURS[position % len(COLOURS)],
            linestyle=LINES[position % len(LINES)],
            marker="osD^"[position % 4],
            markersize=4.5,
            capsize=2.5,
            label=None if shown is None else plain(shown),
        )
        shown = None


def _parts(columns: Sequence[str]) -> list[list[int]]:
    """Places of the columns, parted where what they begin with ("ResNet-50") changes.

    What only one column begins with is its own name and parts nothing.
    """
    starts = [column.rpartition(" ")[0] for column in columns]
    if any(starts.count(start) < 2 for start in starts):
        return [list(range(len(columns)))]
    parts = [[0]]
    for place, (before, now) in enumerate(pairwise(starts), start=1):
        if now == before:
            parts[-1].append(place)
        else:
            parts.append([place])
    return parts


def _columns(axis: Axes, columns: Sequence[str], scale: Sequence[float] | None) -> None:
    """The columns' names, aslant where they would run into each other; or a scale."""
    axis.set_xticks(scale or range(len(columns)), [plain(column) for column in columns])
    if scale:
        axis.margins(x=0.06)
        return
    if _LETTER * sum(len(column) + 2 for column in columns) > WIDTH - 0.8:
        for label in axis.get_xticklabels():
            label.set(rotation=25, ha="right", rotation_mode="anchor")
    axis.set_xlim(-0.3, len(columns) - 0.7)
