"""The figures of what the networks' bits and classes are worth: the paper's Figures 4b to 8.

Records from before the diagnostics have none: an experiment of such records has no such figure.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ecocseg.calibration import ece, pooled_ece, rank_accuracy, reliability
from pipeline.report.canvas import Drawn, canvas, legend_of_all, plain
from pipeline.report.cells import Cell, Experiment
from pipeline.report.codebook_figure import draw_codebooks
from pipeline.report.diagnosed import (
    any_spec,
    colour,
    compared,
    diagnosed,
    labeller,
    of_first_seed,
    scored_networks,
    scored_roles,
    seed_line,
    spread,
    style,
    where_counted,
)
from pipeline.report.lines import best_cell
from pipeline.report.panels import PSEUDO_LABELS, pictures_of
from pipeline.report.scores import statistic
from pipeline.report.style import INK
from pipeline.report.threshold_figure import draw_thresholds

_NEAREST = 6
_MOST_BOOKS = 9
_FEWEST = 0.1  # percent of the decisions: what a bin must hold to be shown
_COLUMNS = ("count", "confidence", "correct")
_RELIABLE = {
    "bits": "Bits",
    "classes": "Classes, by their probability",
    "mean_bits": "Classes, by the mean of their bits",
}
"""What has a reliability diagram, and its title."""


def draw_diagnostics(experiment: Experiment, folder: Path) -> list[Drawn]:
    """Write the figures that the records' diagnostics allow, `folder/<experiment>_<kind>.png`."""
    cells = compared(diagnosed(experiment.cells), experiment)
    if not cells:
        return []
    found = [
        _codebooks(
            diagnosed(experiment.cells), experiment, folder / f"{experiment.name}_codebooks.png"
        ),
        draw_thresholds(cells, experiment, folder / f"{experiment.name}_thresholds.png"),
        _nearest(cells, experiment, folder / f"{experiment.name}_nearest.png"),
        _reliability(cells, experiment, folder / f"{experiment.name}_reliability.png"),
    ]
    return [drawn for drawn in found if drawn is not None]


def label_picture(experiment: Experiment, runs_dir: Path) -> Drawn | None:
    """The picture of the pseudo-labels of one run (Fig. 4b), where it was drawn.

    The run is the best cell's, of those with ECOC where there are any, of its lowest finished seed.
    """
    cells = diagnosed(experiment.cells)
    coded = [cell for cell in cells if cell.encoding == "ecoc"]
    cell = best_cell(experiment, coded or cells)
    if cell is None:
        return None
    seed = min(cell.records)
    path = pictures_of(cell, seed, runs_dir) / PSEUDO_LABELS
    if not path.is_file():
        return None
    text = (
        f"Pseudo-labels of the {labeller(cell)} of {cell.title}, seed {seed}, after the last "
        "step (the paper's Figure 4b): nearest and second nearest class and the confidence of each "
        "pixel"
    )
    if cell.encoding == "ecoc":
        text += (
            "; how many candidates the mining ends with, and on how many of the bits code-wise and "
            "bit-wise label differ"
        )
    return Drawn(path=path, caption=f"{text}. The scale of a map stands above it.")


def _codebooks(cells: Sequence[Cell], experiment: Experiment, path: Path) -> Drawn | None:
    """Similarity matrices of the different codebooks."""
    books: dict[tuple[str, ...], str] = {}
    for cell in cells:
        rows = tuple(of_first_seed(cell).get("codebook") or ())
        if rows:
            options = any_spec(cell)["encoding"]
            given = options.get("codebook_path")
            name = Path(given).stem if given else options["codebook"]
            books.setdefault(rows, f"{name}, K = {len(rows[0])}")
    if not books:
        return None
    shown = list(books.items())[:_MOST_BOOKS]
    tables = [
        (name, np.array([[bit == "1" for bit in row] for row in rows], dtype=np.bool_))
        for rows, name in shown
    ]
    drawn = draw_codebooks(tables, experiment.classes, path)
    if len(shown) < len(books):
        told = f"{drawn.caption} The first {len(shown)} of {len(books)} codebooks."
        return Drawn(path=path, caption=told)
    return drawn


