"""The loss where numbers are hard: half precision, huge, zero and missing values, layouts."""

import copy
import pickle

import pytest
import torch
from code_books import random_book
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ecocseg import Codebook, ECOCLoss, decode, hybrid_labels, mine_reliable_bits
from ecocseg.codes.build import mmd_bits
from ecocseg.codes.mining import code_bits, denoise


def value_and_grad(loss, logits, targets, weight=None):
    logits = logits.detach().clone().requires_grad_()
    terms = loss(logits, targets, weight)
    terms.total.backward()
    return terms, logits.grad


def assert_same(first, second, **tolerance):
    for a, b in zip(first[0], second[0], strict=True):
        assert torch.allclose(a.double(), b.double(), **tolerance)
    assert torch.allclose(first[1].double(), second[1].double(), **tolerance)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_a_batch_without_labels_gives_zero(dtype):
    book = random_book(5, 8, 0)
    logits = torch.randn(2, 8, 3, 3, dtype=dtype)
    terms, grad = value_and_grad(ECOCLoss(book), logits, torch.full((2, 3, 3), 255))
    assert [term.item() for term in terms] == [0, 0, 0, 0]
    assert not grad.any()
    terms, grad = value_and_grad(ECOCLoss(book), logits[:0], torch.zeros(0, 3, 3).long())
    assert [term.item() for term in terms] == [0, 0, 0, 0]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_huge_logits_are_safe(dtype):
    book = Codebook(mmd_bits(19, 40, 0, 50))
    labels = torch.randint(0, 19, (1, 8, 8))
    right = (code_bits(labels, book) * 2.0 - 1) * 1e4
    for logits in (right, -right, torch.randn(right.shape).sign() * 1e4):
        terms, grad = value_and_grad(ECOCLoss(book), logits.to(dtype), labels)
        assert torch.stack(terms).isfinite().all()
        assert grad.isfinite().all()
    assert ECOCLoss(book)(right, labels).bce == 0
    assert ECOCLoss(book)(right, labels).distance.item() == pytest.approx(0, abs=1e-6)
    wrong = ECOCLoss(book)(-right, labels)
    assert wrong.bce.item() == pytest.approx(1e4)
    assert wrong.distance.item() == pytest.approx(2)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_a_zero_vector_has_cosine_zero_and_no_pull(dtype):
    book = random_book(5, 8, 0)
    logits = torch.zeros(1, 8, 1, 2, dtype=dtype)
    logits[0, :, 0, 1] = torch.arange(8)
    labels = torch.tensor([[[3, 3]]])
    weight = torch.tensor([[[1.0, 0.0]]])
    terms, grad = value_and_grad(ECOCLoss(book), logits, labels, weight)
    # cos = 0: distance 1; all rows alike in the contrast; p = 1/2 in every bit.
    assert terms.distance.item() == pytest.approx(1 / 2)
    assert terms.contrast.item() == pytest.approx(torch.log(torch.tensor(5.0)).item() / 2)
    pull = (0.5 - book.bits[3].double()) / 8 / 2
    assert torch.allclose(grad[0, :, 0, 0].double(), pull, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_saturated_bits_keep_their_gradient(dtype):
    # With a 1e-4 inside the logarithm (the released code) this would be wrong by orders.
    book = Codebook([[0, 1], [1, 0]])
    logits = torch.tensor([-30.0, 30.0], dtype=dtype).view(1, 2, 1, 1)
    loss = ECOCLoss(book, distance_weight=0, contrast_weight=0)
    terms, grad = value_and_grad(loss, logits, torch.tensor([[[0]]]))
    expected = torch.exp(torch.tensor(-30.0)).item()
    # The value is exact to the rounding of 1, the gradient to that of itself.
    rounding = torch.finfo(dtype).eps
    assert terms.total.item() == pytest.approx(expected, rel=1e-6, abs=2 * rounding)
    wanted = pytest.approx([expected / 2, -expected / 2], rel=1e-6, abs=0)
    assert grad.flatten().tolist() == wanted


@pytest.mark.parametrize("length", [63, 64, 65, 200])
def test_the_cross_entropy_of_many_bits_is_that_of_the_library(length):
    # It takes one logarithm of a product of many factors down to 1/2, which must not underflow.
    book = random_book(2, length, 0)
    logits = torch.randn(1, length, 5, 5) * torch.tensor([1e-6, 1e-2, 1, 10, 1e4])
    bits = torch.rand(logits.shape) < 0.5
    got = ECOCLoss(book, distance_weight=0, contrast_weight=0)(logits, bits).total
    expected = torch.nn.functional.binary_cross_entropy_with_logits(logits, bits.float())
    assert got.item() == pytest.approx(expected.item(), rel=1e-5)


def test_a_graph_that_is_kept_gives_the_gradient_again():
    # Otherwise the gradient is scaled in place.
    book = random_book(5, 8, 0)
    logits, labels = torch.randn(1, 8, 4, 4), torch.randint(0, 5, (1, 4, 4))
    _, expected = value_and_grad(ECOCLoss(book), logits, labels)
    logits.requires_grad_()
    total = ECOCLoss(book)(logits, labels).total * 3
    first, second = (torch.autograd.grad(total, logits, retain_graph=True)[0] for _ in range(2))
    (last,) = torch.autograd.grad(total, logits)
    for grad in (first, second, last):
        assert torch.allclose(grad, 3 * expected, rtol=1e-6)
    total = ECOCLoss(book)(logits, labels).total
    (grad,) = torch.autograd.grad(total, logits, create_graph=True)
    with pytest.raises(RuntimeError, match="second derivative"):
        grad.sum().backward()


@pytest.mark.parametrize("as_bits", [False, True])
def test_compiled_whole_it_is_the_same(as_bits):
    book = Codebook(mmd_bits(7, 12, 0, 50))
    head, loss = torch.nn.Conv2d(3, 12, 1), ECOCLoss(book)

    def step(images, teacher):
        mined = mine_reliable_bits(teacher, book)
        bits = hybrid_labels(teacher, mined, book)
        found = denoise(teacher, book)
        logits = head(images)
        terms = loss(logits, bits if as_bits else found.labels, mined.confidence)
        return terms.total, terms.contrast, decode(logits, book), found.bits, found.counts

    compiled = torch.compile(step, backend="aot_eager", fullgraph=True)
    for height in (5, 8):
        images, teacher = torch.randn(2, 3, height, 6), torch.randn(2, 12, height, 6) * 4
        results, grads = [], []
        # Compiled first: what the plain call would prepare is not there yet.
        for call in (compiled, step):
            head.zero_grad()
            found = call(images, teacher)
            found[0].backward()
            results.append(found)
            grads.append(head.weight.grad.clone())
        for plain, whole in zip(*results, strict=True):
            assert torch.allclose(plain, whole)
        assert grads[0].any()
        assert torch.allclose(*grads)


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float16, 1e-3), (torch.bfloat16, 8e-3)]
)
@pytest.mark.parametrize("as_bits", [False, True])
def test_lower_precision_stays_within_its_tolerance(dtype, tolerance, as_bits):
    # The values are computed in float32 from the rounded logits; the gradient alone is rounded.
    book = Codebook(mmd_bits(19, 40, 0, 50))
    logits = (torch.randn(2, 40, 40, 60) * 4).to(dtype)
    labels = torch.randint(0, 19, (2, 40, 60))
    targets = torch.rand(logits.shape) < 0.5 if as_bits else labels
    weight = torch.rand(2, 40, 60)
    exact, exact_grad = value_and_grad(ECOCLoss(book), logits.double(), targets, weight.double())
    terms, grad = value_and_grad(ECOCLoss(book), logits, targets, weight)
    assert grad.dtype == dtype
    for got, expected in zip(terms, exact, strict=True):
        assert got.dtype == torch.float32
        assert got.item() == pytest.approx(expected.item(), rel=1e-5)
    # As a loss scaler does: without it, float16 cannot hold 1 / (number of pixels) well.
    scaled = logits.clone().requires_grad_()
    (ECOCLoss(book)(scaled, targets, weight).total * 4096).backward()
    worst = (scaled.grad.double() / 4096 - exact_grad).abs().max()
    assert worst < tolerance * exact_grad.abs().max()


