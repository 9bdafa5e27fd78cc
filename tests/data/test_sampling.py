from itertools import chain

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ecocseg.data.sampling import EpochSampler
from ecocseg.errors import ConfigError

SHAPES = (st.integers(1, 12), st.integers(1, 9), st.integers(0, 2**40))


@settings(deadline=None, max_examples=50)
@given(*SHAPES, st.integers(1, 4))
def test_every_pass_holds_each_item_once(length, batch, seed, passes):
    sampler = EpochSampler(length, batch, seed)
    steps = -(-passes * length // batch)
    drawn = list(chain.from_iterable(sampler.indices(step) for step in range(steps)))
    for number in range(passes):
        part = drawn[number * length : (number + 1) * length]
        assert sorted(part) == list(range(length))


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
