import pytest

from pipeline.cluster.usage import Usage


def test_makespan_bound_and_utilisation_of_a_small_grid() -> None:
    usage = Usage()
    # Two slots: a (6 s) and b (2 s), then c (3 s) on the free one, which ends last but one.
    usage.begin("a", 0.0, 1)
    usage.begin("b", 0.0, 1)
    usage.note(0.0, busy=2, capacity=2, waiting=1)
    usage.end("b", 2.0)
    usage.note(2.0, busy=1, capacity=2, waiting=1)
    usage.begin("c", 2.5, 1)
    usage.note(2.5, busy=2, capacity=2, waiting=0)
    usage.end("c", 5.5)
    usage.note(5.5, busy=1, capacity=2, waiting=0)
    usage.end("a", 6.0)
    assert usage.makespan == 6.0
    assert usage.lower_bound == 6.0  # the longest run; all work over two slots would be 5.5
    assert usage.work == 11.0
    # Until c started 4.5 of 5 slot-seconds were used.
    assert usage.utilisation == pytest.approx(0.9)


def test_a_lost_attempt_counts_as_work_of_its_run() -> None:
    usage = Usage()
    usage.note(0.0, busy=1, capacity=4, waiting=0)
    for begun in (0.0, 5.0):
        usage.begin("a", begun, 2)
        usage.end("a", begun + 3)
    assert (usage.work, usage.longest, usage.makespan) == (12.0, 6.0, 8.0)
    assert usage.lower_bound == 6.0
    assert usage.utilisation is None


def test_nothing_ran() -> None:
    assert (Usage().makespan, Usage().lower_bound, Usage().utilisation) == (0.0, 0.0, None)
