"""The figure of the threshold T of reliable bit mining (the paper's Figure 6)."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray

from pipeline.report.canvas import Drawn, canvas, legend_of_all, plain
from pipeline.report.cells import Cell, Experiment
from pipeline.report.diagnosed import (
    any_spec,
    labeller,
    labelling_networks,
    of_first_seed,
    seed_line,
    where_counted,
)
from pipeline.report.lines import cell_means
from pipeline.report.scores import statistic
from pipeline.report.style import COLOURS, INK, LINES

# More bands than that hide each other.
_BANDS = 3
# Pseudo-labels that are code-wise or bit-wise everywhere, as thresholds.
_ENDS = {"code": 0.5, "bit": 1.0}


def draw_thresholds(cells: Sequence[Cell], experiment: Experiment, path: Path) -> Drawn | None:
    """Right bits of the hybrid label over T; bits in M, or the mIoU of runs that differ in T.

    None when no cell's diagnostics hold a sweep of T.
    """
    coded = [cell for cell in cells if of_first_seed(cell).get("thresholds")]
    if not coded:
        return None
    values = of_first_seed(coded[0])["thresholds"]
    trained = _differing_in_threshold(experiment)
    with canvas(path, 1, 2, 3.4) as axes:
        for cell in coded:
            right = _shares(cell, "sweep_right")
            label = f"{cell.full_name}; bit-wise {np.mean([row[-1] for row in right]):.1f} %"
            # Within a run: the seeds differ by more than the thresholds do.
            gain = [row - row[-1] for row in right]
            band, places = len(coded) <= _BANDS, range(len(values))
            seed_line(axes[0], places, gain, cell, experiment, label=label, band=band)
            if not trained:
                shares = _shares(cell, "sweep_mask")
                seed_line(axes[1], places, shares, cell, experiment, band=band)
        axes[0].set_title("Right bits of the hybrid label")
        axes[0].set_ylabel("points above bit-wise labels")
        if trained:
            _scores_along(axes[1], trained, values, experiment)
        else:
            axes[1].set_title("Bits that are reliable (mask M)")
            axes[1].set_ylabel("share of bits (%)")
        for axis in axes:
            _thresholds_along(axis, values)
        legend_of_all(axes[:1])
        if len(trained) > 1:
            axes[1].legend(loc="best", fontsize=7.5)
    rest = (
        f"{experiment.means[0]} of runs that differ in T alone (code-wise labels at 0.5, bit-wise "
        "ones at 1)"
        if trained
        else "share of bits on which the hybrid label takes the codeword"
    )
    where = where_counted(coded, labelling_networks(coded[0]))
    return Drawn(
        path=path,
        caption="The threshold T of reliable bit mining (the paper's Figure 6). Left: share of "
        "bits of the hybrid label that are right, less that of the same run's bit-wise label, "
        f"labelled anew with each T by the {labeller(coded[0])} {where}. Right: {rest}. Mean of "
        "the seeds; bands and bars, where drawn, are one standard deviation.",
    )


def _shares(cell: Cell, name: str) -> list[NDArray[np.float64]]:
    """Of each seed, the counts `name` [T] in percent of the bits."""
    networks = [network["labels"] for network in labelling_networks(cell)]
    return [100 * np.array(labels[name]) / labels["bits"] for labels in networks]


def _scores_along(
    axis: Axes,
    trained: Mapping[str, Mapping[float, Cell]],
    values: Sequence[float],
    experiment: Experiment,
) -> None:
    """The mean score of the cell of each T, a line for each series."""
    for i, (name, cells) in enumerate(trained.items()):
        scores = [statistic(list(cell_means(cell).values())) for cell in cells.values()]
        axis.errorbar(
            np.interp(list(cells), values, range(len(values))),
            [score.mean if score else np.nan for score in scores],
            yerr=[score.std or 0.0 if score else 0.0 for score in scores],
            color=INK if len(trained) == 1 else COLOURS[i % len(COLOURS)],
            linestyle=LINES[i % len(LINES)],
            marker="o", markersize=4, capsize=2.5, label=plain(name),
        )  # fmt: skip
    axis.set_title("Trained with this T")
    axis.set_ylabel(f"{experiment.means[0]} (%)")


def _differing_in_threshold(experiment: Experiment) -> dict[str, dict[float, Cell]]:
    """Series of finished cells by T, in its order, that differ in nothing else; by name."""
    alike: dict[str, dict[float, Cell]] = {}
    for cell in experiment.cells:
        if not cell.records or cell.encoding.lower() != "ecoc":
            continue
        spec = any_spec(cell)
        rest = {k: v for k, v in spec.items() if k not in ("cell", "seed", "encoding")}
        options = spec["encoding"]
        rest["encoding"] = {k: v for k, v in options.items() if k not in ("threshold", "labels")}
        threshold = _ENDS.get(options.get("labels"), float(options["threshold"]))
        alike.setdefault(json.dumps(rest, sort_keys=True), {})[threshold] = cell
    series = [dict(sorted(cells.items())) for cells in alike.values() if len(cells) > 1]
    series = series[: len(COLOURS)]
    return {_series_name(next(iter(cells.values())), i): cells for i, cells in enumerate(series)}


def _series_name(cell: Cell, number: int) -> str:
    told = (cell.block.title if cell.block else None, cell.group or f"series {number + 1}")
    return ", ".join(dict.fromkeys(filter(None, told)))


def _thresholds_along(axis: Axes, values: Sequence[float]) -> None:
    """T along x, as far apart as they stand in the list."""
    ends = {0.5: "0.5\ncode-wise", 1.0: "1\nbit-wise"}
    axis.set_xticks(range(len(values)), [ends.get(value, f"{value:g}") for value in values])
    axis.set_xlim(-0.4, len(values) - 0.6)
    axis.set_xlabel("threshold T")
