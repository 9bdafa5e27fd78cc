import math
import statistics

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from ecocseg.errors import ConfigError, DataError
from ecocseg.iou import class_iou
from pipeline.report.scores import (
    chosen_confusion,
    mean_over,
    paired_difference,
    ranks,
    statistic,
)

pixels = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), max_size=60)


@given(pixels)
def test_iou_is_intersection_over_union_of_pixel_sets(pairs: list[tuple[int, int]]) -> None:
    confusion = np.zeros((5, 5), dtype=int)
    for true, predicted in pairs:
        confusion[true, predicted] += 1
    found = class_iou(confusion)
    for k in range(5):
        truth = {i for i, (true, _) in enumerate(pairs) if true == k}
        predicted = {i for i, (_, guess) in enumerate(pairs) if guess == k}
        if truth | predicted:
            assert found[k] == pytest.approx(100 * len(truth & predicted) / len(truth | predicted))
        else:
            assert math.isnan(found[k])


def test_mean_leaves_absent_classes_out_and_keeps_to_the_subset() -> None:
    iou = np.array([80.0, 40.0, np.nan, 0.0])
    classes = ["road", "car", "train", "pole"]
    assert mean_over(iou, classes, None) == pytest.approx(40.0)
    assert mean_over(iou, classes, ["train", "road"]) == pytest.approx(80.0)
    assert math.isnan(mean_over(iou, classes, ["train"]))
    with pytest.raises(ConfigError, match=r"lorry.*allowed road, car"):
        mean_over(iou, classes, ["lorry"])


@given(st.lists(st.floats(0, 100), min_size=2, max_size=8))
def test_statistic_agrees_with_the_standard_library_and_skips_nan(values: list[float]) -> None:
    found = statistic([*values, math.nan])
    assert found is not None
    assert found.std is not None
    assert (found.n, found.mean) == (len(values), pytest.approx(np.mean(values)))
    assert found.std == pytest.approx(statistics.stdev(values), abs=1e-9)


def test_one_value_has_no_spread_and_none_is_absent() -> None:
    one = statistic([12.5])
    assert one is not None
    assert (one.mean, one.std, one.n, one.low) == (12.5, None, 1, None)
    assert statistic([math.nan]) is None


def test_paired_interval_is_that_of_the_paired_t_test() -> None:
    ours = {0: 51.0, 1: 54.5, 2: 50.2, 7: 99.0}
    base = {2: 48.0, 0: 50.5, 1: 51.0, 9: 1.0}
    found = paired_difference(ours, base)
    seeds = (0, 1, 2)
    expected = stats.ttest_rel([ours[s] for s in seeds], [base[s] for s in seeds])
    low, high = expected.confidence_interval(0.95)
    assert found is not None
    assert found.n == 3
    assert (found.low, found.high) == (pytest.approx(low), pytest.approx(high))
    assert found.mean == pytest.approx((low + high) / 2)


def test_difference_of_one_common_seed_has_no_interval() -> None:
    found = paired_difference({0: 3.0, 1: 9.0}, {0: 1.0})
    assert found is not None
    assert (found.mean, found.low, found.high) == (2.0, None, None)
    assert paired_difference({0: 3.0}, {1: 1.0}) is None


@given(st.lists(st.one_of(st.none(), st.integers(0, 5).map(float)), max_size=7))
def test_rank_counts_the_distinct_larger_values(values: list[float | None]) -> None:
    there = [v for v in values if v is not None]
    expected = [
        0 if v is None or len(set(there)) < 2 else 1 + len({w for w in there if w > v})
        for v in values
    ]
    assert ranks(values) == [rank if rank <= 2 else 0 for rank in expected]


def test_ranks_look_at_unrounded_values() -> None:
    assert ranks([50.04, 50.01, 49.96]) == [1, 2, 0]


def test_selection_names_checkpoint_and_network(make) -> None:
    made = make.record("a", classes=["x", "y"], matrix=[[1, 0], [0, 1]])
    made["results"]["best"] = {
        "step": 2,
        "student": {"confusion": [[5, 0], [0, 5]]},
        "teacher": None,
    }
    assert chosen_confusion(made, "best.student").trace() == 10
    assert chosen_confusion(made, "last.teacher").trace() == 2
    with pytest.raises(DataError, match=r"keeps no teacher.*best\.student"):
        chosen_confusion(made, "best.teacher")
    with pytest.raises(ConfigError, match=r"selection: got 'first'.*last\.student"):
        chosen_confusion(made, "first")
