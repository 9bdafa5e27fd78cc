"""The label path as torch operators, and what tracing leaves behind."""

import pytest
import torch
from code_books import random_book
from torch._subclasses.fake_tensor import FakeTensorMode

from ecocseg import Codebook, ECOCLoss, decode, mine_reliable_bits, soft_hamming_distance
from ecocseg.codes.mining import code_bits

CHECKS = ("test_schema", "test_autograd_registration", "test_faketensor")
# It asks for a gradient of every output; the slope's, a second derivative, is refused.
WITHOUT_GRADIENT = (*CHECKS, "test_aot_dispatch_static")


def arguments(book, dtype=torch.float32, *, requires_grad=False):
    logits = (torch.randn(2, book.length, 3, 4, dtype=torch.float64) * 2).to(dtype)
    return logits.requires_grad_(requires_grad), book.place(torch.device("cpu"), torch.float32)


@pytest.mark.parametrize("requires_grad", [False, True])
@pytest.mark.parametrize("as_bits", [False, True])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_loss_is_a_proper_operator(requires_grad, as_bits, weighted, dtype):
    book = random_book(5, 8, 0)
    logits, signed = arguments(book, dtype, requires_grad=requires_grad)
    labels = torch.randint(0, 5, (2, 3, 4))
    targets = code_bits(labels, book) if as_bits else labels
    weight = torch.rand(2, 3, 4) if weighted else None
    options = (5.0, 2.0, 0.5, True, requires_grad)
    torch.library.opcheck(
        torch.ops.ecocseg.bit_loss.default,
        (logits, targets, weight, signed, book.words, *options),
        test_utils=CHECKS if requires_grad else WITHOUT_GRADIENT,
    )


@pytest.mark.parametrize("name", ["nearest", "mine", "denoise"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_decoding_and_mining_are_proper_operators(name, dtype):
    book = random_book(5, 8, 0)
    logits, signed = arguments(book, dtype)
    rules = () if name == "nearest" else (0.9, 5)
    operator = getattr(torch.ops.ecocseg, name).default
    torch.library.opcheck(
        operator, (logits, signed, book.words, *rules), test_utils=WITHOUT_GRADIENT
    )


class Head(torch.nn.Module):
    def __init__(self, book):
        super().__init__()
        self.book = book

    def forward(self, logits):
        return soft_hamming_distance(logits, self.book)


def exported(book, logits):
    torch.export.export(Head(book), (logits,))


def faked(book, logits):
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        soft_hamming_distance(mode.from_tensor(logits), book)


def inferred(book, logits):
    with torch.inference_mode():
        soft_hamming_distance(logits, book)
        decode(logits, book)


def compiled(book, logits):
    torch.compile(Head(book), backend="aot_eager", fullgraph=True)(logits)


@pytest.mark.parametrize("first_use", [exported, faked, inferred, compiled])
@pytest.mark.parametrize("built_inside", [False, True])
def test_the_first_use_of_a_codebook_spoils_no_later_one(first_use, built_inside):
    rows = random_book(5, 8, 0).bits
    if built_inside:
        with torch.inference_mode():
            book = Codebook(rows.clone())
    else:
        book = Codebook(rows)
    logits = torch.randn(1, 8, 3, 4)
    expected = soft_hamming_distance(logits, Codebook(rows))
    first_use(book, logits)
    found = soft_hamming_distance(logits, book)
    assert type(found) is torch.Tensor
    assert torch.equal(found, expected)
    assert mine_reliable_bits(logits, book).labels.shape == (1, 3, 4)
    mine = logits.clone().requires_grad_()
    ECOCLoss(book)(mine, torch.randint(0, 5, (1, 3, 4))).total.backward()
    soft_hamming_distance(mine, book).sum().backward()
    assert mine.grad.isfinite().all()
