"""When the public functions take the kernels; `test_kernels.py` runs it as it does the others."""

import pytest
import torch
from code_books import random_book
from kernel_checks import DEVICE, ROUNDING, TYPES, laid_out

from ecocseg import ECOCLoss, decode, mine_reliable_bits
from ecocseg.codes import kernels
from ecocseg.codes.kernels import decode as decode_kernels
from ecocseg.codes.kernels import loss as loss_kernels
from ecocseg.codes.kernels import mining as mining_kernels
from ecocseg.codes.kernels import trial
from ecocseg.codes.mining import denoise


def test_what_is_usable():
    book = random_book(3, 8, 0)
    logits = torch.zeros(1, 8, 4, 4, device=DEVICE)
    assert all(kernels.usable(logits.to(dtype), book.words) for dtype in TYPES)
    assert not kernels.usable(logits.double(), book.words)
    assert not kernels.usable(logits, random_book(129, 9, 0).words)
    assert not kernels.usable(logits, random_book(3, 65, 0).words)
    with kernels.plain_path():
        assert not kernels.usable(logits, book.words)
    assert kernels.usable(logits, book.words)


# One codebook: each costs a trial of the kernels, which takes the interpreter seconds.
@pytest.mark.parametrize(
    ("dtype", "layout"),
    [(torch.float32, "plain"), (torch.bfloat16, "last"), (torch.float16, "turned")],
)
def test_the_public_functions_take_the_kernels(dtype, layout):
    book = random_book(7, 11, 0)
    generator = torch.Generator().manual_seed(1)
    logits = laid_out((torch.randn(2, 11, 5, 4, generator=generator) * 3).to(DEVICE, dtype), layout)
    bits = torch.rand(logits.shape, generator=generator).to(DEVICE) < 0.5
    weight = torch.rand(2, 5, 4, generator=generator).to(DEVICE)

    def everything():
        student = logits.detach().clone().requires_grad_()
        terms = ECOCLoss(book)(student, bits, weight)
        (terms.total * 3).backward()
        mined = mine_reliable_bits(logits, book)
        found = denoise(logits, book)
        return mined.mask, found.bits, found.counts, decode(logits, book), student.grad

    *whole, gradient = everything()
    with kernels.plain_path():
        *wanted, slope = everything()
    # Decisions near a tie may be rounded either way; float64 has decided what is right above.
    for found, expected in zip(whole, wanted, strict=True):
        assert (found == expected).float().mean() >= 0.9
    room = 4 * ROUNDING[logits.dtype] * slope.float().abs().max() + 1e-7
    assert torch.allclose(gradient.float(), slope.float(), rtol=0, atol=float(room))


def test_a_kernel_is_launched_by_the_public_functions(monkeypatch):
    book = random_book(4, 9, 0)
    logits = torch.randn(1, 9, 3, 4, device=DEVICE)
    launched = []
    for module, name in (
        (mining_kernels, "mine"),
        (mining_kernels, "pseudo"),
        (decode_kernels, "decode"),
        (loss_kernels, "loss_and_slope"),
    ):
        call = getattr(module, name)

        def noted(*arguments, _call=call, _name=name, **options):
            launched.append(_name)
            return _call(*arguments, **options)

        monkeypatch.setattr(module, name, noted)
    mine_reliable_bits(logits, book)
    denoise(logits, book)
    decode(logits, book)
    ECOCLoss(book)(logits, torch.zeros(1, 3, 4, dtype=torch.int64, device=DEVICE))
    assert launched == ["mine", "pseudo", "decode", "loss_and_slope"]


@pytest.mark.parametrize("fault", ["gradient", "raise"])
def test_kernels_that_disagree_or_fail_are_not_taken(monkeypatch, caplog, fault):
    book = random_book(4, 9 if fault == "raise" else 10, 3)
    logits = torch.randn(1, book.length, 3, 4, device=DEVICE)
    original = loss_kernels.loss_and_slope

    def faulty(*arguments, **options):
        if fault == "raise":
            raise RuntimeError("no such instruction")
        sums, slope = original(*arguments, **options)
        return sums, slope * 1.1

    monkeypatch.setattr(trial, "loss_and_slope", faulty)
    before = torch.get_rng_state()
    assert not kernels.usable(logits, book.words)
    assert torch.equal(before, torch.get_rng_state())
    (record,) = caplog.records
    assert ("no such instruction" if fault == "raise" else "gradient") in record.getMessage()
    # It is said once.
    assert not kernels.usable(logits, book.words)
    assert len(caplog.records) == 1
