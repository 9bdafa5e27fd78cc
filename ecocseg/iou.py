"""Intersection over union from confusion matrices: count first, divide last. Needs numpy only."""

import numpy as np
from numpy.typing import ArrayLike, NDArray


def class_iou(confusion: ArrayLike) -> NDArray[np.float64]:
    """Intersection over union of each class in percent, [N]; NaN where a class is absent.

    `confusion` [N,N]: pixels of true class i (row) predicted as class j (column), counted over a
    whole set; not a mean over images. A class is absent when neither labels nor predictions hold
    it.
    """
    matrix = np.asarray(confusion, dtype=np.float64)
    hits = np.diag(matrix)
    union = matrix.sum(0) + matrix.sum(1) - hits
    return 100 * np.divide(hits, union, out=np.full_like(hits, np.nan), where=union > 0)


def mean_iou(confusion: ArrayLike) -> float:
    """Mean of `class_iou` over the classes that are present, in percent; NaN when none is."""
    values = class_iou(confusion)
    present = values[~np.isnan(values)]
    return float(present.mean()) if present.size else float("nan")
