import pytest

from ecocseg.errors import UserError
from pipeline.gpus import kind_of, labels_from


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


def test_eight_cards_of_a_kind_give_one_label() -> None:
    listed = "NVIDIA GeForce RTX 3090, 24576\n" * 8
    assert labels_from(listed) == {"gpu": "rtx3090", "gpu-memory-gb": "25.8"}


def test_nothing_to_see() -> None:
    assert labels_from("No devices were found\n") == {}
    assert labels_from("NVIDIA H200, [N/A]\n") == {}


def test_several_kinds_in_one_machine_are_refused() -> None:
    with pytest.raises(UserError, match=r"several kinds \(h200, rtx3090\)"):
        labels_from("NVIDIA H200, 143771\nNVIDIA GeForce RTX 3090, 24576\n")
