"""Scores out of counts, against sums over the single decisions."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ecocseg.calibration import BINS, ece, pooled_ece, rank_accuracy, reliability, summary

DECISIONS = st.lists(
    st.tuples(st.integers(0, 2), st.floats(0, 1), st.booleans()), min_size=1, max_size=40
)


def table(decisions, rows=3):
    """Decisions (row, confidence, correct) as counts, one after the other."""
    found = {name: np.zeros((rows, BINS)) for name in ("count", "confidence", "correct")}
    for row, confidence, correct in decisions:
        place = (row, min(int(confidence * BINS), BINS - 1))
        found["count"][place] += 1
        found["confidence"][place] += confidence
        found["correct"][place] += correct
    return found


def gap(decisions):
    """Guo et al., 2017, eq. 3, in percent."""
    total = 0.0
    for b in range(BINS):
        inside = [(c, r) for _, c, r in decisions if min(int(c * BINS), BINS - 1) == b]
        if inside:
            accuracy = sum(r for _, r in inside) / len(inside)
            confidence = sum(c for c, _ in inside) / len(inside)
            total += len(inside) / len(decisions) * abs(accuracy - confidence)
    return 100 * total


@given(DECISIONS)
def test_ece_is_the_mean_gap_of_each_row_and_of_all(decisions):
    counts = table(decisions)
    by_row = ece(**counts)
    for row in range(3):
        own = [d for d in decisions if d[0] == row]
        if own:
            assert by_row[row] == pytest.approx(gap(own), abs=1e-9)
        else:
            assert math.isnan(by_row[row])
    assert pooled_ece(counts) == pytest.approx(gap(decisions), abs=1e-9)


@given(DECISIONS)
def test_a_reliability_diagram_holds_each_bin(decisions):
    counts = table(decisions)
    found = reliability(*(counts[name].sum(0) for name in ("count", "confidence", "correct")))
    assert found.share.sum() == pytest.approx(100)
    for b in range(BINS):
        inside = [(c, r) for _, c, r in decisions if min(int(c * BINS), BINS - 1) == b]
        if inside:
            assert found.accuracy[b] == pytest.approx(100 * np.mean([r for _, r in inside]))
            assert found.confidence[b] == pytest.approx(100 * np.mean([c for c, _ in inside]))
        else:
            assert math.isnan(found.accuracy[b])
            assert found.share[b] == 0


def test_ranks_become_accuracies():
    exact, top = rank_accuracy([6, 3, 0, 1])
    assert exact.tolist() == [60, 30, 0, 10]
    assert top.tolist() == pytest.approx([60, 90, 90, 100])
    assert np.isnan(rank_accuracy([0, 0])[0]).all()


def test_the_summary_has_what_there_is():
    sure = table([(0, 1.0, True), (1, 0.75, False)])
    network = {"rank": [6, 3, 0, 1], "bits": sure, "classes": table([]), "labels": {}}
    found = summary(network)
    assert found == pytest.approx(
        {"ece_bits": 37.5, "top1_accuracy": 60, "top2_accuracy": 90, "top3_accuracy": 90}
    )
    network["labels"] = {"correction": 8, "right_correction": 6}
    assert summary(network)["right_corrections"] == 75
    network["labels"]["correction"] = 0
    assert "right_corrections" not in summary(network)
    assert "top3_accuracy" not in summary(network | {"rank": [1, 1]})
