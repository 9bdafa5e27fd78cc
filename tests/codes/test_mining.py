import decimal
import math
from decimal import Decimal

import pytest
import torch
from code_books import random_book
from hypothesis import given
from hypothesis import strategies as st

from ecocseg import (
    Codebook,
    decode,
    hybrid_labels,
    mine_reliable_bits,
    quality_weight,
    soft_hamming_distance,
)
from ecocseg.codes.build import mmd_bits
from ecocseg.codes.candidates import first_largest, nearest_first
from ecocseg.codes.mining import code_bits, denoise


@st.composite
def books(draw):
    classes = draw(st.integers(2, 12))
    length = draw(st.integers((classes - 1).bit_length(), 20))
    return random_book(classes, length, draw(st.integers(0, 10_000)))


def probability(z):
    return 1 / (1 + math.exp(-z)) if z >= 0 else 1 - 1 / (1 + math.exp(z))


def algorithm_1(z, book, threshold, max_candidates=None):
    """Algorithm 1 for one pixel, word for word: (label, mask, candidates, confidence)."""
    p = [probability(value) for value in z]
    q = [max(value, 1 - value) for value in p]
    words = book.bits.long().tolist()
    distance = [sum(abs(a - b) for a, b in zip(p, word, strict=True)) for word in words]
    order = sorted(range(len(words)), key=lambda n: (distance[n], n))
    reliable, count = [], 0
    for count in range(1, len(words) + 1):
        chosen = [words[n] for n in order[:count]]
        reliable = [k for k in range(len(z)) if len({word[k] for word in chosen}) == 1]
        if not reliable or sum(q[k] for k in reliable) / len(reliable) > threshold:
            break
        if count == max_candidates and count < len(words):
            reliable = []
            break
    mask = [k in reliable for k in range(len(z))]
    return order[0], mask, count, sum(q) / len(q)


def assert_is_algorithm_1(logits, book, threshold, max_candidates=None):
    mined = mine_reliable_bits(logits, book, threshold, max_candidates)
    batch, _, height, width = logits.shape
    for b in range(batch):
        for i in range(height):
            for j in range(width):
                z = logits[b, :, i, j].tolist()
                label, mask, count, confidence = algorithm_1(z, book, threshold, max_candidates)
                assert mined.labels[b, i, j] == label
                assert mined.mask[b, :, i, j].tolist() == mask
                assert mined.candidates[b, i, j] == count
                assert mined.confidence[b, i, j].item() == pytest.approx(confidence, abs=1e-6)
    return mined


@given(
    books(),
    st.sampled_from([0.5, 0.6, 0.75, 0.9, 0.95, 0.99, 1.0]),
    st.sampled_from([None, 1, 2, 3, 8, 50]),
    st.sampled_from([0.3, 1.0, 3.0, 10.0]),
    st.integers(0, 10_000),
)
def test_mining_is_algorithm_1(book, threshold, max_candidates, scale, seed):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(2, book.length, 2, 3, generator=generator, dtype=torch.float64) * scale
    assert_is_algorithm_1(logits, book, threshold, max_candidates)


@given(books(), st.sampled_from([0.5, 0.75, 0.95, 1.0]), st.integers(0, 10_000))
def test_ties_go_to_the_lower_class(book, threshold, seed):
    # p is 0, 0.5 or 1 here: every sum is exact, and equal distances abound.
    generator = torch.Generator().manual_seed(seed)
    logits = (torch.randint(-1, 2, (1, book.length, 2, 4), generator=generator) * 1e4).float()
    mined = assert_is_algorithm_1(logits, book, threshold)
    assert torch.equal(decode(logits, book), mined.labels)


def exact_order(halves, book):
    """Classes by distance for a pixel whose logits are `halves` / 2, ties to the lower class.

    tanh(h / 4) of different h > 0 are linearly independent over the rationals, so distances are
    equal only where the signs before every one of them add up to the same; all others differ by
    far more than 50 digits round.
    """
    with decimal.localcontext(prec=50):
        sizes = {abs(h) for h in halves}
        soft = {h: 1 - 2 / (1 + (Decimal(h) / 2).exp()) for h in sizes}
        keys = []
        for n, word in enumerate(book.bits.tolist()):
            signs = dict.fromkeys(sizes, 0)
            for h, bit in zip(halves, word, strict=True):
                signs[abs(h)] += (1 if bit else -1) * ((h > 0) - (h < 0))
            keys.append((-sum(signs[h] * soft[h] for h in sorted(sizes)), n))
    return [n for _, n in sorted(keys)]


