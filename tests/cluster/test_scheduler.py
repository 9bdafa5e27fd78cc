"""The scheduler alone, without Ray: what it places never exceeds a node, and nobody starves."""

import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.cluster.resources import Node, Resources, room_for
from pipeline.cluster.scheduler import Placement, Scheduler


def node(name: str, cpus: float = 8, gpus: int = 0, memory: float = 64_000, **labels: str) -> Node:
    return Node(id=name, name=name, cpus=cpus, gpus=gpus, memory_mb=memory, labels=labels)


def scheduler(*nodes: Node) -> Scheduler:
    made = Scheduler()
    made.update(nodes)
    return made


def ids(placements: list[Placement]) -> list[str]:
    return [placement.run_id for placement in placements]


ASKS = st.builds(
    Resources,
    cpus=st.sampled_from([1, 2, 5]),
    gpus=st.sampled_from([0, 0.5, 1, 2]),
    memory_mb=st.sampled_from([None, 8_000]),
    gpu_memory_gb=st.sampled_from([None, 5.0, 20.0]),
    runs_per_gpu=st.sampled_from([1, 2, 3]),
    processes=st.sampled_from([1, 1, 2]),
)
NODES = st.lists(
    st.tuples(st.sampled_from([2, 8, 12]), st.integers(0, 4), st.sampled_from([None, "25.8"])),
    min_size=1,
    max_size=4,
)


@settings(max_examples=200, deadline=None)
@given(asks=st.lists(ASKS, min_size=1, max_size=12), machines=NODES, seed=st.integers(0, 999))
def test_no_node_is_given_more_than_it_has_and_every_run_gets_its_turn(
    asks: list[Resources], machines: list[tuple[int, int, str | None]], seed: int
) -> None:
    nodes = [
        node(f"n{i}", cpus, gpus, **({"gpu-memory-gb": card} if card else {}))
        for i, (cpus, gpus, card) in enumerate(machines)
    ]
    made = scheduler(*nodes)
    order = random.Random(seed)
    for number, asked in enumerate(asks):
        made.add(f"run{number}", asked, cost=order.random())
    made.drop(made.impossible())
    wanted = made.waiting
    done = 0
    while made.waiting or made.running:
        made.place()
        assert made.running  # an idle cluster always takes what it could ever take
        for each in nodes:
            parts = [p for r in made.running.values() for p in r.parts if p.node_id == each.id]
            assert sum(p.cpus for p in parts) <= each.cpus + 1e-9
            assert sum(p.memory_mb for p in parts) <= each.memory_mb
            cards: Counter[int] = Counter()
            for part in parts:
                for card in part.cards:
                    assert 0 <= card < each.gpus
                    cards[card] += part.share  # type: ignore[assignment]
            assert all(used <= 1 + 1e-9 for used in cards.values())
        for placement in made.running.values():
            assert len(placement.parts) == placement.asked.processes
            if placement.asked.processes > 1 and placement.asked.gpus >= 1:
                # NCCL refuses two processes of a run on one card.
                held = [(p.node_id, card) for p in placement.parts for card in p.cards]
                assert len(set(held)) == len(held)
        made.release(order.choice(sorted(made.running)))
        done += 1
    assert done == wanted


def test_the_longest_start_first_counting_what_processes_share() -> None:
    made = scheduler(node("a", gpus=2))
    made.add("short", Resources(gpus=1), cost=1)
    made.add("long", Resources(gpus=1), cost=9)
    made.add("pair", Resources(gpus=1, processes=2), cost=12)  # 6 for each of its processes
    assert ids(made.place()) == ["long"]
    # One card is idle, and stays so for the pair, which is next.
    made.release("long")
    assert ids(made.place()) == ["pair"]
    made.release("pair")
    assert ids(made.place()) == ["short"]


def test_a_wide_run_does_not_starve_and_the_other_nodes_are_filled() -> None:
    made = scheduler(node("a", gpus=2), node("b", gpus=1))
    for number in range(9):
        made.add(f"run{number}", Resources(gpus=1), cost=5)
    assert len(made.place()) == 3
    made.add("pair", Resources(gpus=1, processes=2), cost=99)
    on_a = [r for r, p in made.running.items() if p.parts[0].node_id == "a"]
    on_b = next(r for r, p in made.running.items() if p.parts[0].node_id == "b")
    made.release(on_a[0])
    assert made.place() == []  # kept free for the pair
    made.release(on_b)
    assert [p.parts[0].node_id for p in made.place()] == ["b"]
    made.release(on_a[1])
    assert ids(made.place()) == ["pair"]


def test_a_run_spans_machines_only_where_none_could_take_it_alone() -> None:
    apart = scheduler(node("a", gpus=1), node("b", gpus=1))
    apart.add("pair", Resources(gpus=1, processes=2))
    assert {part.node_id for part in apart.place()[0].parts} == {"a", "b"}
    near = scheduler(node("a", gpus=1), node("b", gpus=1), node("c", gpus=2))
    near.add("first", Resources(gpus=2))
    near.add("pair", Resources(gpus=1, processes=2))
    assert ids(near.place()) == ["first"]


