"""The picture of a search: what each trial scored, over every searched parameter."""

import math
from pathlib import Path

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import FormatStrFormatter, LogLocator, NullLocator

from pipeline.report.canvas import Drawn, canvas, legend_of_all, plain
from pipeline.report.style import COLOURS, INK

_NOT_PARAMETERS = {"trial", "miou", "steps", "state"}


def draw_search(trials_csv: Path, path: Path) -> Drawn | None:
    """Write the figure of `results/search/trials.csv`; None when no trial has a score yet."""
    trials = pd.read_csv(trials_csv).dropna(subset=["miou"])
    names = [name for name in trials.columns if name not in _NOT_PARAMETERS]
    if trials.empty or not names:
        return None
    across = min(len(names), 2)
    down = math.ceil(len(names) / across)
    full = trials["steps"] == trials["steps"].max()
    best = trials[full].sort_values("miou", kind="stable").iloc[-1]
    with canvas(path, down, across, 2.5) as axes:
        for i, (axis, name) in enumerate(zip(axes, names, strict=False)):
            for chosen, label, marker, colour in (
                (full, "all steps", "o", COLOURS[0]),
                (~full, "stopped early", "x", COLOURS[1]),
            ):
                axis.scatter(
                    _places(trials.loc[chosen, name]), trials.loc[chosen, "miou"],
                    marker=marker, color=colour, s=26, label=label, zorder=3,
                )  # fmt: skip
            axis.scatter(
                _places(pd.Series([best[name]])), [best["miou"]],
                marker="o", s=110, facecolors="none", edgecolors=INK, label="best",
            )  # fmt: skip
            _scale(axis, trials[name])
            axis.set_xlabel(plain(name))
            if i % across == 0:
                axis.set_ylabel("mIoU (%)")
        for axis in axes[len(names) :]:
            axis.set_visible(False)
        legend_of_all(axes[:1])
    chosen = ", ".join(f"{name} = {_number(best[name])}" for name in names)
    return Drawn(
        path=path,
        caption=f"{len(trials)} trials, {int(full.sum())} of them to the last step. "
        f"Best: {chosen}, with mIoU {best['miou']:.1f}.",
    )


def _places(values: pd.Series) -> list[float] | list[str]:
    """Numbers as they are, everything else by name."""
    if pd.api.types.is_numeric_dtype(values) and not pd.api.types.is_bool_dtype(values):
        return [float(value) for value in values]
    return [plain(str(value)) for value in values]


def _scale(axis: Axes, values: pd.Series) -> None:
    """A logarithmic axis where the values span more than a decade."""
    numeric = pd.api.types.is_numeric_dtype(values)
    if numeric and 0 < values.min() < values.max() / 10:
        axis.set_xscale("log")
        axis.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0), numticks=9))
        axis.xaxis.set_major_formatter(FormatStrFormatter("%g"))
        axis.xaxis.set_minor_locator(NullLocator())


def _number(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
