"""The loss against its formulas, written pixel by pixel."""

import pytest
import torch
from code_books import random_book
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional

from ecocseg import Codebook, ECOCLoss
from ecocseg.codes.mining import code_bits
from ecocseg.errors import ConfigError


@st.composite
def cases(draw):
    """A codebook, float64 logits, labels with some ignored pixels, bits, weights."""
    classes = draw(st.integers(2, 9))
    length = draw(st.integers((classes - 1).bit_length(), 17))
    seed = draw(st.integers(0, 10_000))
    book = random_book(classes, length, seed)
    generator = torch.Generator().manual_seed(seed)
    shape = (draw(st.integers(1, 2)), draw(st.integers(1, 3)), draw(st.integers(1, 4)))
    scale = draw(st.sampled_from([0.1, 1.0, 10.0]))
    logits = torch.randn(shape[0], length, *shape[1:], generator=generator).double() * scale
    labels = torch.randint(0, classes, shape, generator=generator)
    labels[torch.rand(shape, generator=generator) < 0.2] = 255
    bits = torch.rand(logits.shape, generator=generator) < 0.5
    # Some bit targets are codewords, which the denominator treats in its own way.
    known = (torch.rand(shape, generator=generator) < 0.5)[:, None]
    bits = torch.where(known, code_bits(labels.masked_fill(labels == 255, 0), book), bits)
    weight = torch.rand(shape, generator=generator).double()
    weight[torch.rand(shape, generator=generator) < 0.2] = 0
    return book, logits, labels, bits, weight


def cosine(first, second):
    norm = first.norm() * second.norm()
    return torch.dot(first, second) / norm if norm > 0 else torch.zeros_like(norm)


def formula(logits, targets, weight, book, temperature=0.5, denominator="paper"):
    """Eq. 8 to 12, pixel by pixel and bit by bit, in float64."""
    words = (book.bits * 2 - 1.0).double()
    sums = [torch.zeros((), dtype=torch.float64) for _ in range(3)]
    batch, length, height, width = logits.shape
    for b, i, j in torch.cartesian_prod(*map(torch.arange, (batch, height, width))).tolist():
        z = logits[b, :, i, j].double()
        if targets.ndim == 3:
            label = int(targets[b, i, j])
            if label == 255:
                continue
            bits = book.bits[label]
        else:
            bits = targets[b, :, i, j].bool()
        w = 1.0 if weight is None else float(weight[b, i, j])
        target = bits * 2 - 1.0
        bce = torch.stack(
            [-functional.logsigmoid(z[k] if bits[k] else -z[k]) for k in range(length)]
        ).mean()
        positive = cosine(z, target.double()) / temperature
        negatives = [
            cosine(z, words[n]) / temperature
            for n in range(len(words))
            if denominator == "codebook" or not torch.equal(book.bits[n], bits)
        ]
        rivals = [positive, *negatives] if denominator == "paper" else negatives
        contrast = torch.logsumexp(torch.stack(rivals), 0) - positive
        for index, value in enumerate((bce, 1 - positive * temperature, contrast)):
            sums[index] = sums[index] + w * value
    return [total / (batch * height * width) for total in sums]


@given(
    cases(),
    st.booleans(),
    st.booleans(),
    st.sampled_from(["paper", "codebook"]),
    st.sampled_from([0.01, 0.1, 0.5, 2.0]),
)
def test_the_loss_is_its_formula(case, as_bits, weighted, denominator, temperature):
    book, logits, labels, bits, weight = case
    targets = bits if as_bits else labels
    if not weighted:
        weight = None
    loss = ECOCLoss(book, 3.0, 0.7, temperature, denominator)
    ours = logits.clone().requires_grad_()
    terms = loss(ours, targets, weight)
    theirs = logits.clone().requires_grad_()
    parts = formula(theirs, targets, weight, book, temperature, denominator)
    total = parts[0] + 3.0 * parts[1] + 0.7 * parts[2]
    for got, expected in zip(terms, [total, *parts], strict=True):
        assert got.dtype == torch.float64
        assert got.item() == pytest.approx(expected.item(), rel=1e-9, abs=1e-9)
    assert [term.requires_grad for term in terms] == [True, False, False, False]
    terms.total.backward()
    if total.requires_grad:
        total.backward()
        assert torch.allclose(ours.grad, theirs.grad, rtol=1e-7, atol=1e-10)
    else:
        assert not ours.grad.any()


@pytest.mark.parametrize("denominator", ["paper", "codebook"])
@pytest.mark.parametrize("as_bits", [False, True])
def test_the_gradient_is_that_of_the_value(denominator, as_bits):
    book = random_book(5, 7, 0)
    logits = torch.randn(2, 7, 2, 3, dtype=torch.float64, requires_grad=True)
    labels = torch.randint(0, 5, (2, 2, 3))
    labels[0, 0, 0] = 255
    targets = torch.rand(logits.shape) < 0.5 if as_bits else labels
    weight = torch.rand(2, 2, 3, dtype=torch.float64)
    loss = ECOCLoss(book, denominator=denominator)
    assert torch.autograd.gradcheck(lambda z: loss(z, targets, weight).total, logits)


def value_and_grad(loss, logits, targets, weight=None):
    logits = logits.detach().clone().requires_grad_()
    terms = loss(logits, targets, weight)
    terms.total.backward()
    return terms, logits.grad


def assert_same(first, second, **tolerance):
    for a, b in zip(first[0], second[0], strict=True):
        assert torch.allclose(a.double(), b.double(), **tolerance)
    assert torch.allclose(first[1].double(), second[1].double(), **tolerance)


