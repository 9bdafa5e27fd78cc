"""The figures of an experiment: learning curves, classes, grid, confusion, pseudo-labels."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from ecocseg.iou import class_iou
from pipeline.report.canvas import Drawn, canvas, plain, shared_legend
from pipeline.report.curves import evaluation_curves, over_seeds, training_curves
from pipeline.report.runs import Cell, Experiment, pairs
from pipeline.report.scores import chosen_confusion, statistic
from pipeline.report.style import COLOURS, ECOC, INK, LINES, ONE_HOT
from pipeline.report.tables import cell_means

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
        _grid(experiment, folder / f"{experiment.name}_grid.png"),
        _classes(experiment, folder / f"{experiment.name}_classes.png"),
        _confusion(experiment, folder / f"{experiment.name}_confusion.png"),
        _pseudo_labels(experiment, folder / f"{experiment.name}_pseudo_labels.png"),
    ]
    return [drawn for drawn in found if drawn is not None]


def best_cell(experiment: Experiment, among: Sequence[Cell] | None = None) -> Cell | None:
    """The ranked cell with the highest mean; of all cells when none is ranked.

    `among`: cells to choose from, by default all of the experiment.
    """
    cells = experiment.cells if among is None else among
    finished = [cell for cell in cells if cell.records]
    ranked = [cell for cell in finished if cell.ranked] or finished
    scored = [(statistic(list(cell_means(experiment, cell).values())), cell) for cell in ranked]
    there = [(score.mean, cell) for score, cell in scored if score is not None]
    return max(there, key=lambda pair: pair[0])[1] if there else None


def row_labels(experiment: Experiment) -> list[str]:
    """Row labels in order: their position is their colour in every figure."""
    return list(dict.fromkeys(cell.label for cell in experiment.cells))


def _learning_curves(experiment: Experiment, path: Path) -> Drawn | None:
    frame = evaluation_curves(experiment)
    if frame.empty:
        return None
    columns = [
        c
        for c in dict.fromkeys(cell.column or "" for cell in experiment.cells)
        if (frame["column"] == c).any()
    ]
    across = min(len(columns), 3)
    down = math.ceil(len(columns) / across)
    with canvas(path, down, across, 3.6 if down == 1 else 2.8, sharey=True) as axes:
        for axis, column in zip(axes, columns, strict=False):
            for cell in experiment.cells:
                chosen = frame[(frame["cell"] == cell.name) & (frame["column"] == column)]
                network = cell.selection.split(".")[1]
                chosen = chosen[chosen["network"] == network]
                if not chosen.empty:
                    position = row_labels(experiment).index(cell.label)
                    _band(axis, over_seeds(chosen, "miou").to_numpy(), cell.label, position)
            axis.set_title(plain(column) if column else "Validation mIoU while training")
            _steps(axis)
        for i in range(0, len(columns), across):
            axes[i].set_ylabel("mIoU (%)")
        _hide(axes[len(columns) :])
        shared_legend(_fullest(axes))
    networks = sorted({cell.selection.split(".")[1] for cell in experiment.cells})
    return Drawn(
        path=path,
        caption=f"Validation mIoU of the {' or '.join(networks)} over training: mean of the "
        "seeds, band of one standard deviation where there are several.",
    )


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


def _grid(experiment: Experiment, path: Path) -> Drawn | None:
    """mIoU over the columns of a grid, a line per row."""
    columns = list(dict.fromkeys(cell.column for cell in experiment.cells if cell.column))
    if experiment.layout != "grid" or len(columns) < 2:
        return None
    middle = (len(row_labels(experiment)) - 1) / 2
    with canvas(path, height=3.6) as (axis,):
        for position, label in enumerate(row_labels(experiment)):
            cells = {cell.column: cell for cell in experiment.cells if cell.label == label}
            scores = [
                statistic(list(cell_means(experiment, cells[c]).values())) if c in cells else None
                for c in columns
            ]
            there = [(i, score) for i, score in enumerate(scores) if score is not None]
            axis.errorbar(
                [i + 0.03 * (position - middle) for i, _ in there],
                [score.mean for _, score in there],
                yerr=[score.std or 0.0 for _, score in there],
                color=COLOURS[position % len(COLOURS)],
                linestyle=LINES[position % len(LINES)],
                marker="osD^"[position % 4],
                markersize=4.5,
                capsize=2.5,
                label=plain(label),
            )
        axis.set_xticks(range(len(columns)), [plain(column) for column in columns])
        axis.set_xlim(-0.3, len(columns) - 0.7)
        axis.set_ylabel(f"{next(iter(experiment.means))} (%)")
        axis.set_title(plain(experiment.title))
        shared_legend(axis)
    return Drawn(path=path, caption="The grid as a picture; bars are one standard deviation.")


def _classes(experiment: Experiment, path: Path) -> Drawn | None:
    """IoU of each class, ECOC beside one-hot; all cells beside each other without such a pair."""
    finished = [cell for cell in experiment.cells if cell.records]
    groups: list[Sequence[Cell]] = [(base, ecoc) for ecoc, base in pairs(finished)]
    colours: tuple[str, ...] = (ONE_HOT, ECOC)
    if groups and experiment.layout == "grid":
        # One column of a grid is enough to see which classes gain.
        groups = [group for group in groups if group[0].column == groups[0][0].column]
    if not groups:
        groups, colours = [finished], COLOURS[:4]
    if len(groups) > 4 or len(groups[0]) > 4:
        return None
    names = [*experiment.classes, "mIoU"]
    with canvas(path, len(groups), 1, 3.1) as axes:
        for axis, group in zip(axes, groups, strict=True):
            width = 0.8 / len(group)
            for i, (cell, colour) in enumerate(zip(group, colours, strict=False)):
                scores = [
                    class_iou(chosen_confusion(record, cell.selection))
                    for record in cell.records.values()
                ]
                table = np.array([[*iou, np.nanmean(iou)] for iou in scores])
                there = [statistic(list(column)) for column in table.T]
                axis.bar(
                    np.arange(len(names)) - 0.4 + (i + 0.5) * width,
                    [score.mean if score else 0.0 for score in there],
                    width * 0.92,
                    yerr=[score.std or 0.0 if score else 0.0 for score in there],
                    color=colour,
                    error_kw={"elinewidth": 0.9, "ecolor": INK},
                    label=plain(cell.label),
                )
            axis.set_xticks(
                range(len(names)),
                [plain(n) for n in names],
                rotation=40,
                ha="right",
                rotation_mode="anchor",
            )
            axis.axvline(len(names) - 1.5, color=INK, linewidth=0.7)
            axis.set_xlim(-0.6, len(names) - 0.4)
            axis.set_ylim(0, 100)
            axis.grid(axis="x", visible=False)
            axis.set_ylabel("IoU (%)")
            column = group[0].column
            axis.set_title(
                plain(f"{group[0].method}, {column}" if column else group[0].method)
                if len(groups) > 1 or column
                else "IoU of each class"
            )
            axis.legend(
                loc="upper right", ncols=len(group), bbox_to_anchor=(1, 1.14), borderaxespad=0
            )
    return Drawn(
        path=path,
        caption="IoU of each class, mean of the seeds; thin lines are one standard deviation.",
    )


def _confusion(experiment: Experiment, path: Path) -> Drawn | None:
    """Row-normalised confusion matrix of the best cell, all its seeds added up."""
    cell = best_cell(experiment)
    if cell is None:
        return None
    counts = sum(chosen_confusion(r, cell.selection) for r in cell.records.values())
    totals = np.asarray(counts).sum(axis=1, keepdims=True)
    share = np.where(totals > 0, 100 * counts / np.maximum(totals, 1), np.nan)
    names = [plain(name) for name in experiment.classes]
    size = len(names)
    with canvas(path, height=6.6) as (axis,):
        axis.grid(visible=False)
        image = axis.imshow(share, cmap="Blues", vmin=0, vmax=100)
        axis.set_facecolor("#eceff3")
        axis.set_xticks(range(size), names, rotation=50, ha="right", rotation_mode="anchor")
        axis.set_yticks(range(size), names)
        axis.set_xlabel("predicted class")
        axis.set_ylabel("true class")
        if size <= 25:
            for i, j in zip(*np.nonzero(share >= 0.5), strict=True):
                axis.text(
                    j,
                    i,
                    f"{share[i, j]:.0f}",
                    ha="center",
                    va="center",
                    fontsize=6.8,
                    color="white" if share[i, j] > 55 else INK,
                )
        where = f"{cell.label}, {cell.column}" if cell.column else cell.label
        axis.set_title(plain(f"Where the pixels of each class go: {where}"))
        bar = axis.figure.colorbar(image, ax=axis, shrink=0.6, pad=0.02)
        bar.set_label("share of the true class's pixels (%)")
        bar.outline.set_visible(False)
    return Drawn(
        path=path,
        caption=f"Confusion matrix of the best cell ({where}), seeds added up, each row in percent "
        "of its pixels; shares below 0.5 % carry no number, grey rows have no pixel.",
    )


def _pseudo_labels(experiment: Experiment, path: Path) -> Drawn | None:
    """What became of the pseudo-labels over training."""
    column = next((ecoc.column for ecoc, _ in pairs(experiment.cells)), None)
    cells = [cell for cell in experiment.cells if column is None or cell.column == column]
    frame = training_curves(experiment)
    shown = [s for s in _STATISTICS if s[0] in frame and frame[s[0]].notna().any()]
    if not shown:
        return None
    down = math.ceil(len(shown) / 2)
    with canvas(path, down, min(2, len(shown)), 2.6) as axes:
        for axis, (name, title, unit) in zip(axes, shown, strict=False):
            for cell in cells:
                chosen = frame[frame["cell"] == cell.name].dropna(subset=[name])
                if not chosen.empty:
                    position = row_labels(experiment).index(cell.label)
                    _band(axis, over_seeds(chosen, name).to_numpy(), cell.label, position)
            axis.set_title(title, fontsize=8.8)
            axis.set_ylabel(unit)
            _steps(axis)
            axis.set_ylim(bottom=0, top=None if frame[name].any() else 1)
        _hide(axes[len(shown) :])
        shared_legend(_fullest(axes))
    return Drawn(
        path=path,
        caption="Statistics of the pseudo-labels over training (the paper's Figure 4a and "
        "Appendix H): mean of the seeds, band of one standard deviation"
        f"{f', column {column}' if column else ''}.",
    )


def _steps(axis: Axes) -> None:
    """Round training steps along x, away from the edges."""
    axis.set_xlabel("training step")
    axis.margins(x=0.06)
    axis.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10], integer=True))


def _hide(axes: Sequence[Axes]) -> None:
    for axis in axes:
        axis.set_visible(False)


def _fullest(axes: Sequence[Axes]) -> Axes:
    """The axes with the most lines: their legend names all of them."""
    return max(axes, key=lambda axis: len(axis.get_legend_handles_labels()[1]))
