"""The kernels against the plain float64 path.

`test_kernels.py` runs this file in a process of its own: Triton decides on import whether it
interprets. float64 never takes a kernel, so what is compared with is always the plain
path, whose own tests hold it against the formulas.
"""

import pytest
import torch
from code_books import random_book
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ecocseg import Codebook, ECOCLoss, decode, hybrid_labels, mine_reliable_bits
from ecocseg.codes.kernels import decode as decode_kernels
from ecocseg.codes.kernels import loss as loss_kernels
from ecocseg.codes.kernels import mining as mining_kernels
from ecocseg.codes.kernels.dialect import INTERPRETED
from ecocseg.codes.mining import code_bits

DEVICE = torch.device("cpu" if INTERPRETED else "cuda")
TYPES = (torch.float32, torch.bfloat16, torch.float16)
# Relative to the largest slope: what the type rounds to.
ROUNDING = {torch.float32: 1e-6, torch.bfloat16: 2**-8, torch.float16: 2**-11}

# An interpreted program takes a second.
few = settings(max_examples=3 if INTERPRETED else 20)


@st.composite
def books(draw):
    # A group of four, a word of 32 and a word of 64 bits, and their neighbours.
    classes = draw(st.sampled_from([2, 3, 4, 5, 9, 19]))
    least = (classes - 1).bit_length()
    length = max(draw(st.sampled_from([1, 3, 4, 5, 11, 31, 32, 33, 40])), least)
    return random_book(classes, length, draw(st.integers(0, 1000)))


@st.composite
def cases(draw):
    """A codebook, logits of some type and layout, labels, bits and weights."""
    book = draw(books())
    generator = torch.Generator().manual_seed(draw(st.integers(0, 1000)))
    batch, height, width = draw(st.sampled_from([(1, 1, 1), (2, 3, 5), (1, 9, 16), (1, 10, 13)]))
    shape = (batch, book.length, height, width)
    logits = torch.randn(shape, generator=generator) * draw(st.sampled_from([0.1, 1.0, 8.0]))
    logits = logits.to(draw(st.sampled_from(TYPES)))
    logits = laid_out(logits, draw(st.sampled_from(["contiguous", "last", "turned"])))
    labels = torch.randint(0, book.num_classes, (batch, height, width), generator=generator)
    labels[torch.rand(labels.shape, generator=generator) < 0.2] = 255
    bits = torch.rand(shape, generator=generator) < 0.5
    known = (torch.rand(labels.shape, generator=generator) < 0.5)[:, None]
    bits = torch.where(known, code_bits(labels.masked_fill(labels == 255, 0), book), bits)
    weight = torch.rand(labels.shape, generator=generator)
    weight[torch.rand(labels.shape, generator=generator) < 0.3] = 0
    return book, logits.to(DEVICE), labels.to(DEVICE), bits.to(DEVICE), weight.to(DEVICE)


def laid_out(tensor, layout):
    if layout == "last":
        return tensor.contiguous(memory_format=torch.channels_last)
    return tensor.mT.contiguous().mT if layout == "turned" else tensor


def run(book, logits, targets, weight, denominator="paper", temperature=0.5, **options):
    options = {"want_slope": True, "distance_weight": 3.0, "contrast_weight": 0.7} | options
    extra = denominator == "paper"
    return loss_kernels.loss_and_slope(
        logits,
        targets,
        weight,
        book.words,
        temperature=temperature,
        extra_positive=extra,
        **options,
    )


def plain(book, logits, targets, weight, denominator="paper", temperature=0.5):
    """The same by the plain path in float64."""
    loss = ECOCLoss(book, 3.0, 0.7, temperature, denominator)
    double = logits.detach().double().requires_grad_()
    terms = loss(double, targets, None if weight is None else weight.double())
    terms.total.backward()
    pixels = logits[:, 0].numel()
    return torch.stack(terms[1:]) * pixels, double.grad * pixels


