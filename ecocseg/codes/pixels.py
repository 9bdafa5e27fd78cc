"""Work on pixels in pieces: [K,c] slices of an image that stay in the processor's cache."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

from ecocseg.codes.codebook import Codebook

# Measured with K = 40: smaller pieces cost more calls, larger ones leave the cache. A GPU wants
# fewer of them.
CPU_PIXELS = 1 << 14
DEVICE_PIXELS = 1 << 18


def check_logits(logits: Tensor, book: Codebook) -> None:
    """Raise ValueError unless `logits` is floating point [B,K,H,W] with the codebook's K."""
    if logits.ndim != 4 or logits.shape[1] != book.length or not logits.is_floating_point():
        raise ValueError(
            f"logits: got {logits.dtype} {list(logits.shape)}, allowed floating point "
            f"[B,K,H,W] with K = {book.length}, the length of the codebook; give the head as many "
            "channels as the codebook has bits"
        )


def compute_dtype(tensor: Tensor) -> torch.dtype:
    """The type to compute in: float64 stays, everything else becomes float32."""
    return torch.float64 if tensor.dtype == torch.float64 else torch.float32


def full_precision(tensor: Tensor) -> AbstractContextManager[None]:
    """Context without autocast, which would turn the matrix products inside into half precision."""
    kind = tensor.device.type
    # "meta", where sizes are worked out, has none.
    if not torch.amp.is_autocast_available(kind):
        return nullcontext()
    return torch.autocast(kind, enabled=False)


def pieces(tensor: Tensor, pixels: int | None = None) -> Iterator[tuple[int, slice]]:
    """(image, pixels) of each piece of a [B,*,H,W] tensor whose pixels are counted row by row."""
    if pixels is None:
        pixels = CPU_PIXELS if tensor.device.type == "cpu" else DEVICE_PIXELS
    total = tensor.shape[-2] * tensor.shape[-1]
    for image in range(tensor.shape[0]):
        for start in range(0, total, pixels):
            yield image, slice(start, min(start + pixels, total))


def codewords_of(labels: Tensor, table: Tensor) -> Tensor:
    """Row of `table` [N,K] for each of c labels, as [K,c]."""
    # `gather` with an expanded index: six times as fast as indexing on a CPU.
    return table.T.gather(1, labels.expand(table.shape[1], -1))


def agreement(signed: Tensor, soft: Tensor) -> Tensor:
    """c^_n . s in one unit of fixed point, exact whatever the order of summation: float64 [N,c].

    `signed` codewords [N,K], `soft` what `soft_signs` gives, [K,c]. A matrix product in floating
    point rounds by the order in which it adds, which would break ties; whole numbers do not round.
    """
    unit = 2.0 ** (50 - len(soft).bit_length())
    if soft.dtype == torch.float64:
        return signed.double() @ (soft * unit).round_()
    # Those of float32 are multiples of 2^-23 already.
    return (signed.double() * unit) @ soft.double()


def soft_signs(logits: Tensor) -> Tensor:
    """tanh(z / 2) = 2p - 1, exactly odd, at half the time that tanh takes on a CPU."""
    return logits.abs().sigmoid_().mul_(2).sub_(1).copysign_(logits)
