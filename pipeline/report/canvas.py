"""Matplotlib without its global state: a figure in the report's look, and saving it whole."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from ecocseg.files import atomic_path
from pipeline.report.style import FAINT, INK

WIDTH = 7.4  # inches: on A4 the letters keep their size

_LOOK: Any = {
    "font.size": 9.0,
    "font.family": "DejaVu Sans",
    "axes.titlesize": 9.5,
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
    "axes.edgecolor": INK,
    "axes.linewidth": 0.7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": FAINT,
    "grid.linewidth": 0.6,
    "xtick.labelsize": 8.0,
    "ytick.labelsize": 8.0,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "lines.linewidth": 1.6,
}


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """A picture that was written, and what stands beneath it."""

    path: Path
    caption: str


@contextmanager
def canvas(
    path: Path, rows: int = 1, columns: int = 1, height: float = 3.2, sharey: bool = False
) -> Iterator[list[Axes]]:
    """Yield rows x columns axes, row by row; on leaving, `path` (PNG) is written at once.

    `height` is that of one row in inches.
    """
    with rc_context(_LOOK):
        figure = Figure(figsize=(WIDTH, height * rows), dpi=170, layout="constrained")
        agg = FigureCanvasAgg(figure)
        axes = figure.subplots(rows, columns, squeeze=False, sharey=sharey)
        yield list(axes.flat)
        agg.draw()
        picture = Image.fromarray(np.asarray(agg.buffer_rgba())[..., :3].copy())
        # A chart has few colours: a palette keeps its letters sharp and the page small.
        palette = picture.quantize(256, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
        with atomic_path(path) as temporary:
            palette.save(temporary, dpi=(170, 170))


def plain(text: str) -> str:
    """Text that matplotlib shows as it is: a dollar sign would start a formula."""
    return text.replace("$", r"\$")


def legend_of_all(axes: Sequence[Axes]) -> None:
    """One legend for the whole figure, beneath it, with every line that some of the axes have."""
    handles: dict[str, Any] = {}
    for axis in axes:
        for handle, label in zip(*axis.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    legend_below(axes[0], list(handles.values()), list(handles))


def legend_below(axes: Axes, handles: list[Any], labels: list[str]) -> None:
    """A legend of these handles beneath the figure of `axes`."""
    figure = axes.get_figure(root=True)
    # As many beside each other as the width holds, a letter being about 0.07 inches wide.
    columns = max(1, int(WIDTH / (0.55 + 0.075 * max(map(len, labels), default=0))))
    if handles and figure is not None:
        figure.legend(handles, labels, loc="outside lower center", ncols=min(columns, len(labels)))