@given(books(), st.sampled_from([torch.float32, torch.float64]), st.integers(0, 10_000))
def test_ties_of_half_integers_go_to_the_lower_class(book, dtype, seed):
    generator = torch.Generator().manual_seed(seed)
    halves = torch.randint(-3, 4, (1, book.length, 2, 4), generator=generator)
    logits = halves.to(dtype) / 2
    labels = decode(logits, book)
    pixels = halves.flatten(2)[0].T.tolist()
    expected = [exact_order(pixel, book) for pixel in pixels]
    assert labels.flatten().tolist() == [order[0] for order in expected]
    assert torch.equal(soft_hamming_distance(logits, book).argmin(1), labels)
    for threshold in (0.6, 0.95):
        mined = mine_reliable_bits(logits, book, threshold)
        assert torch.equal(mined.labels, labels)
        found = zip(mined.candidates.flatten(), mined.mask.flatten(2)[0].T, strict=True)
        for order, (count, mask) in zip(expected, found, strict=True):
            chosen = book.bits[order[:count]]
            assert torch.equal(mask, (chosen == chosen[0]).all(0))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_decoding_mining_and_distances_agree_on_every_pixel_of_half_integers(dtype):
    # Ties abound: so many that an order of summation that rounds them apart would show.
    book = Codebook(mmd_bits(19, 40, 0, 50))
    generator = torch.Generator().manual_seed(0)
    halves = torch.randint(-2, 3, (1, 40, 256, 256), generator=generator)
    logits = halves.to(dtype) / 2
    # Integer sums for each size of a logit: equal for equal distances, whatever tanh gives.
    signs = torch.stack([halves.sign() * (halves.abs() == h) for h in (1, 2)], 1).double()
    sums = torch.einsum("nk,bskhw->sbnhw", book.signed.double(), signs)
    agreeing = sum(sums[h - 1] * math.tanh(h / 4) for h in (1, 2))
    labels = decode(logits, book)
    assert torch.equal(labels, agreeing.argmax(1))
    assert torch.equal(mine_reliable_bits(logits, book).labels, labels)
    assert torch.equal(soft_hamming_distance(logits, book).argmin(1), labels)
    top = agreeing.topk(2, dim=1).values
    assert (top[:, 0] == top[:, 1]).sum() > 1000


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_mean_equal_to_the_threshold_does_not_exceed_it(dtype):
    # Nine sure bits and one undecided one: the mean of max(p, 1 - p) is 0.95, as T.
    book = Codebook([[0] * 10, [1] * 10])
    logits = torch.full((1, 10, 1, 1), -1e4, dtype=dtype)
    logits[0, 0] = 0
    assert not mine_reliable_bits(logits, book, threshold=0.95).mask.any()
    assert mine_reliable_bits(logits, book, threshold=0.9499).mask.all()


def test_mining_on_a_large_image_equals_mining_in_parts():
    book = Codebook(mmd_bits(19, 40, 0, 50))
    logits = torch.randn(2, 40, 70, 130) * torch.rand(2, 1, 70, 130) * 12
    whole = mine_reliable_bits(logits, book)
    assert 1 in whole.candidates
    assert whole.candidates.max() > 4
    for top in range(0, 70, 10):
        part = mine_reliable_bits(logits[:, :, top : top + 10, 20:90], book)
        for name in ("labels", "candidates", "confidence"):
            rows = getattr(whole, name)[:, top : top + 10, 20:90]
            assert torch.allclose(rows.double(), getattr(part, name).double(), atol=1e-6), name
        assert torch.equal(whole.mask[:, :, top : top + 10, 20:90], part.mask)


@given(books(), st.integers(0, 10_000))
def test_threshold_one_half_is_code_wise(book, seed):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(1, book.length, 3, 3, generator=generator)
    mined = mine_reliable_bits(logits, book, threshold=0.5)
    assert mined.mask.all()
    expected = book.bits[decode(logits, book)].permute(0, 3, 1, 2)
    assert torch.equal(hybrid_labels(logits, mined, book), expected)


@given(st.integers(2, 12), st.integers(0, 1000), st.sampled_from([1.0, 30.0, 1e4]))
def test_threshold_one_is_bit_wise(classes, seed, scale):
    # Algorithm 1 ends with all classes in; a bit on which all of them agree would stay in S.
    bits = torch.cat([torch.eye(classes), random_book(classes, 12, seed).bits.float()], dim=1)
    book = Codebook(bits[:, (bits != bits[:1]).any(0)])
    logits = torch.randn(1, book.length, 3, 3) * scale
    mined = mine_reliable_bits(logits, book, threshold=1.0)
    assert not mined.mask.any()
    assert torch.equal(hybrid_labels(logits, mined, book), logits >= 0)