def assert_slopes_agree(slope, expected, logits, temperature=0.5):
    # Pulls along and against the logits, each as large as 1 over their length, cancel: what they
    # leave is as exact as they are.
    length = logits.double().norm(dim=1, keepdim=True)
    pull = torch.where(length > 1e-12, (3 + 2 * 0.7 / temperature) / length, 0)
    scale = expected.abs().amax(1, keepdim=True) + 1e-6
    allowed = ROUNDING[slope.dtype] * scale + 4e-7 * pull
    assert ((slope.double() - expected).abs() <= 2 * allowed).all()


@few
@given(
    cases(),
    st.booleans(),
    st.booleans(),
    st.sampled_from(["paper", "codebook"]),
    st.sampled_from([0.1, 0.5, 2.0]),
)
def test_loss_and_slope(case, as_bits, weighted, denominator, temperature):
    book, logits, labels, bits, weight = case
    targets, weight = bits if as_bits else labels, weight if weighted else None
    sums, slope = run(book, logits, targets, weight, denominator, temperature)
    expected, gradient = plain(book, logits, targets, weight, denominator, temperature)
    assert sums.dtype == torch.float64
    assert torch.allclose(sums, expected, rtol=1e-5, atol=1e-4)
    assert slope.dtype == logits.dtype
    assert_slopes_agree(slope, gradient, logits, temperature)
    layout = torch.channels_last
    if logits.is_contiguous(memory_format=layout):
        assert slope.is_contiguous(memory_format=layout)
    again, none = run(book, logits, targets, weight, denominator, temperature, want_slope=False)
    assert none is None
    assert torch.equal(again, sums)


@few
@given(
    cases(),
    st.sampled_from([0.5, 0.6, 0.8, 0.95, 1.0]),
    st.sampled_from([1, 2, 3, 8, 128]),
)
def test_mining_and_pseudo_labels(case, threshold, limit):
    book, logits, *_ = case
    limit = min(limit, book.num_classes)
    least = round(2 * threshold - 1, 12)
    expected = mine_reliable_bits(logits.double(), book, threshold, limit)
    found = mining_kernels.mine(logits, book.words, least, limit)
    for got, wanted in zip(found[:3], expected[:3], strict=True):
        assert got.dtype == wanted.dtype
        assert torch.equal(got, wanted)
    assert torch.allclose(found[3].double(), expected.confidence, atol=1e-6)

    hybrid, labels, candidates, confidence, counts = mining_kernels.pseudo(
        logits, book.words, least, limit
    )
    assert torch.equal(hybrid, hybrid_labels(logits.double(), expected, book))
    assert torch.equal(labels, expected.labels)
    assert torch.equal(candidates, expected.candidates)
    assert torch.equal(confidence, found[3])
    differ = code_bits(expected.labels, book) ^ (logits >= 0)
    wanted = [differ.sum(), (differ & expected.mask).sum(), expected.mask.sum()]
    assert counts.dtype == torch.int64
    assert counts.tolist() == [int(count) for count in wanted]


@few
@given(cases())
def test_decoding(case):
    book, logits, *_ = case
    labels = decode_kernels.decode(logits, book.words)
    assert labels.dtype == torch.int64
    assert torch.equal(labels, decode(logits.double(), book))


@few
@given(books(), st.integers(0, 1000), st.sampled_from([0.5, 0.75, 0.95]))
@example(Codebook([[0] * 10, [1] * 10]), 0, 0.95)
def test_ties_go_to_the_lower_class_and_to_the_next_candidate(book, seed, threshold):
    # p is 0, 0.5 or 1: every sum is exact, equal distances and means equal to T abound.
    generator = torch.Generator().manual_seed(seed)
    shape = (1, book.length, 2, 4)
    logits = (torch.randint(-1, 2, shape, generator=generator) * 1e4).to(DEVICE)
    expected = mine_reliable_bits(logits.double(), book, threshold)
    least = round(2 * threshold - 1, 12)
    found = mining_kernels.mine(logits, book.words, least, book.num_classes)
    for got, wanted in zip(found[:3], expected[:3], strict=True):
        assert torch.equal(got, wanted)
    assert torch.allclose(found[3].double(), expected.confidence, atol=1e-7)
    assert torch.equal(decode_kernels.decode(logits, book.words), expected.labels)


