"""The simulated grid of benchmarks/scale.py, in small: the scheduler's own promises hold in it."""

import pytest
from scale_simulation import simulate


@pytest.mark.parametrize("gpus", [1, 12, 32])
def test_machines_that_fail_stay_busy_and_every_run_ends(gpus: int) -> None:
    found = simulate(600, gpus, seed=1, node_hours=100, worker_hours=100)
    usage = found.usage
    assert found.lost > 50
    # Until the last run starts, with runs on one, two and four GPUs.
    assert usage.utilisation is not None
    assert 0.95 <= usage.utilisation <= 1 + 1e-9
    assert usage.lower_bound <= usage.makespan <= 1.1 * usage.lower_bound
    again = simulate(600, gpus, seed=1, node_hours=100, worker_hours=100)
    assert (again.usage, again.lost) == (usage, found.lost)


def test_nothing_is_computed_twice_but_what_lies_after_a_checkpoint() -> None:
    calm = simulate(200, 8, seed=2, node_hours=1e9, worker_hours=1e9)
    rough = simulate(200, 8, seed=2, node_hours=50, worker_hours=50)
    assert calm.lost == 0
    # A quarter of an hour at most of each lost attempt, on four GPUs at most.
    extra = rough.usage.work - calm.usage.work
    assert 0 < extra <= rough.lost * 0.25 * 3600 * 4