@given(books(), st.integers(0, 10_000), st.sampled_from([0.5, 0.7, 0.95, 1.0]))
def test_denoising_is_mining_and_hybrid_labels_with_counts(book, seed, threshold):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(2, book.length, 3, 2, generator=generator) * 3
    mined = mine_reliable_bits(logits, book, threshold, 3)
    found = denoise(logits, book, threshold, 3)
    assert torch.equal(found.bits, hybrid_labels(logits, mined, book))
    assert torch.equal(found.labels, mined.labels)
    assert torch.equal(found.candidates, mined.candidates)
    assert torch.equal(found.confidence, mined.confidence)
    differ = book.bits[mined.labels].permute(0, 3, 1, 2) != (logits >= 0)
    counts = [differ.sum(), (differ & mined.mask).sum(), mined.mask.sum()]
    assert found.counts.tolist() == [int(count) for count in counts]


@given(books(), st.integers(0, 10_000), st.sampled_from([0.6, 0.95]))
def test_hybrid_takes_code_bits_inside_the_mask_and_signs_outside(book, seed, threshold):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(2, book.length, 2, 3, generator=generator) * 3
    mined = mine_reliable_bits(logits, book, threshold)
    hybrid = hybrid_labels(logits, mined, book)
    assert hybrid.dtype == torch.bool
    for b, k, i, j in torch.cartesian_prod(*map(torch.arange, logits.shape)).tolist():
        inside = mined.mask[b, k, i, j]
        code = book.bits[mined.labels[b, i, j], k]
        assert hybrid[b, k, i, j] == (code if inside else logits[b, k, i, j] >= 0)


@given(books(), st.integers(0, 10_000), st.sampled_from([0.7, 0.95]))
def test_order_of_classes_and_bits_does_not_matter(book, seed, threshold):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(1, book.length, 3, 4, generator=generator, dtype=torch.float64) * 3
    mined = mine_reliable_bits(logits, book, threshold)
    rows = torch.randperm(book.num_classes, generator=generator)
    columns = torch.randperm(book.length, generator=generator)

    other = mine_reliable_bits(logits, Codebook(book.bits[rows]), threshold)
    assert torch.equal(rows[other.labels], mined.labels)
    assert torch.equal(other.mask, mined.mask)
    assert torch.equal(other.candidates, mined.candidates)

    other = mine_reliable_bits(logits[:, columns], Codebook(book.bits[:, columns]), threshold)
    assert torch.equal(other.labels, mined.labels)
    assert torch.equal(other.mask, mined.mask[:, columns])
    assert torch.equal(other.candidates, mined.candidates)


@given(books(), st.integers(0, 10_000))
def test_distance_is_the_sum_of_differences(book, seed):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(2, book.length, 2, 3, generator=generator) * 4
    words = book.bits.double()[None, :, :, None, None]
    expected = (logits.double().sigmoid()[:, None] - words).abs().sum(2)
    distance = soft_hamming_distance(logits, book)
    assert distance.dtype == torch.float32
    assert torch.allclose(distance.double(), expected, atol=1e-5)
    double = soft_hamming_distance(logits.double(), book)
    assert torch.allclose(double, expected, atol=1e-12)
    assert torch.equal(decode(logits.double(), book), expected.argmin(1))


def test_distance_is_differentiable():
    book = random_book(5, 6, 0)
    logits = torch.randn(1, 6, 2, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda z: soft_hamming_distance(z, book), logits)


def test_a_codeword_is_decoded_to_its_class_despite_noise():
    # Fewer than half the minimum distance of wrong bits never change the class.
    book = Codebook(mmd_bits(19, 40, 0, 2000))
    labels = torch.arange(19).view(1, 1, 19).repeat(1, 30, 1)
    bits = code_bits(labels, book)
    wrong = torch.rand(bits.shape).argsort(1) < (book.min_row_distance - 1) // 2
    logits = torch.where(bits ^ wrong, 9.0, -9.0)
    assert torch.equal(decode(logits, book), labels)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_single(dtype):
    book = Codebook(mmd_bits(19, 40, 0, 50))
    logits = (torch.randn(2, 40, 20, 20) * 4).to(dtype)
    half, single = mine_reliable_bits(logits, book), mine_reliable_bits(logits.float(), book)
    for name in half._fields:
        assert torch.equal(getattr(half, name), getattr(single, name))
    assert torch.equal(decode(logits, book), single.labels)
    distance = soft_hamming_distance(logits, book)
    assert torch.equal(distance, soft_hamming_distance(logits.float(), book))


