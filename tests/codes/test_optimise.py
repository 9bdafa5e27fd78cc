import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ecocseg import Codebook
from ecocseg.codes.bounds import row_distance_bound
from ecocseg.codes.columns import all_columns, choose_columns, pairs_separated
from ecocseg.codes.search import Costs, distance_costs, quality, search_bits

SEARCHING = ("hadamard", "optimised")


def hamming(first, second):
    return int(np.count_nonzero(first != second))


def cost_of(bits, costs):
    """The same in loops."""
    total = sum(costs.weights[int(column.sum())] for column in bits.T)
    for i, j in itertools.combinations(range(len(bits)), 2):
        table = costs.rows if costs.rows.ndim == 1 else costs.rows[i, j]
        total += table[hamming(bits[i], bits[j])]
    for first, second in itertools.combinations(bits.T, 2):
        total += costs.columns[hamming(first, second)]
    return total


@st.composite
def problems(draw):
    words, length = draw(st.integers(2, 7)), draw(st.integers(1, 7))
    generator = np.random.default_rng(draw(st.integers(0, 10_000)))
    walks = draw(st.integers(1, 3))
    rows = generator.integers(0, 50, (words, words, length + 1)).astype(float)
    if draw(st.booleans()):
        rows = rows[0, 0]
    else:
        rows += rows.transpose(1, 0, 2)
    # Far from cost 0, so that every step is taken.
    costs = Costs(
        rows=rows + 1,
        columns=generator.integers(1, 50, words + 1).astype(float),
        weights=generator.integers(1, 50, words + 1).astype(float),
    )
    return generator.random((walks, words, length)) < 0.5, costs, draw(st.integers(0, 40))


@given(problems())
@settings(max_examples=60, deadline=None)
def test_the_search_knows_what_its_best_code_costs(problem):
    start, costs, steps = problem
    before = start.copy()
    found, cost = search_bits(
        start, costs, steps=steps, walks=len(start), generator=np.random.default_rng(0)
    )
    assert cost == cost_of(found, costs)
    assert cost <= min(cost_of(bits, costs) for bits in start)
    assert np.array_equal(start, before)


@given(problems())
@settings(max_examples=40, deadline=None)
def test_one_step_is_the_best_flip(problem):
    start, costs, _ = problem
    flips = []
    for i, k in itertools.product(*map(range, start[0].shape)):
        other = start[0].copy()
        other[i, k] ^= True
        flips.append(cost_of(other, costs))
    found, cost = search_bits(start[0], costs, steps=1, walks=1, generator=np.random.default_rng(0))
    assert cost == min([*flips, cost_of(start[0], costs)])
    assert hamming(found, start[0]) <= 1


@given(st.integers(3, 5), st.integers(0, 10_000), st.integers(0, 30), st.booleans())
@settings(max_examples=40, deadline=None)
def test_choosing_columns_knows_what_its_choice_costs(words, seed, steps, each):
    generator = np.random.default_rng(seed)
    columns = all_columns(words)
    separated = pairs_separated(columns)
    length = int(generator.integers(1, len(columns) + 1))
    shape = (separated.shape[1], length + 1) if each else (length + 1,)
    counts = generator.integers(1, 50, shape).astype(float)
    pairs = generator.integers(0, 50, (len(columns), len(columns))).astype(float)
    pairs += pairs.T
    np.fill_diagonal(pairs, 0)
    start = generator.permutation(len(columns))[:length]

    def cost(chosen):
        total = sum(pairs[a, b] for a, b in itertools.combinations(chosen, 2))
        for pair in range(separated.shape[1]):
            table = counts[pair] if each else counts
            total += table[int(separated[chosen, pair].sum())]
        return total

    found, lowest = choose_columns(
        separated, counts, pairs, start, steps=steps, generator=generator
    )
    assert len(set(found)) == length
    assert lowest == cost(found) <= cost(start)
    if steps == 1 and length < len(columns):
        exchanges = [
            cost([*(c for c in start if c != out), into])
            for out in start
            for into in set(range(len(columns))) - set(start)
        ]
        assert lowest == min([*exchanges, cost(start)])


