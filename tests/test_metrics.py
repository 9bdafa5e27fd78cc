import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from ecocseg.iou import class_iou, mean_iou
from ecocseg.metrics import confusion_matrix

CLASSES = 4


def counted_by_hand(prediction, labels):
    """Confusion matrix and IoU pixel by pixel; None for a class that is nowhere."""
    matrix = [[0] * CLASSES for _ in range(CLASSES)]
    for truth, guess in zip(labels.flat, prediction.flat, strict=True):
        if truth != 255:
            matrix[truth][guess] += 1
    scores = []
    for c in range(CLASSES):
        both = sum(t == c and g == c for t, g in zip(labels.flat, prediction.flat, strict=True))
        either = sum(
            t != 255 and (t == c or g == c)
            for t, g in zip(labels.flat, prediction.flat, strict=True)
        )
        scores.append(100 * both / either if either else None)
    return matrix, scores


@settings(deadline=None, max_examples=60)
@given(
    hnp.arrays(np.uint8, (2, 3, 4), elements=st.integers(0, CLASSES - 1)),
    hnp.arrays(np.uint8, (2, 3, 4), elements=st.sampled_from([0, 1, 2, 3, 255])),
)
def test_against_a_literal_loop(prediction, labels):
    matrix, scores = counted_by_hand(prediction, labels)
    got = confusion_matrix(torch.from_numpy(prediction).long(), torch.from_numpy(labels), CLASSES)
    assert got.dtype == torch.int64
    assert got.tolist() == matrix
    for mine, theirs in zip(class_iou(got), scores, strict=True):
        assert math.isnan(mine) if theirs is None else mine == pytest.approx(theirs)
    present = [s for s in scores if s is not None]
    if present:
        assert mean_iou(got) == pytest.approx(sum(present) / len(present))
    else:
        assert math.isnan(mean_iou(got))


def test_the_scores_are_of_the_sum_not_means_over_images():
    first, second = np.diag([1, 9]), np.array([[9, 0], [9, 0]])
    total = first + second
    assert class_iou(total)[0] == pytest.approx(100 * 10 / 19)
    assert class_iou(total)[0] != pytest.approx((class_iou(first)[0] + class_iou(second)[0]) / 2)


def test_a_class_predicted_but_never_true_scores_zero():
    assert class_iou(np.array([[1, 1], [0, 0]])).tolist() == [50.0, 0.0]
