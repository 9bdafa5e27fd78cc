"""Scores from confusion matrices: count first, divide last. Needs numpy only."""

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

Score = Literal["iou", "dice"]


def class_scores(confusion: ArrayLike, score: Score = "iou") -> NDArray[np.float64]:
    """Score of each class in percent, [N]; NaN where a class is absent.

    `confusion` [N,N]: pixels of true class i (row) predicted as class j (column), counted over a
    whole set; not a mean over images. Or [V,N,N], a matrix for each volume: the score of a class is
    then its mean over the volumes that have it. A class is absent where neither labels nor
    predictions hold it.

    `score`: "iou", |A and B| / |A or B|; "dice", 2 |A and B| / (|A| + |B|), which is how
    LiheYoung/UniMatch `more-scenarios/medical` scores the volumes of ACDC. There, all volumes have
    all classes; it would divide by 0 otherwise.
    """
    matrix = np.asarray(confusion, dtype=np.float64)
    hits = np.diagonal(matrix, axis1=-2, axis2=-1)
    both = matrix.sum(-2) + matrix.sum(-1)
    above, below = (2 * hits, both) if score == "dice" else (hits, both - hits)
    values = 100 * np.divide(above, below, out=np.full(hits.shape, np.nan), where=below > 0)
    if matrix.ndim == 2:
        return values
    return np.array([_mean_of_present(of_class) for of_class in values.T])


def class_iou(confusion: ArrayLike) -> NDArray[np.float64]:
    """`class_scores` as intersection over union."""
    return class_scores(confusion, "iou")


def mean_score(
    confusion: ArrayLike, score: Score = "iou", classes: Sequence[int] | None = None
) -> float:
    """Mean of `class_scores` over the classes that are present, in percent; NaN when none is.

    `classes`: indices of those that count; None for all.
    """
    values = class_scores(confusion, score)
    if classes is not None:
        values = values[list(classes)]
    return _mean_of_present(values)


def mean_iou(confusion: ArrayLike) -> float:
    """`mean_score` as intersection over union, of all classes."""
    return mean_score(confusion, "iou")


def overall_accuracy(confusion: ArrayLike) -> float:
    """Share of the labelled pixels whose class is predicted, in percent; NaN without any."""
    matrix = np.asarray(confusion, dtype=np.float64).reshape(-1, *np.shape(confusion)[-2:]).sum(0)
    total = matrix.sum()
    return float(100 * np.trace(matrix) / total) if total else float("nan")


def _mean_of_present(values: NDArray[np.float64]) -> float:
    present = values[~np.isnan(values)]
    return float(present.mean()) if present.size else float("nan")
