"""The picture of codebooks: which codewords are alike, and how far apart they all are."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.image import AxesImage
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from ecocseg.codes.search import row_distances
from pipeline.report.canvas import WIDTH, Drawn, canvas, plain
from pipeline.report.style import ECOC, INK

# As many names as stay legible beside a matrix.
_MOST_NAMES = 30
# Inches for the matrices: what the names at the left and the scale at the right leave.
_WIDTH = WIDTH - 1.5


def draw_codebooks(
    books: Sequence[tuple[str, NDArray[np.bool_]]], class_names: Sequence[str], path: Path
) -> Drawn:
    """Write similarity matrices and distance histograms of codebooks (the paper's Fig. 5) as PNG.

    `books`: name and bits, bool [N,K], of at least one codebook, all of the same N classes;
    `class_names`: N. Similarity of two codewords is 1 - d/K with their Hamming distance d. Up to
    three codebooks stand beside each other, more in further rows.
    """
    count = len(books)
    across = 2 if count == 4 else min(count, 3)
    down = math.ceil(count / across)
    size = _WIDTH / max(across, 2)
    # A single codebook has its histogram beside it, several have theirs beneath.
    rows, columns, height = (1, 2, size) if count == 1 else (2 * down, across, 0.9 * size)
    distances = [_distances(bits) for _, bits in books]
    farthest = max(int(pairs.max()) for pairs in distances)
    with canvas(path, rows, columns, height) as axes:
        if count > 1:
            grid = axes[0].get_gridspec()
            assert grid is not None
            grid.set_height_ratios([1.0, 0.55] * down)
        for axis in axes:
            axis.set_visible(False)
        shown = []
        for i, (name, bits) in enumerate(books):
            place = 2 * (i // across) * across + i % across
            matrix, histogram = axes[place], axes[place + (1 if count == 1 else across)]
            first = i % across == 0
            image = _matrix(matrix, bits, class_names if first else (), 0.75 * 72 * size)
            matrix.set_title(plain(name))
            _histogram(histogram, distances[i], farthest)
            if first:
                histogram.set_ylabel("pairs of classes")
            shown.append(matrix)
        # Beside the rightmost matrices, along the first row of them or all of them.
        bar = axes[0].figure.colorbar(image, ax=shown, shrink=0.8, aspect=25, pad=0.02)
        bar.set_label("similarity 1 - d/K")
        bar.outline.set_visible(False)
    return Drawn(
        path=path,
        caption="Similarity of every two codewords, 1 - d/K with Hamming distance d and K bits "
        "(the paper's Figure 5), classes in the order of the data set"
        f"{'' if len(class_names) <= _MOST_NAMES else ' by number'}; and how many pairs of "
        "classes have which distance, the smallest (d_min_r) marked.",
    )


def _distances(bits: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Hamming distances of all pairs of rows, [N(N-1)/2]."""
    return row_distances(bits)[np.triu_indices(len(bits), k=1)].astype(np.int64)


def _matrix(
    axis: Axes, bits: NDArray[np.bool_], class_names: Sequence[str], points: float
) -> AxesImage:
    """Draw a similarity matrix, about `points` (1/72 inch) high, with these names at its left."""
    size, length = bits.shape
    signed = bits.astype(np.float64) * 2 - 1
    axis.set_visible(True)
    axis.grid(visible=False)
    image = axis.imshow((signed @ signed.T / length + 1) / 2, cmap="Blues", vmin=0, vmax=1)
    axis.set_xticks([])
    if class_names and size <= _MOST_NAMES:
        letters = min(8.0, 0.9 * points / size)
        axis.set_yticks(range(size), [plain(name) for name in class_names], fontsize=letters)
    elif class_names:
        axis.yaxis.set_major_locator(MaxNLocator(5, integer=True))
    else:
        axis.set_yticks([])
    return image


def _histogram(axis: Axes, distances: NDArray[np.int64], farthest: int) -> None:
    smallest = int(distances.min())
    counts = np.bincount(distances, minlength=farthest + 1)
    axis.set_visible(True)
    axis.bar(range(farthest + 1), counts, width=0.85, color=ECOC)
    axis.axvline(smallest - 0.5, color=INK, linewidth=0.9, linestyle="--")
    axis.set_title(f"d_min_r = {smallest}", fontsize=8.5, fontweight="normal")
    axis.set_xlim(-0.5, farthest + 0.9)
    axis.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axis.yaxis.set_major_locator(MaxNLocator(4, integer=True))
    axis.grid(axis="x", visible=False)
    axis.set_xlabel("distance (bits)")
