"""The figures of an experiment: learning curves, classes, grid, confusion, pseudo-labels."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from pipeline.report.canvas import Drawn, canvas, legend_of_all, plain
from pipeline.report.cells import Cell, Experiment, pairs
from pipeline.report.class_figures import draw_classes, draw_confusion
from pipeline.report.curves import evaluation_curves, over_seeds, training_curves
from pipeline.report.grid_figure import draw_grid
from pipeline.report.lines import best_cell, foremost
from pipeline.report.protocols import score_name
from pipeline.report.style import COLOURS, LINES

# As many as can be told apart: lines of a panel, panels of a figure.
_MOST_LINES, _MOST_PANELS = len(COLOURS), 12
# Logged name, title, unit: the statistics of pseudo-labels (the paper's Fig. 4a and App. H).
_STATISTICS = (
    ("difference", "Bits on which code-wise and bit-wise differ", "bits per pixel"),
    ("correction", "Of these, bits that mask M corrects", "bits per pixel"),
    ("mask_share", "Bits that are reliable (mask M)", "share of bits"),
    ("quality", "Confident pixels (quality weight)", "share of pixels"),
)


def draw_figures(experiment: Experiment, folder: Path) -> list[Drawn]:
    """Write every figure that the finished runs allow as `folder/<experiment>_<kind>.png`."""
    if not experiment.records:
        return []
    found = [
        _learning_curves(experiment, folder / f"{experiment.name}_curves.png"),
        draw_grid(experiment, folder / f"{experiment.name}_grid.png"),
        draw_classes(experiment, folder / f"{experiment.name}_classes.png"),
        draw_confusion(experiment, folder / f"{experiment.name}_confusion.png"),
        _pseudo_labels(experiment, folder / f"{experiment.name}_pseudo_labels.png"),
    ]
    return [drawn for drawn in found if drawn is not None]


def contenders(experiment: Experiment) -> list[str]:
    """What competes, in order: the position is the colour in every figure."""
    return list(dict.fromkeys(c.contender for cells in experiment.contests.values() for c in cells))


def _positions(experiment: Experiment, shown: Sequence[Cell]) -> dict[str, int]:
    """Where each stands among all that compete; among the shown ones where those are too many."""
    names = contenders(experiment)
    if len(names) > _MOST_LINES:
        there = {cell.contender for cell in shown}
        names = [name for name in names if name in there]
    return {name: i for i, name in enumerate(names)}


def _learning_curves(experiment: Experiment, path: Path) -> Drawn | None:
    every = {
        name: there
        for name, cells in experiment.contests.items()
        if (there := [c for c in cells if any(r["curves"]["eval"] for r in c.records.values())])
    }
    contests = {
        name: foremost(cells, _MOST_LINES) for name, cells in list(every.items())[:_MOST_PANELS]
    }
    shown = [cell for cells in contests.values() for cell in cells]
    frame = evaluation_curves(experiment, list({cell.name: cell for cell in shown}.values()))
    if frame.empty:
        return None
    score, positions = score_name(experiment.protocol), _positions(experiment, shown)
    curves = dict(iter(frame.groupby(["cell", "network"], sort=False)))
    across = min(len(contests), 3)
    down = math.ceil(len(contests) / across)
    with canvas(path, down, across, 3.6 if down == 1 else 2.8, sharey=True) as axes:
        for axis, (name, cells) in zip(axes, contests.items(), strict=False):
            for cell in cells:
                chosen = curves.get((cell.name, cell.selection.split(".")[1]))
                if chosen is not None:
                    position = positions[cell.contender]
                    _band(axis, over_seeds(chosen, "miou").to_numpy(), cell.contender, position)
            axis.set_title(plain(name) if name else f"Validation {score} while training")
            _steps(axis)
        for i in range(0, len(contests), across):
            axes[i].set_ylabel(f"{score} (%)")
        _hide(axes[len(contests) :])
        legend_of_all(axes)
    networks = sorted({cell.selection.split(".")[1] for cell in experiment.cells})
    fewer = ""
    scored = experiment.protocol.get("classes")
    if scored is None and any(cell.block and cell.block.classes for cell in experiment.cells):
        fewer = (
            " Logged as the mean of all classes of the data set, also where the table has fewer."
        )
    return Drawn(
        path=path,
        caption=f"Validation {score} of the {' or '.join(networks)} over training: mean of the "
        f"seeds, band of one standard deviation where there are several.{fewer}"
        f"{_left_out(every, contests)}",
    )


def _left_out(every: Mapping[str, Sequence[Cell]], shown: Mapping[str, Sequence[Cell]]) -> str:
    """What a caption says of panels and lines that there was no room for."""
    told = ""
    if len(shown) < len(every):
        told += f" The first {len(shown)} of {len(every)} panels."
    if any(len(shown[name]) < len(every[name]) for name in shown):
        told += f" Of more than {_MOST_LINES} lines in a panel those that end highest."
    return told


def _band(axis: Axes, points: np.ndarray, label: str, position: int) -> None:
    """A line through the means of `points` [steps, (step, mean, std, n)] with its band."""
    step, mean, std = points[:, 0], points[:, 1], points[:, 2]
    colour = COLOURS[position % len(COLOURS)]
    axis.plot(
        step,
        mean,
        color=colour,
        linestyle=LINES[position % len(LINES)],
        marker="osD^"[position % 4] if len(step) < 25 else None,
        markersize=3.5,
        label=plain(label),
    )
    if std.any():
        axis.fill_between(step, mean - std, mean + std, color=colour, alpha=0.18, linewidth=0)


def _pseudo_labels(experiment: Experiment, path: Path) -> Drawn | None:
    """What became of the pseudo-labels over training."""
    finished = [cell for cell in experiment.cells if cell.records]
    couples = pairs(finished)
    shown_cell = couples[0][0] if couples else best_cell(experiment, finished)
    contest = shown_cell.contest if shown_cell else ""
    rivals = [cell for cell in experiment.contests[contest] if cell.records]
    cells = foremost(rivals, _MOST_LINES)
    positions = _positions(experiment, cells)
    frame = training_curves(experiment, cells, [name for name, _, _ in _STATISTICS])
    shown = [s for s in _STATISTICS if s[0] in frame and frame[s[0]].notna().any()]
    if not shown:
        return None
    down = math.ceil(len(shown) / 2)
    with canvas(path, down, min(2, len(shown)), 2.6) as axes:
        for axis, (name, title, unit) in zip(axes, shown, strict=False):
            for cell in cells:
                chosen = frame[frame["cell"] == cell.name].dropna(subset=[name])
                if not chosen.empty:
                    position = positions[cell.contender]
                    _band(axis, over_seeds(chosen, name).to_numpy(), cell.contender, position)
            axis.set_title(title, fontsize=8.8)
            axis.set_ylabel(unit)
            _steps(axis)
            axis.set_ylim(bottom=0, top=None if frame[name].any() else 1)
        _hide(axes[len(shown) :])
        legend_of_all(axes)
    return Drawn(
        path=path,
        caption="Statistics of the pseudo-labels over training (the paper's Figure 4a and "
        "Appendix H): mean of the seeds, band of one standard deviation"
        f"{f'; {contest}' if contest else ''}.{_left_out({contest: rivals}, {contest: cells})}",
    )


def _steps(axis: Axes) -> None:
    """Round training steps along x, away from the edges."""
    axis.set_xlabel("training step")
    axis.margins(x=0.06)
    axis.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10], integer=True))


def _hide(axes: Sequence[Axes]) -> None:
    for axis in axes:
        axis.set_visible(False)