def test_autocast_and_memory_layout_change_nothing():
    book = Codebook(mmd_bits(19, 40, 0, 50))
    logits, labels = torch.randn(2, 40, 30, 50) * 4, torch.randint(0, 19, (2, 30, 50))
    expected = value_and_grad(ECOCLoss(book), logits, labels)
    with torch.autocast("cpu", torch.bfloat16):
        assert_same(expected, value_and_grad(ECOCLoss(book), logits, labels), atol=0, rtol=0)
    last = logits.contiguous(memory_format=torch.channels_last).requires_grad_()
    terms = ECOCLoss(book)(last, labels)
    terms.total.backward()
    assert last.grad.is_contiguous(memory_format=torch.channels_last)
    assert_same(expected, (terms, last.grad), atol=1e-6)
    sliced = torch.randn(2, 40, 30, 80)
    sliced[..., 7:57] = logits
    assert_same(expected, value_and_grad(ECOCLoss(book), sliced[..., 7:57], labels), atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32])
def test_labels_may_be_of_any_integer_type(dtype):
    book = random_book(5, 8, 0)
    logits, labels = torch.randn(1, 8, 4, 4), torch.randint(0, 5, (1, 4, 4))
    labels[0, 0] = 255
    expected = value_and_grad(ECOCLoss(book), logits, labels)
    assert_same(expected, value_and_grad(ECOCLoss(book), logits, labels.to(dtype)), atol=0, rtol=0)


