"""What encodings say of their bits, beside what they say of classes."""

import pytest
import torch

from ecocseg import mine_reliable_bits
from ecocseg.encodings import ENCODINGS, build_encoding

NAMES = ["road", "sky", "car", "person", "pole", "fence", "wall"]
CELLS = [
    ("one-hot", {}),
    ("ecoc", {"length": 12, "threshold": 0.7}),
    ("ecoc", {"codebook": "one-hot", "max_candidates": 2}),
]


@pytest.fixture(params=CELLS, ids=str)
def encoding(request):
    name, options = request.param
    return build_encoding(name, options, NAMES)


def test_every_encoding_is_tested():
    assert {name for name, _ in CELLS} == set(ENCODINGS)


@pytest.mark.parametrize("kind", [torch.float32, torch.float64, torch.bfloat16])
def test_confidence_is_that_of_the_pseudo_label(encoding, kind):
    logits = (torch.randn(2, encoding.channels, 5, 6) * 4).to(kind)
    found = encoding.confidence(logits)
    assert found.shape == (2, 5, 6)
    assert torch.allclose(found, encoding.pseudo_label(logits).confidence)


def test_probabilities_and_targets_are_of_bits(encoding):
    logits = torch.randn(2, encoding.channels, 5, 6) * 4
    labels = torch.randint(0, 7, (2, 5, 6))
    ones, targets = encoding.bit_probabilities(logits), encoding.bit_targets(labels)
    assert ones.shape == targets.shape == logits.shape
    assert targets.dtype == torch.bool
    assert ((ones >= 0) & (ones <= 1)).all()
    # Logits that are sure of the targets decode to the labels, and their bits are right.
    sure = torch.where(targets, 30.0, -30.0)
    assert torch.equal(encoding.decode(sure), labels)
    assert torch.equal(encoding.bit_probabilities(sure) >= 0.5, targets)
    labels[0] = 255
    assert encoding.bit_targets(labels).shape == targets.shape


def test_one_hot_targets_are_one_hot():
    encoding = build_encoding("one-hot", {}, NAMES)
    labels = torch.randint(0, 7, (2, 5, 6))
    expected = torch.nn.functional.one_hot(labels, 7).permute(0, 3, 1, 2).bool()
    assert torch.equal(encoding.bit_targets(labels), expected)
    logits = torch.randn(2, 7, 5, 6)
    assert torch.equal(encoding.bit_probabilities(logits), logits.softmax(1))
    assert dict(encoding.label_maps(logits)) == dict(encoding.facts()) == {}
    assert dict(encoding.label_diagnostics(logits, labels)) == {}


def test_ecoc_shows_candidates_and_differing_bits():
    encoding = build_encoding("ecoc", {"length": 12, "threshold": 0.7, "max_candidates": 3}, NAMES)
    logits = torch.randn(2, 12, 5, 6)
    mined = mine_reliable_bits(logits, encoding.book, 0.7, 3)
    maps = encoding.label_maps(logits)
    assert list(maps) == ["candidates", "differing bits"]
    assert torch.equal(maps["candidates"], mined.candidates)
    code = encoding.bit_targets(mined.labels)
    assert torch.equal(maps["differing bits"], (code != (logits >= 0)).sum(1))
    facts = encoding.facts()
    assert [[int(bit) for bit in row] for row in facts["codebook"]] == encoding.book.bits.tolist()
    assert facts["thresholds"][0] == 0.5
    assert facts["thresholds"][-1] == 1
