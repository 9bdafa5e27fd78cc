"""The confusion matrix; `ecocseg.iou` makes scores of it."""

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
