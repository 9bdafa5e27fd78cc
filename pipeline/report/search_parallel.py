"""The picture of all parameters of a search at once: parallel coordinates."""

import math
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize

from pipeline.report.canvas import Drawn, canvas, plain
from pipeline.report.search_data import Search, categories, places_of, short_name
from pipeline.report.style import FAINT, INK

_MAP = colormaps["viridis"]


def draw_parallel(search: Search, path: Path) -> Drawn:
    """A line for each trial through its values, coloured by its score."""
    names, full = search.names, search.full
    places = {name: _shares(search, name) for name in names}
    low, high = full["miou"].min(), full["miou"].max()
    norm = Normalize(low, high if high > low else low + 1.0)
    best = search.about["best"]
    with canvas(path, 1, 1, 3.4) as (axis,):
        for _, row in search.scored.sort_values("miou", kind="stable").iterrows():
            number = row["trial"]
            line = [places[name].get(number, np.nan) for name in names]
            whole = number in set(full["trial"])
            colour = _MAP(norm(row["miou"])) if whole else FAINT
            if whole:
                line.append(float(norm(row["miou"])))
            width = 2.6 if number == best else 1.2 if whole else 0.8
            axis.plot(
                range(len(line)), line, color=colour, linewidth=width, zorder=3 if whole else 2
            )
        for i, name in enumerate(names):
            axis.axvline(i, color=INK, linewidth=0.7, zorder=1)
            for share, text in _marks(search, name):
                lines = plain(text.replace("-", "-\n"))
                axis.annotate(
                    lines, (i, share), xytext=(3, 0), textcoords="offset points",
                    fontsize=7.5, va="center", color=INK, zorder=5,
                    bbox={"boxstyle": "square,pad=0.1", "facecolor": "white", "linewidth": 0},
                )  # fmt: skip
        axis.axvline(len(names), color=INK, linewidth=0.7, zorder=1)
        axis.set_xticks(
            range(len(names) + 1), [*(plain(short_name(n)) for n in names), search.axis]
        )
        axis.set_xlim(-0.1, len(names) + 0.25)
        axis.set_yticks([])
        axis.grid(visible=False)
        for side in ("left", "bottom"):
            axis.spines[side].set_visible(False)
        figure = axis.get_figure(root=True)
        assert figure is not None
        figure.colorbar(ScalarMappable(norm, _MAP), ax=axis, label=search.axis, pad=0.01)
    rest = len(search.scored) - len(full)
    faint = f" Grey: the {rest} with fewer steps." if rest else ""
    return Drawn(
        path=path,
        caption="All parameters at once: a line for each trial, coloured by its "
        f"{search.measured}; the best one is thick.{faint}",
    )


def _shares(search: Search, name: str) -> dict[int, float]:
    """Each trial's place between the ends of the parameter, 0 to 1."""
    low, high, scale = _ends(search, name)
    return {
        number: (scale(value) - scale(low)) / (scale(high) - scale(low) or 1.0)
        for number, value in places_of(search, name).items()
    }


def _ends(search: Search, name: str) -> tuple[float, float, Any]:
    parameter = search.about["parameters"][name]
    if (named := categories(parameter)) is not None:
        return 0.0, float(len(named) - 1), float
    low, high = parameter["range"] or (min(parameter["values"]), max(parameter["values"]))
    return float(low), float(high), math.log if parameter["log"] else float


def _marks(search: Search, name: str) -> list[tuple[float, str]]:
    """Where along its axis a parameter's ends or names are written."""
    if (named := categories(search.about["parameters"][name])) is not None:
        return [(i / max(len(named) - 1, 1), text) for i, text in enumerate(named)]
    low, high, _ = _ends(search, name)
    return [(0.0, f"{low:g}"), (1.0, f"{high:g}")]
