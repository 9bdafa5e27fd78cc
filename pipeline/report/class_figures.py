"""The figures of single classes: IoU of each, and where their pixels go."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from ecocseg.iou import class_scores
from pipeline.report.canvas import WIDTH, Drawn, canvas, plain
from pipeline.report.cells import Cell, Experiment, pairs
from pipeline.report.lines import best_cell, record_mean
from pipeline.report.scores import chosen_confusion, statistic
from pipeline.report.style import COLOURS, ECOC, INK, ONE_HOT

# What a picture can hold.
_MOST_PAIRS, _MOST_BARS, _MOST_NAMES, _MOST_MATRICES = 6, 4, 40, 6
_SMALL = 4.6  # points, of letters that 81 names leave room for


def _class_groups(experiment: Experiment) -> list[Sequence[Cell]]:
    """The (one-hot, ECOC) cells whose classes are compared; empty where there are too many."""
    finished = [cell for cell in experiment.cells if cell.records]
    found = [(base, ecoc) for ecoc, base in pairs(finished)]
    best = best_cell(experiment, [ecoc for _, ecoc in found])
    if best is not None and best.group is not None:
        found = [pair for pair in found if pair[1] is best]
    elif found and experiment.layout == "grid":
        # One column of a grid is enough to see which classes gain: on a scale its far end. Of
        # several ECOC cells that compare with the same one-hot cell the best.
        shown = found[-1 if experiment.columns else 0][0].column
        found = [pair for pair in found if pair[0].column == shown]
        ahead = [
            best_cell(experiment, [ecoc for other, ecoc in found if other is base])
            for base, _ in found
        ]
        found = [pair for pair in found if pair[1] in ahead]
    if not found and len(finished) <= _MOST_BARS and len(experiment.contests) == 1:
        return [finished]
    return list(found) if len(found) <= _MOST_PAIRS else []


def draw_classes(experiment: Experiment, path: Path) -> Drawn | None:
    """Score of each class, ECOC beside one-hot; all cells beside each other without a pair."""
    groups = _class_groups(experiment)
    if not groups:
        return None
    paired = all(cell.encoding == "ecoc" for *_, cell in groups) and len(groups[0]) == 2
    word = _word(groups[0][0])
    colours = (ONE_HOT, ECOC) if paired else COLOURS[:_MOST_BARS]
    with canvas(path, len(groups), 1, 3.1 if len(groups) < 5 else 2.6) as axes:
        for axis, group in zip(axes, groups, strict=True):
            _class_bars(axis, group, experiment.classes, colours)
            first = group[0]
            column = " ".join(filter(None, (first.column, experiment.columns)))
            told = (first.block.title if first.block else None, first.method, column)
            several = len(groups) > 1 or (first.column and first.group is None)
            title = ", ".join(filter(None, told)) if several else f"{word} of each class"
            axis.set_title(plain(title), pad=25 if _crowded(title, group) else None)
    return Drawn(
        path=path,
        caption=f"{word} of each class, mean of the seeds; thin lines are one standard deviation.",
    )


def _class_bars(
    axis: Axes, group: Sequence[Cell], classes: Sequence[str], colours: Sequence[str]
) -> None:
    """Bars of the classes that the block of the `group` has, then its first mean."""
    mean = next(iter(group[0].means))
    scored = group[0].block.classes if group[0].block else None
    kept = [i for i, name in enumerate(classes) if scored is None or name in scored]
    names = [*(classes[i] for i in kept), mean]
    width = 0.8 / len(group)
    for i, (cell, colour) in enumerate(zip(group, colours, strict=False)):
        table = []
        for record in cell.records.values():
            scores = class_scores(chosen_confusion(record, cell.selection), cell.class_score)
            table.append([*scores[kept], record_mean(cell, mean, record)])
        there = [statistic(list(column)) for column in np.array(table).T]
        axis.bar(
            np.arange(len(names)) - 0.4 + (i + 0.5) * width,
            [score.mean if score else 0.0 for score in there],
            width * 0.92,
            yerr=[score.std or 0.0 if score else 0.0 for score in there],
            color=colour,
            error_kw={"elinewidth": 0.9, "ecolor": INK},
            label=plain(_told(cell)),
        )
    axis.set_xticks(range(len(names)), [plain(n) for n in names], **_letters(len(names), 40))
    axis.axvline(len(names) - 1.5, color=INK, linewidth=0.7)
    axis.set_xlim(-0.6, len(names) - 0.4)
    axis.set_ylim(0, 100)
    axis.grid(axis="x", visible=False)
    axis.set_ylabel(f"{_word(group[0])} (%)")
    axis.legend(loc="upper right", ncols=len(group), bbox_to_anchor=(1, 1.14), borderaxespad=0)


def _told(cell: Cell) -> str:
    """What a legend calls a cell."""
    return cell.full_name if cell.group else cell.label


def _crowded(title: str, group: Sequence[Cell]) -> bool:
    """Whether a title and the legend of its cells are too long for one line."""
    legend = sum(0.65 + 0.07 * len(_told(cell)) for cell in group)
    return 0.085 * len(title) + legend > WIDTH - 0.7


def _letters(names: int, angle: int) -> dict[str, Any]:
    """How so many names stand along an axis: aslant, or small and upright."""
    if names > _MOST_NAMES:
        return {"rotation": 90, "fontsize": _SMALL}
    return {"rotation": angle, "ha": "right", "rotation_mode": "anchor"}


def _word(cell: Cell) -> str:
    return {"iou": "IoU", "dice": "Dice"}[cell.class_score]


def draw_confusion(experiment: Experiment, path: Path) -> Drawn | None:
    """Row-normalised confusion matrix of the best cell of each block, all its seeds added up."""
    best = [
        cell
        for block in experiment.blocks[:_MOST_MATRICES]
        if (cell := best_cell(experiment, [c for c in experiment.cells if c.block == block]))
    ]
    if not best:
        return None
    with canvas(path, len(best), 1, 6.6) as axes:
        for axis, cell in zip(axes, best, strict=True):
            _matrix(axis, cell, [plain(name) for name in experiment.classes])
    where = "; ".join(cell.title for cell in best)
    return Drawn(
        path=path,
        caption=f"Confusion matrix of the best cell ({where}), seeds added up, each row in percent "
        "of its pixels; shares below 0.5 % carry no number, grey rows have no pixel.",
    )


def _matrix(axis: Axes, cell: Cell, names: Sequence[str]) -> None:
    found = [chosen_confusion(record, cell.selection) for record in cell.records.values()]
    counts = np.sum(found, axis=0).reshape(-1, len(names), len(names)).sum(axis=0)
    totals = counts.sum(axis=1, keepdims=True)
    share = np.where(totals > 0, 100 * counts / np.maximum(totals, 1), np.nan)
    axis.grid(visible=False)
    image = axis.imshow(share, cmap="Blues", vmin=0, vmax=100)
    axis.set_facecolor("#eceff3")
    axis.set_xticks(range(len(names)), names, **_letters(len(names), 50))
    size: dict[str, Any] = {"fontsize": _SMALL} if len(names) > _MOST_NAMES else {}
    axis.set_yticks(range(len(names)), names, **size)
    axis.set_xlabel("predicted class")
    axis.set_ylabel("true class")
    if len(names) <= 25:
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
    axis.set_title(plain(f"Where the pixels of each class go: {cell.title}"))
    figure = axis.get_figure(root=True)
    assert figure is not None
    bar = figure.colorbar(image, ax=axis, shrink=0.6, pad=0.02)
    bar.set_label("share of the true class's pixels (%)")
    bar.outline.set_visible(False)
