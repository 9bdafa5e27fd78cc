"""Counts on the device: the confusion matrix (`ecocseg.iou` makes scores of it) and histograms."""

import torch
from torch import Tensor

from ecocseg.types import IGNORE


def confusion_matrix(prediction: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """Pixels of true class i (row) predicted as class j (column), int64 [N,N].

    `prediction` and `labels` are integer tensors of one shape; pixels labelled 255 do not count.
    """
    counted = labels != IGNORE
    index = labels[counted].long() * num_classes + prediction[counted].long()
    return torch.bincount(index, minlength=num_classes**2).view(num_classes, num_classes)


def tally(index: Tensor, size: int, weight: Tensor | None = None) -> Tensor:
    """How often each value of `index` occurs, or the sum of its weights: int64 [size].

    `index` int64 and `weight` int64 are of one dimension; values are in 0..size - 1. Unlike
    bincount it makes a GPU wait for nothing, and whole numbers give equal sums in any order.
    """
    counts = torch.zeros(size, dtype=torch.int64, device=index.device)
    return counts.scatter_add_(0, index, torch.ones_like(index) if weight is None else weight)
