"""Which cells the diagnostics' figures compare, what was counted of them, and how they look."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray

from pipeline.report.canvas import plain
from pipeline.report.cells import Cell, Experiment, pairs
from pipeline.report.figures import contenders
from pipeline.report.lines import best_cell, foremost
from pipeline.report.reading import diagnostics_of, has_diagnostics
from pipeline.report.style import COLOURS, LINES

_MARKERS = "osD^v<>p"


def diagnosed(cells: Iterable[Cell]) -> list[Cell]:
    """The cells with a finished run that has diagnostics; records from before them have none."""
    return [cell for cell in cells if any(has_diagnostics(r) for r in cell.records.values())]


def by_seed(cell: Cell) -> list[dict[str, Any]]:
    """The diagnostics of each finished seed that has some."""
    found = (diagnostics_of(cell.records[seed]) for seed in sorted(cell.records))
    return [each for each in found if each is not None]


def of_first_seed(cell: Cell) -> dict[str, Any]:
    """The diagnostics of the lowest seed that has some."""
    seed = min(seed for seed, record in cell.records.items() if has_diagnostics(record))
    found = diagnostics_of(cell.records[seed])
    assert found is not None
    return found


def scored_networks(cell: Cell) -> list[dict[str, Any]]:
    """Of each seed, the diagnostics of the network that the table scores."""
    role = cell.selection.split(".")[1]
    return [seed[role] or seed["student"] for seed in by_seed(cell)]


def labelling_networks(cell: Cell) -> list[dict[str, Any]]:
    """Of each seed, the diagnostics of the network that labels: the teacher, if there is one."""
    return [seed["teacher"] or seed["student"] for seed in by_seed(cell)]


def labeller(cell: Cell) -> str:
    """The network of `labelling_networks`, by name."""
    return "teacher" if of_first_seed(cell)["teacher"] else "student"


def compared(cells: Sequence[Cell], experiment: Experiment) -> list[Cell]:
    """The best ECOC cell and its one-hot one; without such a pair all of the best's contest."""
    couples = pairs(cells)
    best = best_cell(experiment, [ecoc for ecoc, _ in couples])
    for ecoc, base in couples:
        if ecoc is best:
            return [base, ecoc]
    best = best_cell(experiment, cells)
    rivals = experiment.contests[best.contest] if best is not None else []
    known = {cell.name for cell in cells}
    return foremost([cell for cell in rivals if cell.name in known], len(COLOURS))


def any_spec(cell: Cell) -> dict[str, Any]:
    """What one of the runs was made from; but for the seed all of them are alike."""
    return dict(cell.records[min(cell.records)]["spec"])


def where_counted(cells: Sequence[Cell], networks: Sequence[Mapping[str, Any]]) -> str:
    """When, on which pixels of which images, for which seeds and of which block, for a caption.

    `networks`: the counts of the first cell that the figure shows.
    """
    seeds = sorted({seed for cell in cells for seed in cell.records})
    protocol = cells[0].records[min(cells[0].records)]["protocol"]
    images = of_first_seed(cells[0])["images"]
    block = cells[0].block
    pixels = round(networks[0]["pixels"] / max(images, 1))
    return (
        f"after the last step, about {pixels:,} pixels of each of {images} evenly spaced images of "
        f"{protocol['dataset']}, split {protocol['split']}; "
        f"{'seed' if len(seeds) == 1 else 'seeds'} {', '.join(map(str, seeds))}"
        f"{f'; {block.title}' if block else ''}"
    )


def scored_roles(cells: Iterable[Cell]) -> str:
    """The networks that the table scores, by name."""
    return " or ".join(sorted({cell.selection.split(".")[1] for cell in cells}))


def seed_line(
    axis: Axes,
    places: Iterable[int],
    table: Sequence[NDArray[np.float64]],
    cell: Cell,
    experiment: Experiment,
    *,
    label: str | None = None,
    edge: str | None = None,
    band: bool = True,
) -> None:
    """Mean of the rows (seeds) of `table` as a line, one standard deviation as a `band`.

    `label`: for the legend; `edge`: colour around the markers, by default the line's.
    """
    mean, around, x = np.mean(table, axis=0), spread(np.array(table)), list(places)
    look = style(cell, experiment)
    axis.plot(
        x, mean, markersize=4.5, markeredgecolor=edge or look["color"], zorder=3,
        label=None if label is None else plain(label), **look,
    )  # fmt: skip
    if band and around.any():
        axis.fill_between(
            x, mean - around, mean + around, color=look["color"], alpha=0.18, linewidth=0
        )


def spread(table: NDArray[np.float64]) -> NDArray[np.float64]:
    """Sample standard deviation over the rows; 0 for a single one."""
    return table.std(0, ddof=1) if len(table) > 1 else np.zeros(table.shape[1])


def _position(cell: Cell, experiment: Experiment) -> int:
    return contenders(experiment).index(cell.contender)


def colour(cell: Cell, experiment: Experiment) -> str:
    """The colour of the cell's row in every figure of the experiment."""
    return COLOURS[_position(cell, experiment) % len(COLOURS)]


def style(cell: Cell, experiment: Experiment) -> dict[str, Any]:
    """Colour, line and marker of the cell's row, as keywords of `plot`."""
    position = _position(cell, experiment)
    return {
        "color": colour(cell, experiment),
        "linestyle": LINES[position % len(LINES)],
        "marker": _MARKERS[position % len(_MARKERS)],
    }
