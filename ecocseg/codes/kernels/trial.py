"""A small batch through the kernels and through plain PyTorch, before the kernels are trusted."""

import torch
from torch import Tensor

from ecocseg.codes import bit_loss, candidates
from ecocseg.codes.kernels.decode import decode
from ecocseg.codes.kernels.loss import loss_and_slope
from ecocseg.codes.kernels.mining import mine

# Divisible by 16, as real images are: Triton compiles other sizes in another way. The last block of
# pixels is not full.
_SHAPE = (2, 16, 33)
_LEAST = 0.9
_SETTING = bit_loss.Setting(5.0, 2.0, 0.5, True)


def difference(
    words: tuple[int, ...], length: int, dtype: torch.dtype, device: torch.device
) -> str | None:
    """What differs for logits of K = `length` on `device`, None when nothing does.

    Sums may differ by rounding; of the pixels one in a hundred may, since mining and decoding
    compare numbers that two orders of addition round differently.
    """
    batch, height, width = _SHAPE
    rows = torch.tensor(words, device=device)[:, None] >> torch.arange(length, device=device)
    signed = (rows & 1).float() * 2 - 1
    # The same everywhere and every time, and other random numbers stay what they are.
    random = torch.Generator(device).manual_seed(0)
    labels = torch.randint(len(words), (batch, height, width), device=device, generator=random)
    noise = torch.randn(batch, length, height, width, device=device, generator=random) * 3
    logits = (signed[labels].permute(0, 3, 1, 2) * 2 + noise).to(dtype).contiguous()

    plain = candidates.mine(logits, signed, _LEAST, len(words))
    found = mine(logits, words, _LEAST, len(words))
    same = torch.stack([_equal(a, b, labels.shape) for a, b in zip(plain, found, strict=True)])
    if _too_few(same.all(0)):
        return "mining differs"
    if _too_few(decode(logits, words) == plain[0]):
        return "decoding differs"
    some = torch.rand(labels.shape, device=device, generator=random)
    for targets, weight in ((labels, None), (labels, some), (plain[1], some)):
        wanted, slope = bit_loss.loss_and_slope(logits, targets, weight, signed, _SETTING, True)
        sums, other = loss_and_slope(
            logits,
            targets,
            weight,
            words,
            **_SETTING._asdict(),
            want_slope=True,
        )
        if not torch.allclose(sums, wanted, rtol=1e-4):
            return f"the loss differs: {sums.tolist()} instead of {wanted.tolist()}"
        assert slope is not None
        assert other is not None
        # Two roundings of one number to the type, and of the sums that lead to it.
        room = float(slope.abs().max()) * max(torch.finfo(dtype).eps, 1e-5)
        if not torch.allclose(other.float(), slope.float(), rtol=0, atol=2 * room):
            return "the gradient of the loss differs"
    return None


def _equal(first: Tensor, second: Tensor, shape: torch.Size) -> Tensor:
    """Whether each pixel is the same, up to rounding, bool [B,H,W]."""
    same = torch.isclose(first.float(), second.float(), rtol=1e-4)
    return same if same.shape == shape else same.all(1)


def _too_few(same: Tensor) -> bool:
    return float(same.float().mean()) < 0.99
