"""Scores from confusion matrices: count first, divide last."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ecocseg.types import IGNORE


def confusion_matrix(prediction: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """Pixels of true class i (row) predicted as class j (column), int64 [N,N].

    `prediction` and `labels` are integer tensors of one shape; pixels labelled 255 do not count.
    """
    counted = labels != IGNORE
    index = labels[counted].long() * num_classes + prediction[counted].long()
    return torch.bincount(index, minlength=num_classes**2).view(num_classes, num_classes)


def iou(confusion: NDArray[np.integer] | Tensor) -> NDArray[np.float64]:
    """Intersection over union of each class in percent, [N]; NaN where a class is absent.

    Intersections and unions are those of the whole set that `confusion` [N,N] counted, not means
    over images. A class is absent when neither labels nor predictions hold it.
    """
    matrix = np.asarray(confusion, dtype=np.float64)
    hits = np.diag(matrix)
    union = matrix.sum(0) + matrix.sum(1) - hits
    return 100 * np.divide(hits, union, out=np.full_like(hits, np.nan), where=union > 0)


def mean_iou(confusion: NDArray[np.integer] | Tensor) -> float:
    """Mean of `iou` over the classes that are present, in percent; NaN when none is."""
    values = iou(confusion)
    present = values[~np.isnan(values)]
    return float(present.mean()) if present.size else float("nan")