@given(cases(), st.sampled_from(["paper", "codebook"]))
def test_labels_and_their_codewords_are_the_same_targets(case, denominator):
    book, logits, labels, _, weight = case
    labels = labels.masked_fill(labels == 255, 0)
    for loss in (ECOCLoss(book), ECOCLoss(book, denominator=denominator)):
        assert_same(
            value_and_grad(ECOCLoss(book), logits, labels, weight),
            value_and_grad(loss, logits, code_bits(labels, book), weight),
        )


@given(cases())
def test_order_of_classes_and_bits_does_not_matter(case):
    book, logits, labels, bits, weight = case
    rows = torch.randperm(book.num_classes)
    columns = torch.randperm(book.length)
    relabelled = torch.where(labels == 255, 255, rows.argsort()[labels.clamp(max=len(rows) - 1)])
    by_rows, by_columns = Codebook(book.bits[rows]), Codebook(book.bits[:, columns])
    for targets, moved in ((labels, relabelled), (bits, bits)):
        expected = value_and_grad(ECOCLoss(book), logits, targets, weight)
        assert_same(expected, value_and_grad(ECOCLoss(by_rows), logits, moved, weight))
    expected = value_and_grad(ECOCLoss(book), logits, bits, weight)
    terms, grad = value_and_grad(ECOCLoss(by_columns), logits[:, columns], bits[:, columns], weight)
    assert_same(expected, (terms, grad[:, columns.argsort()]))


@given(cases(), st.sampled_from([1e4, torch.inf, torch.nan]), st.booleans())
def test_ignored_and_weightless_pixels_never_leak(case, poison, as_bits):
    book, logits, labels, bits, weight = case
    targets = bits if as_bits else labels
    out = (weight == 0) if as_bits else (weight == 0) | (labels == 255)
    expected = value_and_grad(ECOCLoss(book), logits, targets, weight)
    poisoned = torch.where(out[:, None], poison, logits)
    got = value_and_grad(ECOCLoss(book), poisoned, targets, weight)
    assert_same(expected, got)
    assert not got[1].movedim(1, -1)[out].any()


def test_a_weight_of_zero_is_absence_with_the_divisor_kept():
    book = random_book(5, 8, 0)
    logits, labels = torch.randn(1, 8, 4, 6).double(), torch.randint(0, 5, (1, 4, 6))
    weight = torch.ones(1, 4, 6)
    weight[:, :, 3:] = 0
    whole = ECOCLoss(book)(logits, labels, weight)
    half = ECOCLoss(book)(logits[..., :3], labels[..., :3])
    for a, b in zip(whole, half, strict=True):
        assert a.item() == pytest.approx(b.item() / 2)


@given(st.integers(2, 9), st.integers(0, 1000))
def test_one_hot_codebook_is_n_binary_classifiers(classes, seed):
    book = Codebook.build("one-hot", num_classes=classes)
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(2, classes, 3, 4, generator=generator).double()
    labels = torch.randint(0, classes, (2, 3, 4), generator=generator)
    target = functional.one_hot(labels, classes).permute(0, 3, 1, 2).double()
    binary = functional.binary_cross_entropy_with_logits
    theirs = logits.clone().requires_grad_()
    binary(theirs, target).backward()
    terms, grad = value_and_grad(ECOCLoss(book, 0, 0), logits, labels)
    assert terms.total.item() == pytest.approx(binary(logits, target).item())
    assert torch.allclose(grad, theirs.grad, atol=1e-12)


def test_the_defaults_are_the_papers():
    book = random_book(5, 8, 0)
    logits, bits = torch.randn(1, 8, 3, 3), torch.rand(1, 8, 3, 3) < 0.5
    total, bce, distance, contrast = ECOCLoss(book)(logits, bits)
    assert total.item() == pytest.approx((bce + 5 * distance + 2 * contrast).item(), rel=1e-6)
    parts = formula(logits, bits, None, book)
    assert contrast.item() == pytest.approx(parts[2].item(), rel=1e-5)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"distance_weight": -1.0}, "distance_weight"),
        ({"contrast_weight": float("nan")}, "contrast_weight"),
        ({"temperature": 0.0}, "temperature"),
        ({"denominator": "rows"}, "allowed paper, codebook"),
    ],
)
def test_options_out_of_range_are_refused(options, says):
    with pytest.raises(ConfigError, match=says):
        ECOCLoss(random_book(5, 8, 0), **options)


@pytest.mark.parametrize(
    ("logits", "targets", "weight", "says"),
    [
        (torch.zeros(1, 7, 3, 3), torch.zeros(1, 3, 3).long(), None, "K = 8"),
        (torch.zeros(1, 8, 3, 3), torch.zeros(1, 3, 4).long(), None, "targets"),
        (torch.zeros(1, 8, 3, 3), torch.zeros(1, 3, 3), None, "integer labels"),
        (torch.zeros(1, 8, 3, 3), torch.full((1, 3, 3), 5), None, "got label 5, allowed 0..4"),
        (torch.zeros(1, 8, 3, 3), torch.full((1, 3, 3), -1), None, "got label -1"),
        (torch.zeros(1, 8, 3, 3), torch.zeros(1, 3, 3).long(), torch.ones(1, 3), "weight"),
    ],
)
def test_shapes_and_labels_that_do_not_fit_are_refused(logits, targets, weight, says):
    with pytest.raises(ValueError, match=says):
        ECOCLoss(random_book(5, 8, 0))(logits, targets, weight)
