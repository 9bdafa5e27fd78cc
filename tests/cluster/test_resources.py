from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ecocseg.errors import ConfigError
from pipeline.cluster.resources import (
    Node,
    Resources,
    cpus_on,
    room_for,
    share_of_gpu,
    suits,
    why_impossible,
)

GB = 1 << 30


def node(cpus: float = 8, gpus: float = 0, memory: int = 64 * GB, **more: Any) -> dict[str, Any]:
    """A node as `ray.nodes()` describes it; a resource it lacks is not listed."""
    total = {"CPU": cpus, "memory": memory} | ({"GPU": gpus} if gpus else {})
    return {"Alive": True, "Resources": total, "NodeManagerHostname": "a", "Labels": {}} | more


@pytest.mark.parametrize(
    "field, value",
    [
        ("cpus", 0),
        ("cpus", -1),
        ("gpus", -0.5),
        ("gpus", 1.5),
        ("memory_mb", 0),
        ("runs_per_gpu", 0),
        ("processes", 0),
        ("label", "rtx3090"),
        ("label", "=x"),
        ("label", "kind="),
        ("label", "ray.io/accelerator-type=G"),
    ],
)
def test_bad_values_are_refused_by_name(field: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=f"^{field}: got "):
        Resources(**{field: value})


@given(
    asked=st.tuples(st.integers(1, 8), st.sampled_from([0, 0.5, 1, 2]), st.integers(1, 8)),
    owned=st.lists(
        st.tuples(st.integers(1, 8), st.integers(0, 2), st.integers(1, 8), st.booleans()),
        max_size=4,
    ),
)
def test_possible_exactly_when_one_live_node_has_all_of_it(
    asked: tuple[int, float, int], owned: list[tuple[int, int, int, bool]]
) -> None:
    cpus, gpus, gigabytes = asked
    resources = Resources(cpus=cpus, gpus=gpus, memory_mb=1024 * gigabytes)
    nodes = [node(c, g, m * GB, Alive=alive) for c, g, m, alive in owned]
    # With a GPU a node never has too few cores: readers then share what there are.
    possible = any(
        alive and (c >= cpus or gpus) and g >= gpus and m >= gigabytes for c, g, m, alive in owned
    )
    assert (why_impossible(resources, nodes) is None) == bool(possible)


@pytest.mark.parametrize(
    "label, labels, expected",
    [
        ("kind=rtx3090", {"kind": "rtx3090"}, True),
        ("kind=rtx3090", {"kind": "h200"}, False),
        ("kind=rtx3090", {}, False),
        ("kind=!rtx3090", {"kind": "h200"}, True),
        ("kind=!rtx3090", {"kind": "rtx3090"}, False),
        ("kind=in(a, b)", {"kind": "b"}, True),
        ("kind=in(a,b)", {"kind": "c"}, False),
        ("kind=!in(a,b)", {"kind": "c"}, True),
        ("kind=!in(a,b)", {"kind": "a"}, False),
    ],
)
def test_labels(label: str, labels: dict[str, str], expected: bool) -> None:
    assert suits(Resources(label=label), Node.of(node(Labels=labels))) is expected


def test_the_message_names_what_was_asked_and_what_there_is() -> None:
    nodes = [
        node(4, 1, 8 * GB, NodeManagerHostname="one", Labels={"kind": "h200"}),
        node(2, 0, 4 * GB, NodeManagerHostname="two"),
        node(64, 8, 4 * GB, NodeManagerHostname="dead", Alive=False),
    ]
    asked = Resources(cpus=2, gpus=2, memory_mb=2048, label="kind=h200")
    message = why_impossible(asked, nodes)
    assert message is not None
    assert "asked for 2 CPU, 2 GPU, 2,048 MB memory, label kind=h200" in message
    assert "one: 4 CPU, 1 GPU, 8,192 MB memory, labels kind=h200" in message
    assert "two: 2 CPU, 0 GPU, 4,096 MB memory." in message
    assert "dead" not in message
    assert "no live node" in str(why_impossible(asked, []))


def test_options_for_ray() -> None:
    assert Resources(cpus=2).ray_options() == {"num_cpus": 2, "num_gpus": 0}
    assert Resources(gpus=0.5, memory_mb=3, label="kind=!a").ray_options() == {
        "num_cpus": 1,
        "num_gpus": 0.5,
        "memory": 3 << 20,
        "label_selector": {"kind": "!a"},
    }


@given(st.floats(0.1, 64))
def test_threads_never_exceed_the_cores_but_are_one_at_least(cpus: float) -> None:
    threads = Resources(cpus=cpus).threads
    assert threads == 1 or threads <= cpus < threads + 1


def box(gpus: int = 8, cpus: float = 32, card: float | None = 25.8, **labels: str) -> Node:
    given = labels | ({} if card is None else {"gpu-memory-gb": str(card)})
    return Node(id="n", name="box", cpus=cpus, gpus=gpus, memory_mb=256_000, labels=given)


@pytest.mark.parametrize(
    "needed, runs_per_gpu, card, share",
    [
        (9.8, 2, 25.8, 0.5),
        (12.0, 2, 25.8, 1.0),  # two would take 26.4 GB with the margin
        (2.0, 2, 25.8, 0.5),
        (2.0, 3, 25.8, 0.3333),
        (2.0, 1, 25.8, 1.0),
        (2.0, 2, None, 1.0),  # nobody knows the card
        (None, 2, 25.8, 1.0),  # nobody knows the run
    ],
)
def test_runs_share_a_card_that_has_memory_for_all_of_them(
    needed: float | None, runs_per_gpu: int, card: float | None, share: float
) -> None:
    asked = Resources(gpus=1, gpu_memory_gb=needed, runs_per_gpu=runs_per_gpu)
    found = share_of_gpu(asked, box(card=card))
    assert found == share
    # Ray counts in ten-thousandths: as many as are meant to share do fit.
    assert round(found * round(1 / found), 4) <= 1


def test_a_card_that_is_too_small_is_named() -> None:
    asked = Resources(gpus=1, gpu_memory_gb=40.0)
    assert not suits(asked, box())
    assert suits(asked, box(card=140.0))
    # A derived figure is no measurement: a little above the card is tried.
    assert suits(Resources(gpus=1, gpu_memory_gb=27.0), box())
    entry = node(8, 1, Labels={"gpu": "rtx3090", "gpu-memory-gb": "25.8"})
    message = str(why_impossible(asked, [entry]))
    assert "1 GPU with 40.0 GB" in message
    assert "gpu=rtx3090, gpu-memory-gb=25.8" in message


def test_readers_never_leave_cards_idle() -> None:
    asked = Resources(cpus=5, gpus=1)
    assert cpus_on(asked, box(cpus=32)) == 4
    assert room_for(asked, box(cpus=32)) == 8
    assert cpus_on(asked, box(cpus=64)) == 5
    third = Resources(cpus=5, gpus=1, gpu_memory_gb=1, runs_per_gpu=3)
    assert room_for(third, box(gpus=1, cpus=8)) == 3


def test_processes_of_a_run_count_together() -> None:
    pair = Resources(gpus=1, processes=2)
    one = node(8, 1)
    assert why_impossible(pair, [one]) is not None
    assert "2 times 1 CPU, 1 GPU" in str(why_impossible(pair, [one]))
    assert why_impossible(pair, [one, one]) is None
