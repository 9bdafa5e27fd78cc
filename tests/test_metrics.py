import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from ecocseg.iou import class_iou, class_scores, mean_iou, mean_score, overall_accuracy
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


def sets_of(prediction, labels, name):
    """Pixels predicted and labelled as class `name`, among those that count."""
    places = [i for i, truth in enumerate(labels.flat) if truth != 255]
    predicted = {i for i in places if prediction.flat[i] == name}
    return predicted, {i for i in places if labels.flat[i] == name}


@settings(deadline=None, max_examples=60)
@given(
    hnp.arrays(np.uint8, (3, 2, 4), elements=st.integers(0, CLASSES - 1)),
    hnp.arrays(np.uint8, (3, 2, 4), elements=st.sampled_from([0, 1, 2, 3, 255])),
    st.sets(st.integers(0, CLASSES - 1), min_size=1),
)
def test_dice_of_volumes_against_sets_of_pixels(prediction, labels, chosen):
    """Three volumes: each class is scored in each that has it, and averaged over these."""
    matrices = np.stack([counted_by_hand(p, t)[0] for p, t in zip(prediction, labels, strict=True)])
    expected = []
    for name in range(CLASSES):
        found = []
        for p, t in zip(prediction, labels, strict=True):
            predicted, true = sets_of(p, t, name)
            if predicted or true:
                found.append(200 * len(predicted & true) / (len(predicted) + len(true)))
        expected.append(sum(found) / len(found) if found else math.nan)
    assert class_scores(matrices, "dice") == pytest.approx(expected, nan_ok=True)
    # Of one volume it is the same as of a set.
    assert class_scores(matrices[:1], "dice") == pytest.approx(
        class_scores(matrices[0], "dice"), nan_ok=True
    )
    there = [expected[i] for i in sorted(chosen) if not math.isnan(expected[i])]
    wanted = sum(there) / len(there) if there else math.nan
    assert mean_score(matrices, "dice", sorted(chosen)) == pytest.approx(wanted, nan_ok=True)


@settings(deadline=None, max_examples=30)
@given(hnp.arrays(np.int64, (CLASSES, CLASSES), elements=st.integers(0, 1000)))
def test_dice_follows_from_iou(matrix):
    """2 IoU / (1 + IoU), whatever the counts."""
    iou = class_iou(matrix) / 100
    assert class_scores(matrix, "dice") == pytest.approx(200 * iou / (1 + iou), nan_ok=True)
    assert mean_score(matrix) == pytest.approx(mean_iou(matrix), nan_ok=True)


def test_accuracy_is_of_all_labelled_pixels():
    prediction, labels = np.array([[0, 1, 1, 2, 3]]), np.array([[0, 1, 2, 2, 255]])
    matrix = counted_by_hand(prediction, labels)[0]
    assert overall_accuracy(matrix) == 75.0
    # Volumes are counted together: pixels are pixels.
    assert overall_accuracy([matrix, matrix, np.eye(CLASSES) * 4]) == pytest.approx(100 * 22 / 24)
    assert math.isnan(overall_accuracy(np.zeros((CLASSES, CLASSES))))


def test_a_tensor_is_scored_as_an_array():
    matrix = np.arange(16).reshape(4, 4)
    assert mean_score(torch.from_numpy(matrix), "dice", [1, 3]) == mean_score(
        matrix, "dice", [1, 3]
    )