def _nearest(cells: Sequence[Cell], experiment: Experiment, path: Path) -> Drawn:
    """How often the C-th nearest class is the true one, and how often one of the C nearest is."""
    width = 0.8 / len(cells)
    error = {"elinewidth": 0.9, "ecolor": INK}
    shown = min(_NEAREST, len(experiment.classes))
    with canvas(path, height=3.6) as (axis,):
        for i, cell in enumerate(cells):
            accuracies = [rank_accuracy(network["rank"]) for network in scored_networks(cell)]
            exact = np.array([pair[0][:shown] for pair in accuracies])
            at = np.arange(1, shown + 1) - 0.4 + (i + 0.5) * width
            axis.bar(
                at, exact.mean(0), width * 0.92, yerr=spread(exact), error_kw=error,
                color=colour(cell, experiment), label=plain(cell.full_name),
            )  # fmt: skip
            top = [pair[1][:shown] for pair in accuracies]
            seed_line(axis, range(1, shown + 1), top, cell, experiment, edge="white")
        axis.set_xlabel("C")
        axis.set_ylabel("share of pixels (%)")
        axis.set_ylim(0, 100)
        axis.grid(axis="x", visible=False)
        axis.set_title("True class: C-th nearest (bars), among the C nearest (lines)")
        legend_of_all([axis])
    return Drawn(
        path=path,
        caption="How often the C-th nearest class is the true one (bars) and how often the C "
        f"nearest hold it (lines); the paper's Figure 7. The {scored_roles(cells)} "
        f"{where_counted(cells, scored_networks(cells[0]))}; mean, and one standard deviation "
        "where there are several.",
    )


def _reliability(cells: Sequence[Cell], experiment: Experiment, path: Path) -> Drawn:
    """Accuracy over confidence of bits and classes; beneath, how the confidences spread."""
    kinds = [kind for kind in _RELIABLE if any(_has(cell, kind) for cell in cells)]
    with canvas(path, 2, len(kinds), 2.6) as axes:
        grid = axes[0].get_gridspec()
        assert grid is not None
        grid.set_height_ratios([1.0, 0.42])
        for column, kind in enumerate(kinds):
            upper, lower = axes[column], axes[len(kinds) + column]
            upper.plot([0, 100], [0, 100], color=INK, linewidth=0.8, linestyle=":")
            for i, cell in enumerate(cells):
                if not _has(cell, kind):
                    continue
                tables = [network[kind] for network in scored_networks(cell)]
                error = statistic([pooled_ece(table) for table in tables])
                points = reliability(*(_pooled(tables, name) for name in _COLUMNS))
                there = points.share >= _FEWEST
                label = f"{cell.full_name}: " + ("--" if error is None else f"{error.mean:.1f}")
                if error is not None and error.std is not None:
                    label += f" ± {error.std:.1f}"
                upper.plot(
                    points.confidence[there], points.accuracy[there], markersize=4.5,
                    clip_on=False, label=plain(label), **style(cell, experiment),
                )  # fmt: skip
                width = 8.0 / len(cells)
                at = 10 * np.arange(len(points.share)) + 1.0 + (i + 0.5) * width
                lower.bar(at, points.share, width * 0.95, color=colour(cell, experiment))
            upper.set_title(f"{_RELIABLE[kind]}; ECE in %")
            upper.legend(loc="upper left", fontsize=7.5 if len(cells) < 5 else 6.2)
            upper.set_ylim(0, 100)
            lower.set_ylim(bottom=0)
            lower.grid(axis="x", visible=False)
            lower.set_xlabel("confidence (%)")
            for axis in (upper, lower):
                axis.set_xlim(0, 100)
        axes[0].set_ylabel("accuracy (%)")
        axes[len(kinds)].set_ylabel("share (%)")
    return Drawn(
        path=path,
        caption="Reliability (the paper's Figure 8): accuracy over confidence in bins of 0.1, of "
        "single bits (one-hot: channels of the softmax) and of classes: by the probability of the "
        "class, of ECOC by the mean confidence of its bits too; below, the share of "
        f"decisions in each bin. Bins with less than {_FEWEST} % are not shown above. ECE is the "
        "mean gap to the dotted line, mean of the seeds. "
        f"ECE of each bit by itself: {_apart(cells, 'bits')}; of each predicted class: "
        f"{_apart(cells, 'classes')}. The {scored_roles(cells)} "
        f"{where_counted(cells, scored_networks(cells[0]))}, added up in the diagram.",
    )


def _has(cell: Cell, kind: str) -> bool:
    return all(kind in network for network in scored_networks(cell))


def _apart(cells: Sequence[Cell], kind: str) -> str:
    """Smallest and largest ECE of a single bit or class in each cell, its seeds added up."""
    found = []
    for cell in cells:
        tables = [network[kind] for network in scored_networks(cell)]
        counts = [np.sum([np.asarray(t[name], float) for t in tables], axis=0) for name in _COLUMNS]
        errors = ece(*counts)
        if not np.isnan(errors).all():
            found.append(f"{cell.full_name} {np.nanmin(errors):.1f} to {np.nanmax(errors):.1f}")
    return ", ".join(found) or "--"


def _pooled(tables: Sequence[Mapping[str, Any]], column: str) -> NDArray[np.float64]:
    """Sum over seeds and rows, [bins]."""
    return np.sum([np.asarray(table[column], dtype=np.float64).sum(0) for table in tables], axis=0)