@pytest.mark.parametrize("dtype", TYPES)
def test_ties_of_half_integers_go_to_the_lower_class(dtype):
    # Equal distances abound, and no order of summation may round them apart.
    book = random_book(19, 40, 0)
    generator = torch.Generator().manual_seed(0)
    logits = (torch.randint(-2, 3, (1, 40, 48, 64), generator=generator) / 2).to(DEVICE, dtype)
    expected = mine_reliable_bits(logits.double(), book)
    assert torch.equal(decode_kernels.decode(logits, book.words), expected.labels)
    found = mining_kernels.mine(logits, book.words, 0.9, book.num_classes)
    for got, wanted in zip(found[:3], expected[:3], strict=True):
        assert torch.equal(got, wanted)


@pytest.mark.parametrize(("classes", "length"), [(81, 60), (128, 64), (2, 1), (2, 64)])
def test_the_largest_and_the_smallest_codes(classes, length):
    book = random_book(classes, length, 1)
    generator = torch.Generator().manual_seed(0)
    logits = (torch.randn(1, length, 3, 7, generator=generator) * 2).to(DEVICE)
    bits = (torch.rand(logits.shape, generator=generator) < 0.5).to(DEVICE)
    bits[..., 0] = code_bits(torch.full((1, 3, 1), classes - 1), book)[..., 0].to(DEVICE)
    expected, gradient = plain(book, logits, bits, None)
    sums, slope = run(book, logits, bits, None)
    assert torch.allclose(sums, expected, rtol=1e-5)
    assert_slopes_agree(slope, gradient, logits)
    mined = mine_reliable_bits(logits.double(), book)
    found = mining_kernels.mine(logits, book.words, 0.9, classes)
    assert all(torch.equal(a, b) for a, b in zip(found[:3], mined[:3], strict=True))
    assert torch.equal(decode_kernels.decode(logits, book.words), mined.labels)


@few
@given(cases(), st.sampled_from([1e4, torch.inf, torch.nan]), st.booleans())
def test_ignored_and_weightless_pixels_never_leak(case, poison, as_bits):
    book, logits, labels, bits, weight = case
    targets = bits if as_bits else labels
    out = (weight == 0) if as_bits else (weight == 0) | (labels == 255)
    sums, slope = run(book, logits, targets, weight)
    poisoned = torch.where(out[:, None], poison, logits)
    leaked, other = run(book, poisoned, targets, weight)
    assert torch.equal(sums, leaked)
    assert torch.equal(slope, other)
    assert not slope.movedim(1, -1)[out].any()


@pytest.mark.parametrize("dtype", TYPES)
def test_vectors_without_direction_and_saturated_bits(dtype):
    book = random_book(5, 9, 0)
    logits = torch.zeros(1, 9, 1, 4)
    logits[0, :, 0, 1] = 1e4
    logits[0, :, 0, 2] = -1e4
    logits[0, 0, 0, 3] = 1 if dtype == torch.float16 else 1e-6
    logits = logits.to(DEVICE, dtype)
    labels = torch.tensor([[[0, 1, 2, 3]]], device=DEVICE)
    sums, slope = run(book, logits, labels, None)
    expected, gradient = plain(book, logits, labels, None)
    assert torch.allclose(sums, expected, rtol=1e-6)
    assert_slopes_agree(slope, gradient, logits)
    assert slope.isfinite().all()


