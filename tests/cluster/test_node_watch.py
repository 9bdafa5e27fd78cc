"""Whose the load of a node is, and which node fails whatever it is given; without Ray."""

from typing import Any

import pytest

from pipeline.cluster import nodes
from pipeline.cluster.nodes import NodeHealth, NodeWatch
from pipeline.cluster.resources import Node, Resources
from pipeline.cluster.scheduler import Part, Placement


class State:
    """What Ray tells: totals and what is free."""

    def __init__(self) -> None:
        self.free = {"a": {"CPU": 4.0, "GPU": 2.0}, "b": {"CPU": 4.0}}

    def total_resources_per_node(self) -> dict[str, dict[str, float]]:
        return {"a": {"CPU": 4.0, "GPU": 2.0}, "b": {"CPU": 4.0}}

    def available_resources_per_node(self) -> dict[str, dict[str, float]]:
        return self.free


@pytest.fixture
def state(monkeypatch: pytest.MonkeyPatch) -> State:
    made = State()
    monkeypatch.setattr(nodes, "state", made)
    return made


def placed(run_id: str, node_id: str, cpus: float, cards: tuple[int, ...] = ()) -> Placement:
    part = Part(node_id=node_id, cpus=cpus, memory_mb=0, share=1.0, cards=cards)
    return Placement(run_id=run_id, asked=Resources(), parts=(part,))


def test_what_somebody_else_holds_is_seen_at_once(state: State) -> None:
    state.free["a"] = {"CPU": 2.0, "GPU": 1.0}
    assert NodeWatch().others([]) == {"a": (2.0, 1.0), "b": (0.0, 0.0)}


def test_our_own_runs_are_not_somebody_elses(state: State) -> None:
    state.free["a"] = {"CPU": 1.0}  # what is used up is not listed
    ours = [placed("x", "a", 2.0, (0,))]
    assert NodeWatch().others(ours)["a"] == (1.0, 1.0)
    # Handed to Ray, and not begun there yet.
    state.free["b"] = {"CPU": 4.0}
    assert NodeWatch().others([placed("y", "b", 3.0)])["b"] == (0.0, 0.0)


def test_what_ended_just_now_and_still_counts_with_ray_is_not_somebody_elses(state: State) -> None:
    watch = NodeWatch()
    assert watch.others([])["b"] == (0.0, 0.0)
    state.free["b"] = {"CPU": 3.0}
    assert watch.others([])["b"] == (0.0, 0.0)
    assert watch.others([])["b"] == (0.0, 0.0)
    # At three looks in a row it is.
    assert watch.others([])["b"] == (1.0, 0.0)


def test_a_node_that_fails_all_it_is_given_is_left_alone_if_others_finish() -> None:
    machines: list[Any] = [Node(id="a", name="bad-box"), Node(id="b", name="good-box")]
    health = NodeHealth()
    for at in (1.0, 2.0, 3.0):
        health.failed(["a"], 0.5, at)
    # Nothing finishes anywhere: the runs themselves may be wrong.
    assert health.suspects(machines, 4.0) == set()
    assert health.notice == ""
    health.finished(["b"])
    assert health.suspects(machines, 5.0) == {"a"}
    assert health.notice.startswith("bad-box gets no runs for 10 min: 3 in a row failed there")
    # The good one is gone: better a suspect than none.
    assert health.suspects(machines[:1], 6.0) == set()
    assert health.suspects(machines, 604.0) == set()


def test_failures_after_a_while_or_between_successes_are_the_runs_own() -> None:
    machines: list[Any] = [Node(id="a"), Node(id="b")]
    health = NodeHealth()
    health.finished(["b"])
    for at in (1.0, 2.0, 3.0):
        health.failed(["a"], 600.0, at)
    assert health.suspects(machines, 4.0) == set()
    for at in (5.0, 6.0):
        health.failed(["a"], 1.0, at)
    health.finished(["a"])
    health.failed(["a"], 1.0, 7.0)
    assert health.suspects(machines, 8.0) == set()
