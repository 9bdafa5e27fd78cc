import pytest

from ecocseg.errors import UserError
from pipeline.machine.cards import Card
from pipeline.machine.gpus import kind_of, labels_of, visible


@pytest.mark.parametrize(
    "name, kind",
    [
        ("NVIDIA GeForce RTX 3090", "rtx3090"),
        ("GeForce RTX 3090", "rtx3090"),
        ("NVIDIA GeForce RTX 4080 SUPER", "rtx4080super"),
        ("NVIDIA H200", "h200"),
        ("NVIDIA A100-SXM4-80GB", "a100-sxm4-80gb"),
        ("Tesla V100-SXM2-16GB", "v100-sxm2-16gb"),
        ("", "unknown"),
    ],
)
def test_a_name_as_a_label(name: str, kind: str) -> None:
    assert kind_of(name) == kind


def card(index: int, name: str, memory_gb: float = 25.769803776) -> Card:
    return Card(
        index=index,
        uuid=f"GPU-{index}abc",
        name=name,
        memory_gb=memory_gb,
        used_gb=0.1,
        driver="570.1",
    )


MIXED = [card(0, "NVIDIA GeForce RTX 3090"), card(1, "NVIDIA GeForce GT 710", 2.1)]


def test_eight_cards_of_a_kind_give_one_label() -> None:
    eight = [card(index, "NVIDIA GeForce RTX 3090") for index in range(8)]
    assert labels_of(eight) == {"gpu": "rtx3090", "gpu-memory-gb": "25.8"}
    assert labels_of([]) == {}


def test_several_kinds_in_one_machine_are_refused() -> None:
    with pytest.raises(UserError, match=r"several kinds \(gt710, rtx3090\)"):
        labels_of(MIXED)


@pytest.mark.parametrize(
    "chosen, indices",
    [(None, [0, 1]), ("0", [0]), ("GPU-1", [1]), ("1, 0", [0, 1]), ("", []), ("7", [])],
)
def test_only_the_cards_that_a_process_sees_count(chosen: str | None, indices: list[int]) -> None:
    assert [each.index for each in visible(MIXED, chosen)] == indices
