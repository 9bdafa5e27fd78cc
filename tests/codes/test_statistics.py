"""Statistics of mined labels against the mining that training uses, one threshold at a time."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ecocseg import Codebook, hybrid_labels, mine_reliable_bits
from ecocseg.codes.mining import code_bits
from ecocseg.codes.statistics import THRESHOLDS, label_statistics


def expected(logits, labels, book, threshold, max_candidates):
    """The same counts from `mine_reliable_bits`, hybrid labels and comparisons."""
    target, bit = code_bits(labels, book), logits >= 0
    mined = mine_reliable_bits(logits, book, threshold, max_candidates)
    code = code_bits(mined.labels, book)
    corrected = (code != bit) & mined.mask
    found = {
        "candidates": np.bincount(mined.candidates.flatten() - 1, minlength=book.num_classes),
        "bits": logits.numel(),
        "difference": (code != bit).sum().item(),
        "correction": corrected.sum().item(),
        "right_correction": (corrected & (code == target)).sum().item(),
        "sweep_right": [],
        "sweep_mask": [],
    }
    for each in THRESHOLDS:
        mined = mine_reliable_bits(logits, book, each, max_candidates)
        hybrid = hybrid_labels(logits, mined, book)
        found["sweep_right"].append((hybrid == target).sum().item())
        found["sweep_mask"].append(mined.mask.sum().item())
    return {name: np.array(value).tolist() for name, value in found.items()}


@settings(deadline=None, max_examples=40)
@given(
    classes=st.integers(2, 12),
    length=st.integers(5, 20),
    scale=st.sampled_from([0.3, 2.0, 8.0]),
    threshold=st.sampled_from([0.0, 0.5, 0.75, 0.95, 1.0]),
    limit=st.none() | st.integers(1, 13),
    seed=st.integers(0, 1000),
)
def test_one_growth_counts_what_mining_each_threshold_does(
    classes, length, scale, threshold, limit, seed
):
    torch.manual_seed(seed)
    bits = (torch.arange(classes)[:, None] >> torch.arange(length) % 4) & 1
    book = Codebook(bits ^ torch.randint(0, 2, (length,)))
    # Doubles do not tie where one sum is taken in another order.
    logits = torch.randn(2, book.length, 3, 5, dtype=torch.float64) * scale
    labels = torch.randint(0, classes, (2, 3, 5))
    # A likely case needs likely logits: half of the pixels lean towards their class.
    logits[:1] += code_bits(labels[:1], book) * 2.0 - 1
    found = label_statistics(logits, labels, book, threshold, limit)
    assert all(value.dtype == torch.int64 for value in found.values())
    plain = {name: value.tolist() for name, value in found.items()}
    assert plain == expected(logits, labels, book, threshold, limit)


def test_the_ends_of_the_sweep_are_code_wise_and_bit_wise_labels():
    torch.manual_seed(0)
    book = Codebook.build("mmd", num_classes=9, length=14, draws=200)
    logits, labels = torch.randn(1, 14, 20, 20) * 3, torch.randint(0, 9, (1, 20, 20))
    found = label_statistics(logits, labels, book)
    target = code_bits(labels, book)
    code = code_bits(mine_reliable_bits(logits, book).labels, book)
    assert found["sweep_right"][0] == (code == target).sum()
    assert found["sweep_right"][-1] == ((logits >= 0) == target).sum()
    assert found["sweep_mask"][0] == found["bits"] == logits.numel()
    assert found["sweep_mask"][-1] == 0


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16, torch.float16])
def test_extreme_logits_in_any_type(kind):
    book = Codebook.build("mmd", num_classes=5, length=8, draws=200)
    labels = torch.arange(4).view(1, 1, 4)
    sure = (code_bits(labels, book) * 2.0 - 1) * 1e4
    found = label_statistics(sure.to(kind), labels, book, 0.9)
    assert found["sweep_right"].tolist() == [32] * 8
    assert found["candidates"].tolist() == [4, 0, 0, 0, 0]
    unsure = label_statistics(torch.zeros(1, 8, 1, 4, dtype=kind), labels, book, 0.5)
    assert unsure["sweep_mask"].tolist() == [0] * 8


def test_logits_of_another_codebook_are_refused():
    book = Codebook.build("mmd", num_classes=5, length=8, draws=200)
    with pytest.raises(ValueError, match="K = 8"):
        label_statistics(torch.zeros(1, 7, 2, 2), torch.zeros(1, 2, 2).long(), book)
