"""Diagnostics against literal loops over pixels, and on the images of a tiny data set."""

import json
import math

import pytest
import torch
from torch.nn import functional

from ecocseg import diagnostics
from ecocseg.calibration import summary
from ecocseg.diagnostics import count_pixels, diagnose, evenly_spaced, labelled_pixels
from ecocseg.encodings import build_encoding
from ecocseg.engine.evaluate import EvaluationConfig, evaluate
from ecocseg.metrics import tally

CPU = torch.device("cpu")
WHOLE = EvaluationConfig()
NAMES = ["road", "sky", "car", "person", "pole", "fence", "wall"]
CELLS = [
    ("one-hot", {}),
    ("ecoc", {"length": 12}),
    ("ecoc", {"codebook": "one-hot", "threshold": 0.8}),
    ("ecoc", {"length": 12, "temperature": "auto", "confidence": "class"}),
]


@pytest.fixture(params=CELLS, ids=str)
def encoding(request):
    name, options = request.param
    return build_encoding(name, options, NAMES)


def pixels(encoding, count=300, scale=3.0, seed=0):
    random = torch.Generator().manual_seed(seed)
    logits = torch.randn(1, encoding.channels, 1, count, generator=random) * scale
    return logits, torch.randint(0, 7, (1, 1, count), generator=random)


def binned(confidence, correct, row, found):
    """Put one decision where it belongs."""
    place = found[row][min(int(confidence * 10), 9)]
    place[0] += 1
    place[1] += confidence
    place[2] += correct


def test_counts_are_those_of_a_loop_over_pixels(encoding):
    logits, labels = pixels(encoding)
    # A tie that the lower class wins, in any encoding.
    logits[..., 0] = 0
    found = count_pixels(encoding, logits, labels)
    rank = [0] * 7
    bits = [[[0, 0.0, 0] for _ in range(10)] for _ in range(encoding.channels)]
    classes = [[[0, 0.0, 0] for _ in range(10)] for _ in range(7)]
    ones = encoding.bit_probabilities(logits)[0, :, 0].T.tolist()
    scores = encoding.class_scores(logits)[0, :, 0].T.tolist()
    confidences = encoding.pseudo_label(logits).confidence[0, 0].tolist()
    for i, truth in enumerate(labels.flatten().tolist()):
        order = sorted(range(7), key=lambda n: (-scores[i][n], n))
        rank[order.index(truth)] += 1
        binned(confidences[i], order[0] == truth, order[0], classes)
        if hasattr(encoding, "book"):
            codeword = encoding.book.bits[truth].tolist()
        else:
            codeword = [n == truth for n in range(7)]
        for k, (p, bit) in enumerate(zip(ones[i], codeword, strict=True)):
            binned(max(p, 1 - p), (p >= 0.5) == bit, k, bits)
    assert found["rank"].tolist() == rank
    of_bits = hasattr(encoding, "book") and encoding.config.confidence == "bits"
    for name, expected in (("bits", bits), ("mean_bits" if of_bits else "classes", classes)):
        wanted = torch.tensor(expected)
        assert torch.equal(found[name][..., 0], wanted[..., 0].long())
        assert torch.equal(found[name][..., 2], wanted[..., 2].long())
        sums = found[name][..., 1] * 2.0**-20
        assert torch.allclose(sums, wanted[..., 1], atol=1e-3)


def test_counts_add_up_and_are_whole(encoding):
    logits, labels = pixels(encoding)
    # Doubles round alike in any order, as far as a record can tell.
    logits = logits.double()
    whole = count_pixels(encoding, logits, labels)
    parts = [count_pixels(encoding, logits[..., s], labels[..., s])
             for s in (slice(0, 70), slice(70, None))]  # fmt: skip
    for name, value in whole.items():
        assert value.dtype == torch.int64
        assert torch.equal(value, parts[0][name] + parts[1][name]), name
    # In another order too: sums of whole numbers do not round.
    order = torch.randperm(300)
    again = count_pixels(encoding, logits[..., order], labels[..., order])
    assert all(torch.equal(again[name], value) for name, value in whole.items())


def test_only_ecoc_counts_candidates_and_corrections():
    logits, labels = pixels(build_encoding(*CELLS[0], NAMES))
    one_hot = count_pixels(build_encoding(*CELLS[0], NAMES), logits, labels)
    assert set(one_hot) == {"rank", "bits", "classes"}
    encoding = build_encoding(*CELLS[2], NAMES)
    found = count_pixels(encoding, logits, labels)
    assert {"bits", "classes", "mean_bits"} < set(found)
    pseudo = encoding.pseudo_label(logits)
    assert found["label/correction"] / 300 == pytest.approx(pseudo.statistics["correction"].item())
    assert found["label/difference"] / 300 == pytest.approx(pseudo.statistics["difference"].item())
    mean = (found["label/candidates"] * torch.arange(1, 8)).sum() / 300
    assert mean == pytest.approx(pseudo.statistics["candidates"].item())
    # The hybrid label of the encoding's own T is that of the sweep.
    place = encoding.facts()["thresholds"].index(0.8)
    right = (pseudo.targets == encoding.bit_targets(labels)).sum()
    assert found["label/sweep_right"][place] == right


