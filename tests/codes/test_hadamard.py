import itertools

import numpy as np
import pytest

from ecocseg.codes.bounds import row_distance_bound
from ecocseg.codes.hadamard import constructed_bits, hadamard_matrix, parts, recipes


@pytest.mark.parametrize("order", [1, 2, *range(4, 92, 4), 100, 120])
def test_rows_are_orthogonal(order):
    matrix = hadamard_matrix(order)
    assert matrix is not None
    assert set(np.unique(matrix)) <= {-1, 1}
    assert np.array_equal(matrix.astype(int) @ matrix.T, order * np.eye(order))
    assert (matrix[0] == 1).all()
    assert (matrix[:, 0] == 1).all()


@pytest.mark.parametrize("order", [0, 3, 6, 10, 92])
def test_orders_without_a_matrix_have_none(order):
    assert hadamard_matrix(order) is None


@pytest.mark.parametrize("words", [2, 5, 11, 19, 40, 81, 150])
def test_parts_keep_their_promise(words):
    found = parts(words, 100)
    assert found
    for part in found:
        assert len(part.table) >= words
        rows = [np.count_nonzero(a != b) for a, b in itertools.combinations(part.table, 2)]
        assert min(rows) >= part.distance


@pytest.mark.parametrize(
    ("words", "length"),
    [(6, 20), (7, 9), (9, 17), (10, 30), (11, 40), (13, 30), (19, 40), (24, 50)],
)
def test_levenshteins_codes_meet_plotkins_bound(words, length):
    bound = row_distance_bound(words, length)
    assert recipes(words, length)[0][0] == bound


def smallest(bits):
    return min(np.count_nonzero(a != b) for a, b in itertools.combinations(bits, 2))


@pytest.mark.parametrize(
    ("words", "length", "apart"), [(19, 40, 20), (21, 40, 20), (11, 40, 21), (81, 60, 30)]
)
def test_the_benchmarks_codes_have_their_distance_and_separate_columns(words, length, apart):
    bits = constructed_bits(words, length)
    assert bits.shape == (words, length)
    assert smallest(bits) == apart
    columns = [np.count_nonzero(a != b) for a, b in itertools.combinations(bits.T, 2)]
    # At least half of what is possible at all: 7, 8, 4 and 40.
    wanted = {19: 5, 21: 6, 11: 2, 81: 32}[words]
    assert wanted <= min(columns)
    assert max(columns) <= words - wanted


def test_the_same_seed_gives_the_same_code():
    first = constructed_bits(19, 40, 1)
    assert np.array_equal(first, constructed_bits(19, 40, 1))
    assert not np.array_equal(first, constructed_bits(19, 40, 2))


def test_where_columns_would_have_to_repeat_there_is_no_construction():
    # 19 words of 5 bits: every Hadamard code of so many words has lost all its distance.
    assert constructed_bits(19, 5) is None