def test_autocast_and_memory_layout_change_nothing():
    book = Codebook(mmd_bits(19, 40, 0, 50))
    logits = torch.randn(2, 40, 20, 21) * 4
    plain = mine_reliable_bits(logits, book)
    layouts = [logits.contiguous(memory_format=torch.channels_last), logits.mT.contiguous().mT]
    with torch.autocast("cpu", torch.bfloat16):
        layouts.append(logits)
        others = [(mine_reliable_bits(z, book), decode(z, book)) for z in layouts]
        distances = [soft_hamming_distance(z, book) for z in layouts]
    for (mined, labels), distance in zip(others, distances, strict=True):
        assert torch.equal(mined.labels, plain.labels)
        assert torch.equal(labels, plain.labels)
        assert torch.equal(mined.mask, plain.mask)
        assert torch.equal(mined.candidates, plain.candidates)
        assert torch.allclose(distance, soft_hamming_distance(logits, book), atol=1e-5)


def test_quality_is_the_share_of_confident_pixels():
    confidence = torch.tensor([[[0.97, 0.5], [0.968, 0.99]], [[0.6, 0.7], [0.8, 0.9]]])
    assert quality_weight(confidence, 0.968).tolist() == [0.5, 0.0]
    assert quality_weight(confidence).tolist() == [0.5, 0.0]
    valid = torch.tensor([[[True, True], [True, False]], [[False, False], [False, False]]])
    assert quality_weight(confidence, 0.5, valid).tolist() == pytest.approx([2 / 3, 0.0])


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda book: decode(torch.zeros(1, 5, 2, 2), book), "K = 6"),
        (lambda book: decode(torch.zeros(1, 6, 2), book), "logits"),
        (lambda book: soft_hamming_distance(torch.zeros(1, 6, 2, 2).long(), book), "logits"),
        (lambda book: mine_reliable_bits(torch.zeros(1, 6, 2, 2), book, 1.5), "threshold"),
        (lambda book: mine_reliable_bits(torch.zeros(1, 6, 2, 2), book, 0.9, 0), "max_candidates"),
        (lambda book: quality_weight(torch.zeros(1, 2, 2), -0.1), "quality_threshold"),
    ],
)
def test_wrong_arguments_are_refused(call, says):
    with pytest.raises(ValueError, match=says):
        call(random_book(5, 6, 0))


@given(
    st.integers(2, 12) | st.just(5000),
    st.integers(1, 9),
    st.sampled_from([1, 2**49]),
    st.integers(0, 10_000),
)
def test_the_order_of_candidates_is_a_stable_sort(classes, pixels, scale, seed):
    generator = torch.Generator().manual_seed(seed)
    # With zeros of both signs, and with ties.
    scores = torch.randint(-3, 4, (pixels, classes), generator=generator).double()
    scores = scores.clamp(-2, 2) * scale
    scores *= torch.randint(0, 2, (pixels, classes), generator=generator) * 2 - 1
    expected = [sorted(range(classes), key=lambda n: (-row[n], n)) for row in scores.tolist()]
    assert nearest_first(scores).T.tolist() == expected
    assert first_largest(scores.T).tolist() == [order[0] for order in expected]


def test_the_first_of_equal_maxima_is_found_in_any_number_of_classes():
    for classes in (255, 256, 300):
        scores = torch.zeros(classes, 4)
        scores[[7, 200, 250], [0, 1, 1]] = 1
        assert first_largest(scores).tolist() == [7, 200, 0, 0]


def test_logits_that_are_no_numbers_give_some_class():
    book = Codebook(torch.eye(4))
    labels = mine_reliable_bits(torch.full((1, 4, 2, 2), torch.nan), book).labels
    assert ((labels >= 0) & (labels < 4)).all()


def test_a_batch_without_images_is_mined():
    book = random_book(5, 8, 0)
    logits = torch.zeros(0, 8, 3, 4)
    mined = mine_reliable_bits(logits, book)
    assert mined.mask.shape == hybrid_labels(logits, mined, book).shape == logits.shape
    found = denoise(logits, book)
    assert found.bits.shape == logits.shape
    assert found.counts.tolist() == [0, 0, 0]
    assert decode(logits, book).shape == (0, 3, 4)


@pytest.mark.parametrize("length", [2040, 2041, 2050, 5000])
def test_very_long_codewords_are_counted_right(length):
    # Three codewords that differ in the last two bits alone, and no bit is sure: all come in.
    book = Codebook([[0] * (length - 2) + end for end in ([0, 0], [0, 1], [1, 1])])
    mined = mine_reliable_bits(torch.full((1, length, 1, 2), -0.01), book, threshold=0.9)
    assert mined.candidates.tolist() == [[[3, 3]]]
    assert mined.mask.sum(1).tolist() == [[[length - 2, length - 2]]]