def test_pixels_are_interpolated_where_they_are_labelled():
    logits = torch.randn(5, 6, 9)
    labels = torch.randint(0, 4, (13, 31), dtype=torch.uint8)
    labels[3:5] = 255
    found, truth = labelled_pixels(logits, labels)
    whole = functional.interpolate(logits[None], (13, 31), mode="bilinear", align_corners=False)
    kept = (labels != 255).flatten()
    assert found.shape == (1, 5, 1, 11 * 31)
    assert torch.allclose(found[0, :, 0], whole[0].flatten(1)[:, kept], atol=1e-5)
    assert torch.equal(truth.flatten(), labels.flatten()[kept].long())


def test_ignored_pixels_never_count(encoding):
    labels = torch.randint(0, 7, (8, 9), dtype=torch.uint8)
    labels[:, :4] = 255
    logits = torch.randn(encoding.channels, 8, 9)
    cropped = count_pixels(encoding, *labelled_pixels(logits[..., 4:], labels[:, 4:]))
    logits[..., :4] = torch.nan
    counts = count_pixels(encoding, *labelled_pixels(logits, labels))
    assert all(torch.equal(counts[name], value) for name, value in cropped.items())
    nothing = count_pixels(encoding, *labelled_pixels(logits, torch.full_like(labels, 255)))
    assert not any(value.any() for value in nothing.values())


def test_many_pixels_are_thinned_out_evenly(monkeypatch):
    monkeypatch.setattr(diagnostics, "PIXELS", 10)
    labels = torch.arange(40, dtype=torch.uint8).view(5, 8)
    labels[0] = 255
    _, truth = labelled_pixels(torch.zeros(1, 5, 8), labels)
    assert truth.flatten().tolist() == [8 + 32 * i // 10 for i in range(10)]
    assert [evenly_spaced(range(n), 3) for n in (0, 2, 3, 10)] == [
        [], [0, 1], [0, 1, 2], [0, 3, 6],
    ]  # fmt: skip


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16, torch.float64])
def test_other_types_and_diverged_logits_are_counted(encoding, kind):
    logits = torch.randn(encoding.channels, 4, 4).to(kind)
    labels = torch.randint(0, 7, (4, 4), dtype=torch.uint8)
    logits[:, 0], logits[:, 1], logits[0, 2] = torch.nan, torch.inf, -torch.inf
    found = count_pixels(encoding, *labelled_pixels(logits, labels))
    assert found["rank"].sum() == 16
    assert found["bits"][..., 0].sum() == 16 * encoding.channels
    assert (found["bits"] >= 0).all()


def test_tally_counts_and_sums():
    index = torch.tensor([0, 2, 2, 1, 2])
    assert tally(index, 4).tolist() == [1, 1, 3, 0]
    assert tally(index, 4, torch.tensor([5, 1, 2, 7, 4])).tolist() == [5, 7, 7, 0]
    assert tally(index[:0], 2).tolist() == [0, 0]


@pytest.fixture(scope="module", params=["one-hot", "ecoc"])
def run(request, tiny_run):
    return tiny_run("dacs", request.param)


def test_the_nearest_class_is_the_predicted_one(run, monkeypatch):
    monkeypatch.setattr(diagnostics, "PIXELS", 10**6)
    trainer = run.trainer
    found = diagnose(trainer.student, run.encoding, run.rows, WHOLE, CPU)
    confusion = evaluate(trainer.student, run.encoding, run.rows, WHOLE, CPU)
    assert found["pixels"] == sum(found["rank"]) == confusion.sum()
    # Interpolated at once or pixel by pixel: a pixel at the border of two classes may differ.
    assert found["rank"][0] == pytest.approx(confusion.trace().item(), abs=5)
    predicted = torch.tensor(found["classes"]["count"]).sum(1)
    assert torch.allclose(predicted.float(), confusion.sum(0).float(), atol=5)
    assert len(found["bits"]["count"]) == run.encoding.channels
    assert all(math.isfinite(value) for value in summary(found).values())


def test_windows_that_tile_the_image_are_images(run):
    model = run.trainer.student
    slide = EvaluationConfig(mode="slide", window=(48, 96), stride=(48, 96))
    whole = diagnose(model, run.encoding, run.rows, WHOLE, CPU)
    assert diagnose(model, run.encoding, run.rows, slide, CPU) == whole
    half = EvaluationConfig(mode="slide", window=(48, 48), stride=(48, 48), batch_size=1)
    both = EvaluationConfig(mode="slide", window=(48, 48), stride=(48, 48), batch_size=2)
    found = diagnose(model, run.encoding, run.rows, half, CPU)
    assert found["rank"] != whole["rank"]
    together = diagnose(model, run.encoding, run.rows, both, CPU)
    assert together["pixels"] == found["pixels"]
    assert together["rank"][0] == pytest.approx(found["rank"][0], abs=5)


def test_it_is_repeatable_plain_and_leaves_the_network_as_it_was(run):
    model = run.trainer.student
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model.train()
    first = diagnose(model, run.encoding, run.rows, WHOLE, CPU)
    assert model.training
    model.eval()
    second = diagnose(model, run.encoding, run.rows, WHOLE, CPU, torch.bfloat16)
    assert not model.training
    assert diagnose(model, run.encoding, run.rows, WHOLE, CPU) == first
    assert second["pixels"] == first["pixels"]
    assert json.loads(json.dumps(first)) == first
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
