"""A short part of benchmarks/chaos.py: a grid under faults ends as if there were none."""

import tempfile
from pathlib import Path

import chaos
import pytest
from chaos_faults import KINDS, draw


@pytest.mark.parametrize("count, kinds", [(1, 1), (8, 6), (30, len(KINDS)), (110, len(KINDS))])
def test_a_seed_decides_the_faults_and_many_kinds_come(count, kinds):
    faults = draw(0, count, 4.0)
    assert faults == draw(0, count, 4.0) != draw(1, count, 4.0)
    assert len(faults) == count
    assert len({fault.kind for fault in faults}) >= kinds


@pytest.mark.timeout(900)
def test_a_grid_under_faults_ends_as_an_undisturbed_one():
    # Ray's sockets do not fit below pytest's long temporary path.
    with tempfile.TemporaryDirectory(prefix="chaos-", dir="/tmp") as folder:
        lines = chaos.run(
            13, runs=2, faults=2, nodes=2, steps=16, gap_s=1.5, folder=Path(folder), say=False
        )
    assert not [line for line in lines if line.holds is False], chaos.table(lines)
    assert sum(line.holds is True for line in lines) == 10