def test_a_run_over_several_machines_does_not_starve_either() -> None:
    made = scheduler(node("a", gpus=1), node("b", gpus=1), node("c", gpus=1))
    for number in range(9):
        made.add(f"run{number}", Resources(gpus=1), cost=5)
    first = {p.run_id: p.parts[0].node_id for p in made.place()}
    made.add("pair", Resources(gpus=1, processes=2), cost=99)
    by_node = {name: run_id for run_id, name in first.items()}
    made.release(by_node["a"])
    assert made.place() == []
    made.release(by_node["c"])
    # Two machines are kept free for it, whichever; the third one is filled.
    started = ids(made.place())
    if "pair" not in started:
        made.release(by_node["b"])
        started += ids(made.place())
    assert "pair" in started
    assert len(started) <= 2


def test_two_processes_never_share_a_card() -> None:
    asked = Resources(gpus=1, gpu_memory_gb=9.8, runs_per_gpu=2, processes=2)
    one = scheduler(node("a", gpus=1, **{"gpu-memory-gb": "25.8"}))
    one.add("pair", asked)
    assert "cluster.processes_per_run=1" in one.impossible()["pair"]
    two = scheduler(node("a", gpus=2, **{"gpu-memory-gb": "25.8"}))
    two.add("pair", asked)
    (placement,) = two.place()
    assert [part.cards for part in placement.parts] == [(0,), (1,)]


def test_processes_are_given_what_was_counted_for_them() -> None:
    made = scheduler(node("a", cpus=8, gpus=4))
    made.add("pair", Resources(cpus=5, gpus=1, processes=2))
    (placement,) = made.place()
    assert (placement.each.cpus, placement.each.gpus) == (2, 1)
    assert [part.cpus for part in placement.parts] == [2, 2]


def test_small_runs_share_a_card_and_leave_the_others_whole() -> None:
    made = scheduler(node("a", gpus=2, **{"gpu-memory-gb": "25.8"}))
    small = Resources(gpus=1, gpu_memory_gb=8, runs_per_gpu=2)
    for name in "abc":
        made.add(name, small)
    cards = [placement.parts[0].cards for placement in made.place()]
    assert cards == [(0,), (0,), (1,)]
    made.add("whole", Resources(gpus=1))
    assert made.place() == []
    made.release("c")
    assert ids(made.place()) == ["whole"]


def test_runs_without_gpu_leave_the_machines_with_gpus_alone() -> None:
    made = scheduler(node("gpus", cpus=64, gpus=8), node("plain", cpus=2))
    for number in range(3):
        made.add(f"run{number}", Resources())
    assert [p.parts[0].node_id for p in made.place()] == ["plain", "plain", "gpus"]


def test_the_smallest_card_that_will_do() -> None:
    big, small = {"gpu-memory-gb": "141"}, {"gpu-memory-gb": "25.8"}
    made = scheduler(node("h200", gpus=1, **big), node("rtx", gpus=1, **small))
    made.add("a", Resources(gpus=1, gpu_memory_gb=10), cost=2)
    made.add("b", Resources(gpus=1, gpu_memory_gb=80), cost=1)
    assert [p.parts[0].node_id for p in made.place()] == ["rtx", "h200"]


def test_a_node_that_others_depend_on_is_taken_last() -> None:
    made = scheduler(node("special", cpus=1, kind="special"), node("plain", cpus=1))
    made.add("anywhere", Resources(), cost=9)
    made.add("special", Resources(label="kind=special"), cost=1)
    places = {p.run_id: p.parts[0].node_id for p in made.place()}
    assert places == {"anywhere": "plain", "special": "special"}


def test_nodes_come_and_go() -> None:
    made = scheduler(node("a", cpus=1))
    for number in range(3):
        made.add(f"run{number}", Resources())
    assert len(made.place()) == 1
    made.update([node("a", cpus=1), node("late", cpus=1)])
    assert [p.parts[0].node_id for p in made.place()] == ["late"]
    made.update([node("late", cpus=1)])
    lost = next(r for r, p in made.running.items() if p.parts[0].node_id == "a")
    assert made.release(lost).parts[0].node_id == "a"
    made.requeue(lost)
    assert made.place() == []
    made.update([])
    assert set(made.impossible()) == {lost, "run2"}
    assert "no live node" in made.impossible()[lost]
    made.drop({lost})
    assert made.waiting == 1


def test_what_others_hold_is_not_given_away() -> None:
    made = scheduler(node("a", cpus=8, gpus=2), node("b", cpus=8, gpus=2))
    both = [node("a", cpus=8, gpus=2), node("b", cpus=8, gpus=2)]
    made.update(both, {"a": (1.0, 2.0)})
    for number in range(3):
        made.add(f"run{number}", Resources(gpus=1))
    assert [p.parts[0].node_id for p in made.place()] == ["b", "b"]
    made.update(both, {"a": (1.0, 1.0)})
    assert [p.parts[0].node_id for p in made.place()] == ["a"]


@pytest.mark.parametrize("gpus, expected", [(0, 12.0), (1, 4.0)])
def test_capacity_counts_what_the_runs_are_about(gpus: int, expected: float) -> None:
    made = scheduler(node("a", cpus=8, gpus=4), node("b", cpus=4))
    made.add("run", Resources(gpus=gpus))
    assert made.capacity() == expected


def test_the_first_wave_fills_every_place() -> None:
    nodes = [node(f"n{i}", cpus=48, gpus=8) for i in range(4)]
    made = scheduler(*nodes)
    asked = Resources(cpus=5, gpus=1)
    for number in range(100):
        made.add(f"run{number:03}", asked, cost=number)
    assert ids(made.place()) == [f"run{number:03}" for number in range(99, 67, -1)]
    assert sum(room_for(asked, each) for each in nodes) == 32