def test_bits_may_be_of_any_type():
    book = random_book(5, 8, 0)
    logits, bits = torch.randn(1, 8, 3, 3), torch.rand(1, 8, 3, 3) < 0.5
    expected = value_and_grad(ECOCLoss(book), logits, bits)
    for dtype in (torch.uint8, torch.int64, torch.float32, torch.bfloat16):
        assert_same(expected, value_and_grad(ECOCLoss(book), logits, bits.to(dtype)))


class Largest(TorchDispatchMode):
    """Remembers the most elements that any operation gave."""

    elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        sizes = [leaf.numel() for leaf in tree_leaves(out) if isinstance(leaf, torch.Tensor)]
        self.elements = max([self.elements, *sizes])
        return out


@pytest.mark.parametrize("as_bits", [False, True])
def test_no_tensor_is_larger_than_the_logits(as_bits):
    book = Codebook(mmd_bits(19, 40, 0, 50))
    logits = torch.randn(2, 40, 80, 90, requires_grad=True)
    labels = torch.randint(0, 19, (2, 80, 90))
    targets = code_bits(labels, book) if as_bits else labels
    with Largest() as largest:
        ECOCLoss(book)(logits, targets).total.backward()
        mined = mine_reliable_bits(logits, book)
        hybrid_labels(logits, mined, book)
        decode(logits, book)
    assert largest.elements == logits.numel()


def test_nothing_is_kept_without_gradient_and_copies_work():
    book = random_book(5, 8, 0)
    logits, labels = torch.randn(1, 8, 3, 3, requires_grad=True), torch.zeros(1, 3, 3).long()
    loss = ECOCLoss(book)
    expected = loss(logits, labels)
    with torch.no_grad():
        assert not loss(logits, labels).total.requires_grad
    for clone in (copy.deepcopy(loss), pickle.loads(pickle.dumps(loss))):
        assert torch.equal(clone(logits, labels).total, expected.total)
    assert loss.state_dict() == {}


@pytest.mark.parametrize("as_bits", [False, True])
def test_half_precision_of_next_to_no_logits_has_a_finite_gradient(as_bits):
    """The gradient of a cosine grows as 1 / |z|: beyond float16 for the smallest logits."""
    book = Codebook.build("mmd", num_classes=5, length=8, draws=500)
    small = torch.randn(1, 8, 4, 4, dtype=torch.float64) * 6e-6
    small[..., 0] = 3.0
    labels = torch.randint(0, 5, (1, 4, 4))
    targets = code_bits(labels, book) if as_bits else labels
    slopes = []
    for dtype in (torch.float16, torch.float64):
        logits = small.to(dtype).requires_grad_()
        ECOCLoss(book)(logits, targets).total.backward()
        slopes.append(logits.grad.double())
    assert slopes[0].isfinite().all()
    assert torch.allclose(slopes[0][..., 0], slopes[1][..., 0], rtol=2e-2, atol=1e-4)
    # Cut off, but in the right direction.
    large = slopes[1].abs() > 1e3
    assert large.any()
    assert torch.equal(slopes[0][large].sign(), slopes[1][large].sign())


def test_probabilities_and_other_numbers_are_no_bits():
    book = Codebook.build("mmd", num_classes=5, length=8, draws=500)
    loss, logits = ECOCLoss(book), torch.randn(1, 8, 2, 2)
    bits = torch.randint(0, 2, (1, 8, 2, 2))
    assert loss(logits, bits) == loss(logits, bits.bool()) == loss(logits, bits.to(torch.uint8))
    with pytest.raises(ValueError, match=r"a bit of 0\.\d+, allowed 0 and 1; decide probabilities"):
        loss(logits, torch.rand(1, 8, 2, 2))
    bits[0, 0, 0, 0] = 255
    with pytest.raises(ValueError, match="a bit of 255, allowed 0 and 1"):
        loss(logits, bits)
    for wrong in (-1.0, torch.nan):
        weight = torch.ones(1, 2, 2)
        weight[0, 0, 0] = wrong
        with pytest.raises(ValueError, match="weight: got a negative or undefined weight"):
            loss(logits, bits.clamp(max=1), weight)


def test_options_cannot_be_changed_without_effect():
    loss = ECOCLoss(Codebook.build("mmd", num_classes=5, length=8, draws=500), 3.0, 1.0, 0.2)
    assert (loss.distance_weight, loss.contrast_weight, loss.temperature) == (3.0, 1.0, 0.2)
    assert loss.denominator == "paper"
    for name in ("distance_weight", "contrast_weight", "temperature", "denominator"):
        with pytest.raises(AttributeError):
            setattr(loss, name, 0.0)
