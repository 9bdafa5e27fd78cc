from collections import Counter
from itertools import chain

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ecocseg.data.sampling import EpochSampler
from ecocseg.errors import ConfigError

SHAPES = (st.integers(1, 12), st.integers(1, 9), st.integers(0, 2**40))


@settings(deadline=None, max_examples=100)
@given(*SHAPES, st.integers(1, 4))
def test_a_pass_is_full_batches_of_different_items(length, batch, seed, passes):
    """As a loader with drop_last: no batch, and no pass, holds an item twice."""
    batch = min(batch, length)
    full = length // batch
    sampler = EpochSampler(length, batch, seed)
    for number in range(passes):
        steps = range(number * full, (number + 1) * full)
        drawn = list(chain.from_iterable(sampler.indices(step) for step in steps))
        assert len(drawn) == full * batch
        assert len(set(drawn)) == len(drawn)
        assert set(drawn) <= set(range(length))


@settings(deadline=None, max_examples=50)
@given(st.integers(1, 6), st.integers(1, 9), st.integers(0, 2**40), st.integers(1, 4))
def test_a_batch_of_more_than_all_items_repeats_whole_passes(length, more, seed, passes):
    batch = length + more
    sampler = EpochSampler(length, batch, seed)
    steps = -(-passes * length // batch)
    drawn = list(chain.from_iterable(sampler.indices(step) for step in range(steps)))
    for number in range(passes):
        part = drawn[number * length : (number + 1) * length]
        assert sorted(part) == list(range(length))


def test_what_a_pass_leaves_over_differs_from_pass_to_pass():
    """30 items in batches of 16: each is left out of some passes, none of all."""
    sampler = EpochSampler(30, 16, 5)
    batches = [sampler.indices(step) for step in range(64)]
    counts = Counter(chain.from_iterable(batches))
    assert set(counts) == set(range(30))
    # Binomial, 64 passes, share 16 / 30: 34 expected, standard deviation 4.
    assert 14 < min(counts.values()) <= max(counts.values()) < 54


@settings(deadline=None, max_examples=50)
@given(*SHAPES, st.lists(st.integers(0, 30), min_size=1, max_size=8))
def test_a_step_needs_no_history(length, batch, seed, steps):
    walked = EpochSampler(length, batch, seed)
    in_order = [walked.indices(step) for step in range(31)]
    jumping = EpochSampler(length, batch, seed)
    assert [jumping.indices(step) for step in steps] == [in_order[step] for step in steps]


def test_passes_and_seeds_have_their_own_orders():
    sampler = EpochSampler(50, 50, 1)
    assert sampler.indices(0) != sampler.indices(1)
    assert sampler.indices(0) != EpochSampler(50, 50, 2).indices(0)


@pytest.mark.parametrize(("length", "batch", "field"), [(0, 1, "length"), (1, 0, "batch_size")])
def test_nothing_to_draw_is_refused(length, batch, field):
    with pytest.raises(ConfigError, match=field):
        EpochSampler(length, batch, 0)