@pytest.mark.parametrize("bit", [0, 31, 32, 39])
def test_a_target_one_bit_off_a_codeword_is_no_codeword(bit):
    book = random_book(5, 40, 0)
    bits = code_bits(torch.arange(5).view(1, 1, 5), book)
    bits[:, bit, :, 1:] ^= True
    logits = torch.randn(1, 40, 1, 5, generator=torch.Generator().manual_seed(0))
    expected, gradient = plain(book, logits.to(DEVICE), bits.to(DEVICE), None)
    sums, slope = run(book, logits.to(DEVICE), bits.to(DEVICE), None)
    assert torch.allclose(sums, expected, rtol=1e-5)
    assert_slopes_agree(slope, gradient, logits.to(DEVICE))


def test_a_pixel_whose_candidates_agree_on_nothing_stops_there():
    # Opposite codewords: S is empty with the second candidate, the third is not looked at.
    book = Codebook([[0] * 8, [1] * 8, [0, 1] * 4])
    logits = torch.full((1, 8, 1, 2), 1e-3, device=DEVICE)
    logits[:, :2] = 0.5
    logits[:, 1::2] *= -1
    wanted = mine_reliable_bits(logits.double(), book)
    found = mining_kernels.mine(logits, book.words, 0.9, 3)
    assert wanted.candidates.eq(3).logical_not().any()
    assert torch.equal(found[2], wanted.candidates)
    assert not found[1].any()


def test_a_small_cross_entropy_is_not_lost():
    # 1 + exp(-18) rounds to 1 in float32.
    book = random_book(3, 8, 0)
    logits = (code_bits(torch.zeros(1, 1, 2).long(), book) * 36.0 - 18).to(DEVICE)
    sums, _ = run(book, logits, torch.zeros(1, 1, 2, device=DEVICE).long(), None)
    assert sums[0].item() == pytest.approx(2 * torch.tensor(-18.0).double().exp().item(), rel=1e-5)


def test_a_label_that_no_class_has_makes_the_loss_nan():
    book = random_book(3, 8, 0)
    logits = torch.ones(1, 8, 1, 3, device=DEVICE)
    for wrong in (3, -1):
        labels = torch.tensor([[[0, wrong, 255]]], device=DEVICE)
        assert run(book, logits, labels, None)[0][0].isnan()


def test_slope_scale_is_a_factor():
    book = random_book(5, 9, 0)
    logits, labels = torch.randn(1, 9, 2, 3, device=DEVICE), torch.ones(1, 2, 3, device=DEVICE)
    sums, whole = run(book, logits, labels.long(), None)
    same, half = run(book, logits, labels.long(), None, slope_scale=0.5)
    assert torch.equal(sums, same)
    assert torch.allclose(half, whole * 0.5, rtol=1e-6)


@pytest.mark.parametrize("dtype", TYPES)
def test_scaling_in_place(dtype):
    values = torch.randn(2, 3, 20, 21, device=DEVICE).to(dtype)
    for layout in (torch.contiguous_format, torch.channels_last):
        for factor in (1.0, 0.125, -3.0):
            scaled = values.clone(memory_format=layout)
            by = torch.tensor(factor, device=DEVICE)
            assert loss_kernels.scale_(scaled, by) is scaled
            if factor == 1:
                assert torch.equal(scaled, values)
            # The interpreter cuts what it turns into bfloat16, a GPU rounds.
            assert torch.allclose(scaled, values * factor, rtol=4 * ROUNDING[dtype], atol=0)


def test_empty_batches():
    book = random_book(3, 8, 0)
    logits = torch.zeros(0, 8, 4, 4, device=DEVICE)
    labels = torch.zeros(0, 4, 4, device=DEVICE).long()
    sums, slope = run(book, logits, labels, None)
    assert sums.tolist() == [0, 0, 0]
    assert slope.shape == logits.shape
    assert decode_kernels.decode(logits, book.words).shape == labels.shape
    assert mining_kernels.pseudo(logits, book.words, 0.9, 3)[4].tolist() == [0, 0, 0]
    assert mining_kernels.mine(logits, book.words, 0.9, 3)[1].shape == logits.shape