def test_all_columns_are_there_once_up_to_complement():
    columns = {tuple(column) for column in all_columns(4)}
    opposite = {tuple(~np.array(column)) for column in columns}
    everything = set(itertools.product((False, True), repeat=4))
    assert columns | opposite == everything - {(False,) * 4, (True,) * 4}
    assert not columns & opposite


def test_costs_are_zero_just_when_the_distances_are_met():
    generator = np.random.default_rng(0)
    met = 0
    for _ in range(300):
        bits = generator.random((5, 6)) < 0.5
        rows = [hamming(a, b) for a, b in itertools.combinations(bits, 2)]
        columns = [hamming(a, b) for a, b in itertools.combinations(bits.T, 2)]
        constant = any(column.all() or not column.any() for column in bits.T)
        wanted = min(rows) >= 2 and min(columns) >= 1 and max(columns) <= 4 and not constant
        costs = distance_costs(bits, row_floor=2, separation=1)
        assert (cost_of(bits, costs) == 0) == wanted
        if wanted:
            spare = distance_costs(bits, row_floor=2, separation=1, spare_minimum=True)
            assert cost_of(bits, spare) == rows.count(2)
        met += wanted
    assert 20 < met < 280


@pytest.mark.parametrize(
    ("classes", "length"),
    [(2, 1), (2, 2), (3, 2), (4, 2), (4, 5), (4, 8), (5, 9), (6, 31), (8, 12), (10, 40), (13, 10)],
)
@pytest.mark.parametrize("builder", SEARCHING)
def test_codes_are_valid_and_repeat(builder, classes, length):
    book = Codebook.build(builder, num_classes=classes, length=length, seed=3)
    assert (book.num_classes, book.length) == (classes, length)
    assert book.min_row_distance > 0
    assert book.min_column_distance > 0
    assert book.max_column_distance < classes
    ones = book.bits.sum(0)
    constant = int(((ones == 0) | (ones == classes)).sum())
    assert constant == 0 or length == 2 ** (classes - 1) or builder == "hadamard"
    again = Codebook.build(builder, num_classes=classes, length=length, seed=3)
    assert np.array_equal(book.bits, again.bits)


@pytest.mark.parametrize(
    ("classes", "length"), [(4, 4), (5, 8), (7, 9), (9, 20), (11, 12), (13, 30), (17, 9), (25, 16)]
)
def test_optimised_is_at_least_as_far_apart_as_the_others(classes, length):
    optimised = Codebook.build("optimised", num_classes=classes, length=length)
    hadamard = Codebook.build("hadamard", num_classes=classes, length=length)
    mmd = Codebook.build("mmd", num_classes=classes, length=length, draws=2000)
    assert optimised.min_row_distance >= mmd.min_row_distance
    assert quality(optimised.bits.numpy()) >= quality(hadamard.bits.numpy())


@pytest.mark.parametrize(
    ("classes", "length", "apart"),
    [(19, 40, 20), (21, 40, 20), (11, 40, 21), (81, 60, 30), (4, 7, 4), (10, 40, 22), (9, 5, 2)],
)
def test_the_bound_is_reached(classes, length, apart):
    assert row_distance_bound(classes, length, valid=True) == apart
    for builder in SEARCHING if classes != 9 else ("optimised",):
        book = Codebook.build(builder, num_classes=classes, length=length)
        assert book.min_row_distance == apart


def test_few_columns_are_chosen_as_well_as_can_be():
    """Against every choice of 6 of the 15 columns over 5 classes."""
    columns = all_columns(5)
    best = max(quality(columns[list(chosen)].T) for chosen in itertools.combinations(range(15), 6))
    found = Codebook.build("optimised", num_classes=5, length=6).bits.numpy()
    assert quality(found) == best


def test_where_no_hadamard_code_fits_the_search_steps_in():
    book = Codebook.build("hadamard", num_classes=19, length=5)
    assert np.array_equal(book.bits, Codebook.build("optimised", num_classes=19, length=5).bits)
