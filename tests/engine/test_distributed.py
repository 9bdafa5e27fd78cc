"""Two processes compute what one computes with the same batch: real ones, started once for all."""

import copy
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from states import assert_equal, flat
from torch import nn

sys.path.insert(0, str(Path(__file__).parent))
import group_worker

from ecocseg.data.dataset import StepBatches
from ecocseg.encodings import ENCODINGS
from ecocseg.engine.distributed import SINGLE, Group, current_group, joined, per_image
from ecocseg.engine.seed import generator
from ecocseg.errors import ConfigError
from ecocseg.methods import METHODS
from ecocseg.models.sharing import share

pytestmark = pytest.mark.timeout(900)


@pytest.fixture(scope="module")
def group(streets_data, tmp_path_factory):
    """Results of both processes, which run while the test's own process computes its own."""
    folder = tmp_path_factory.mktemp("group")
    logs = [folder / f"log{rank}" for rank in range(2)]
    started = []
    for rank, log in enumerate(logs):
        command = [sys.executable, group_worker.__file__, rank, 2, streets_data, folder]
        with log.open("w") as file:
            started.append(
                subprocess.Popen(list(map(str, command)), stdout=file, stderr=subprocess.STDOUT)
            )
    make = group_worker.tiny_maker(streets_data, folder)
    try:
        alone = {
            case: group_worker.compute(make, case, folder / f"alone_{case}")
            for case in group_worker.CASES
        }
        for process, log in zip(started, logs, strict=True):
            assert process.wait(800) == 0, log.read_text()
    finally:
        for process in started:
            process.kill()
    return SimpleNamespace(
        alone=alone,
        make=make,
        folder=folder,
        read=lambda name: [
            torch.load(folder / f"{name}.{rank}.pt", weights_only=False) for rank in range(2)
        ],
    )


def assert_near(found, expected, least):
    """Each tensor to 1e-4 of its largest number; `least` is what counts as nothing."""
    found, expected = flat(found), flat(expected)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        if isinstance(value, torch.Tensor) and value.is_floating_point():
            bound = 1e-4 * float(value.abs().max()) + least
            assert float((found[name] - value).abs().max()) <= bound, name
        elif isinstance(value, torch.Tensor):
            assert torch.equal(found[name], value), name
        elif isinstance(value, float):
            assert found[name] == pytest.approx(value, rel=1e-6, abs=1e-9), name
        else:
            assert found[name] == value, name


def test_every_method_and_encoding_is_a_case():
    cases = {case[:2] for case in group_worker.CASES.values()}
    assert cases == {(method, encoding) for method in METHODS for encoding in ENCODINGS}


@pytest.mark.parametrize("case", list(group_worker.CASES))
def test_two_processes_are_one(group, case):
    """Curves, gradients, weights, batch statistics, teacher, optimiser and confusion matrices.

    Networks are float64; what is left is the rounding of images, which are float32.
    """
    alone, (first, second) = group.alone[case], group.read(case)
    assert_equal(first, second)
    assert len(first["curves"]) == len(alone["curves"]) > 1
    assert_near(first["curves"], alone["curves"], 0)
    size = max(float(g.abs().max()) for g in alone["gradients"].values())
    assert size > 1e-4
    # A bias before batch normalisation has no gradient but for rounding.
    assert_near(first["gradients"], alone["gradients"], 1e-8 * size)
    assert_near(first["state"], alone["state"], 1e-8 * size)
    assert_equal(first["confusions"], alone["confusions"])


def test_where_images_are_not_blurred_they_are_one_to_the_last_digits(group):
    for encoding in ENCODINGS:
        case = f"supervised_{encoding}"
        found, alone = group.read(case)[0]["gradients"], group.alone[case]["gradients"]
        size = max(float(g.abs().max()) for g in alone.values())
        assert max(float((g - found[n]).abs().max()) for n, g in alone.items()) < 1e-9 * size


def test_resumed_is_uninterrupted(group):
    for case, step in (("dacs_ecoc", 1), ("stpp_ecoc", 2)):
        first, second = (found["resumed"][case] for found in group.read("parts"))
        assert first["began"] == second["began"] == step
        assert_equal(first, second)
        assert_equal(first["state"], group.read(case)[0]["state"])


def test_layers_work_on_the_whole_batch(group):
    parts, alone = group.read("parts"), group_worker.passed(SINGLE)
    assert_equal(parts[0]["layers"], parts[1]["layers"])
    assert parts[0]["layers"].keys() == alone.keys()
    for name, expected in alone.items():
        found = parts[0]["layers"][name]
        if name in ("dropout", "channels", "volume channels", "path", "none"):
            assert_equal(found, expected)
            assert name == "none" or (expected["result"] == 0).any()
            continue
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12, msg=name)


