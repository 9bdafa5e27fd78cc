import itertools

import numpy as np
import pytest

from ecocseg.codes.bounds import row_distance_bound, separation_bound

# A(length, distance): the exact sizes that Brouwer's and Agrell's tables list.
KNOWN = {
    (5, 3): 4, (6, 3): 8, (7, 3): 16, (8, 3): 20, (9, 3): 40, (10, 3): 72, (8, 4): 16,
    (10, 4): 40, (11, 5): 24, (12, 6): 24, (13, 5): 64, (15, 5): 256, (16, 8): 32,
    (24, 8): 4096, (40, 20): 80, (60, 30): 120, (64, 32): 128,
}  # fmt: skip


def distance(first, second):
    return sum(a != b for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize(("length", "apart"), KNOWN)
def test_no_bound_denies_a_code_that_exists(length, apart):
    for words in {2, 3, KNOWN[length, apart] // 2, KNOWN[length, apart]}:
        assert row_distance_bound(words, length) >= apart


@pytest.mark.parametrize(("length", "apart"), [(5, 3), (7, 3), (16, 8), (24, 8), (40, 20)])
def test_one_word_more_than_there_can_be_lowers_the_bound(length, apart):
    # Plotkin's, Hamming's or Delsarte's bound is known to be exact here.
    assert row_distance_bound(KNOWN[length, apart], length) == apart
    assert row_distance_bound(KNOWN[length, apart] + 1, length) < apart


@pytest.mark.parametrize(
    ("classes", "length", "bound"), [(19, 40, 20), (21, 40, 20), (11, 40, 21), (81, 60, 30)]
)
def test_the_benchmarks_bounds(classes, length, bound):
    assert row_distance_bound(classes, length) == bound
    assert row_distance_bound(classes, length, valid=True) == bound


@pytest.mark.parametrize(("words", "length"), [(2, 2), (3, 3), (3, 4), (4, 3), (4, 4), (5, 4)])
def test_the_bounds_hold_for_every_small_code(words, length):
    best = best_valid = 0
    separated = 0
    # Without loss of generality the first word is 0 and the words are in order.
    for rest in itertools.combinations(itertools.product((0, 1), repeat=length), words - 1):
        code = ((0,) * length, *rest)
        smallest = min(distance(a, b) for a, b in itertools.combinations(code, 2))
        columns = [distance(a, b) for a, b in itertools.combinations(zip(*code, strict=True), 2)]
        apart = min(min(columns), words - max(columns))
        best = max(best, smallest)
        separated = max(separated, apart)
        if apart > 0:
            best_valid = max(best_valid, smallest)
    assert row_distance_bound(words, length) >= best
    assert row_distance_bound(words, length, valid=True) >= best_valid
    assert separation_bound(words, length) >= separated
    # Plotkin's bound is exact for so few words where distances are more than half of the bits.
    if 2 * best > length:
        assert row_distance_bound(words, length) == best


def test_orthogonal_columns_meet_the_separation_bound():
    # 16 columns of a Hadamard matrix of order 16 differ in 8 of its rows.
    assert separation_bound(16, 15) == separation_bound(16, 16) == 8
    assert separation_bound(19, 1) == 19
    assert [separation_bound(19, 40), separation_bound(4, 7)] == [7, 1]


def test_more_bits_never_lower_the_bound_and_more_words_never_raise_it():
    table = np.array([[row_distance_bound(n, k) for k in range(5, 30)] for n in range(2, 30)])
    assert (np.diff(table, axis=1) >= 0).all()
    assert (np.diff(table, axis=0) <= 0).all()
