"""The exhaustive code against everything that there is of few classes."""

import itertools

import numpy as np
import pytest
import torch

from ecocseg import Codebook, ECOCLoss, decode, hybrid_labels, mine_reliable_bits
from ecocseg.errors import ConfigError


def questions(classes):
    """Every way to part the classes in two, as the set of the side that class 0 is not on."""
    others = range(1, classes)
    return {
        frozenset(side)
        for size in range(1, classes)
        for side in itertools.combinations(others, size)
    }


def asked(book):
    """The same of a codebook's columns."""
    found = []
    for column in book.bits.numpy().T:
        ones = {int(place) for place in np.flatnonzero(column)}
        found.append(frozenset(ones if 0 not in ones else set(range(book.num_classes)) - ones))
    return found


@pytest.mark.parametrize("classes", [2, 3, 4, 5, 7])
def test_every_question_is_asked_once(classes):
    book = Codebook.build("exhaustive", num_classes=classes, length=2 ** (classes - 1) - 1)
    columns = asked(book)
    assert len(columns) == len(set(columns))
    assert set(columns) == questions(classes)
    distances = book.row_distances[~torch.eye(classes, dtype=torch.bool)]
    assert distances.tolist() == [2 ** (classes - 2) or 1] * len(distances)


@pytest.mark.parametrize(("classes", "length"), [(2, 10), (3, 4), (4, 21), (4, 16), (5, 40)])
def test_a_longer_code_repeats_them_in_turn(classes, length):
    book = Codebook.build("exhaustive", num_classes=classes, length=length)
    columns = asked(book)
    size = len(questions(classes))
    for start in range(0, length, size):
        part = columns[start : start + size]
        assert part == columns[: len(part)]
    assert set(columns[:size]) == questions(classes)
    # Which the rules of Algorithms 2 and 3 would refuse, and a codebook tells.
    assert book.min_column_distance == 0
    assert book.min_row_distance >= (length // size) * max(2 ** (classes - 2), 1)


@pytest.mark.parametrize(("classes", "length"), [(3, 2), (4, 2), (4, 3), (4, 5), (4, 6), (5, 7)])
def test_a_shorter_code_has_the_farthest_rows_that_any_choice_has(classes, length):
    book = Codebook.build("exhaustive", num_classes=classes, length=length)
    best = 0
    for chosen in itertools.combinations(questions(classes), length):
        rows = [[n in side for side in chosen] for n in range(classes)]
        distances = (
            sum(a != b for a, b in zip(first, second, strict=True))
            for first, second in itertools.combinations(rows, 2)
        )
        best = max(best, min(distances))
    assert book.min_row_distance == best
    assert len(set(asked(book))) == length
    again = Codebook.build("exhaustive", num_classes=classes, length=length, seed=5)
    assert torch.equal(again.bits, book.bits)


def test_of_two_classes_the_bits_vote():
    """Ten times the same question: the class is that of the larger half of the probability."""
    book = Codebook.build("exhaustive", class_names=["unchanged", "changed"], length=10)
    generator = torch.Generator().manual_seed(0)
    logits = 4 * torch.randn(1, 10, 12, 12, generator=generator)
    ones = logits.double().sigmoid()
    assert torch.equal(decode(logits, book), (ones.mean(1) > 0.5).long())
    # With both candidates no bit is left that they agree on: all bits are reliable, or none.
    mined = mine_reliable_bits(logits, book, 0.8)
    sure = torch.maximum(ones, 1 - ones).mean(1) > 0.8
    assert 0 < sure.sum() < sure.numel()
    assert torch.equal(mined.mask, sure[:, None].expand_as(mined.mask))
    hybrid = hybrid_labels(logits, mined, book)
    expected = torch.where(sure, decode(logits, book) == 1, logits >= 0)
    assert torch.equal(hybrid.bool(), expected)
    terms = ECOCLoss(book)(logits.requires_grad_(), decode(logits.detach(), book))
    terms.total.backward()
    assert logits.grad is not None
    assert bool(logits.grad.isfinite().all())


@pytest.mark.parametrize(
    ("classes", "length", "says"),
    [(11, 40, "allowed 2..10"), (4, 1, "allowed 2 or more"), (2, 0, "allowed 1 or more")],
)
def test_what_cannot_be_is_refused(classes, length, says):
    with pytest.raises(ConfigError, match=says):
        Codebook.build("exhaustive", num_classes=classes, length=length)