def test_sums_run_over_the_whole_batch(group):
    parts, alone = [found["sums"] for found in group.read("parts")], group_worker.sums(SINGLE)
    assert_equal(parts[0], parts[1])
    assert_equal(parts[0], alone)
    assert float(alone["mean"]) == pytest.approx(66 / 7)
    # Of 12 pixels 8 are valid, and five of these (5, 7, 8, 10, 11) above 4 / 12.
    valid = torch.arange(12).view(6, 2, 1) % 3 > 0
    expected = torch.where(valid, 5 / 8, 0.0).double()
    torch.testing.assert_close(alone["quality"], expected)
    assert 0 < int(alone["classes"].sum()) < 12


def test_evaluation_counts_the_same(group):
    alone = group_worker.scores(group.make, group.folder, SINGLE)
    for found in group.read("parts"):
        assert_equal(found["scores"], alone)


def test_divergence_is_told_alike_with_the_whole_batch(group):
    first, second = (found["diverged"] for found in group.read("parts"))
    assert_equal(first, second)
    assert first["step"] == 2
    fields = group_worker.COMMON | {"double": False}
    reader = StepBatches(group.make("dacs", "one-hot", **fields).streams, seed=0)
    assert first["keys"] == reader.keys(1)
    assert_equal(first["images"], {name: s.images for name, s in reader[1].items()})


def test_a_folder_that_others_do_not_see_is_refused(group):
    told = [found["refused"] for found in group.read("parts")]
    assert "own0: only 1 of the 2 processes of this run see the folder" in told[0]
    assert "own1: only 1 of the 2" in told[1]


class Third(Group):
    """The second of three processes, of which the others are not there."""

    rank, size = 1, 3


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({}, r"schedule\.labelled_batch: got 2, allowed is a multiple of 3: 3 processes share it"),
        (
            {"labelled_batch": 6, "unlabelled_batch": 4},
            r"schedule\.unlabelled_batch: got 4, allowed is a multiple of 3",
        ),
        (
            {"labelled_batch": 6, "unlabelled_batch": 12, "micro_batches": 2},
            None,
        ),
        (
            {"labelled_batch": 10, "unlabelled_batch": 0, "micro_batches": 2},
            r"schedule\.labelled_batch: got 10, allowed is a multiple of 6: .* in 2 micro-batches",
        ),
    ],
)
def test_batches_that_cannot_be_shared(tiny_run, fields, words):
    if words is None:
        tiny_run("supervised", "one-hot", group=Third(), **fields)
        return
    with pytest.raises(ConfigError, match=words):
        tiny_run("supervised", "one-hot", group=Third(), **fields)


def test_layers_that_need_whole_batches_are_refused():
    network = nn.Sequential(nn.Conv2d(3, 3, 1), nn.AlphaDropout(0.1))
    with pytest.raises(ConfigError, match=r"its layer '1' is a AlphaDropout, which .* 3 processes"):
        share(network, Third())
    share(network, SINGLE)


@pytest.mark.parametrize("each", [1, 3])
def test_draws_are_those_of_the_whole_batch(each):
    """Number j of process r is number r + 3 j, with as many numbers an image as it takes."""
    random = Third().generator(5, "x", 1)
    found = per_image(lambda n: torch.rand(2, n, generator=random), 4, random, dim=1, each=each)
    whole = torch.rand(2, 12 * each, generator=generator(5, "x", 1)).view(2, 12, each)
    assert torch.equal(found.view(2, 4, each), whole[:, 1::3])
    # What is drawn next is the same for all.
    after = generator(5, "x", 1)
    torch.rand(2, 12 * each, generator=after)
    assert torch.equal(torch.rand(3, generator=random), torch.rand(3, generator=after))


def test_a_process_alone_needs_no_meeting():
    with joined(0, 1, address="nowhere", device=torch.device("cpu")) as group:
        assert group is SINGLE
    assert current_group() is SINGLE


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("drop", [nn.Dropout(0.5), nn.Dropout2d(0.5)])
def test_dropout_of_a_part_is_that_of_the_whole_in_any_layout(drop, layout):
    images = torch.rand(4, 6, 3, 5).contiguous(memory_format=layout)
    torch.manual_seed(0)
    whole = drop(images)
    for rank in range(2):
        part = copy.deepcopy(drop)
        share(part, SimpleNamespace(size=2, rank=rank))
        torch.manual_seed(0)
        own = images[rank::2].contiguous(memory_format=layout)
        assert torch.equal(part(own), whole[rank::2])
