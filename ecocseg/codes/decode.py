"""From bits to classes: the soft Hamming distance and the nearest codeword (Eq. 5, 6)."""

from collections.abc import Sequence

import torch
from torch import Tensor

from ecocseg.codes import kernels
from ecocseg.codes.candidates import first_largest
from ecocseg.codes.codebook import Codebook
from ecocseg.codes.pixels import (
    agreement,
    check_logits,
    compute_dtype,
    full_precision,
    pieces,
    soft_signs,
)


def soft_hamming_distance(logits: Tensor, book: Codebook) -> Tensor:
    """Distance d(p, c_n) = sum_k |p_k - c_nk| of each pixel to each codeword (Eq. 5).

    `logits` [B,K,H,W] -> [B,N,H,W] in 0..K, float32 (float64 for float64 logits); differentiable.
    Codewords at the same distance get the same value, so that `argmin(1)` takes the lower class as
    `decode` does; it may differ from `decode` where two distances differ by less than their
    rounding (about 1e-7 K in float32).
    Raises ValueError when the logits do not fit the codebook.
    """
    check_logits(logits, book)
    dtype = compute_dtype(logits)
    signed = book.place(logits.device, torch.float64)
    # To add and take away this number rounds to a grid on which float64 sums of K values are exact
    # in any order (as `agreement` has it), and leaves the gradient alone.
    anchor = 1.5 * 2.0 ** (book.length.bit_length() + 1)
    with full_precision(logits):
        # With s = 2p - 1 = tanh(z / 2) the distance is (K - s . c^) / 2: affine, one matrix
        # product. tanh is exactly odd, which keeps classes that tie in theory tied here.
        soft = torch.tanh(logits.to(dtype) / 2).double() + anchor - anchor
        agreeing = torch.matmul(signed, soft.flatten(2)).unflatten(2, logits.shape[2:])
        return ((book.length - agreeing) / 2).to(dtype)


@torch.no_grad()
def decode(logits: Tensor, book: Codebook) -> Tensor:
    """Class of the nearest codeword, ties to the lower index: [B,K,H,W] -> int64 [B,H,W] (Eq. 6).

    Raises ValueError when the logits do not fit the codebook.
    """
    check_logits(logits, book)
    return _nearest(logits, book.place(logits.device, compute_dtype(logits)), book.words)


# An operator of our own: torch.compile takes it as a whole, and leaves the choice of kernel to it.
@torch.library.custom_op("ecocseg::nearest", mutates_args=())
def _nearest(logits: Tensor, signed: Tensor, words: Sequence[int]) -> Tensor:
    if kernels.usable(logits, words):
        from ecocseg.codes.kernels import decode as kernel

        return kernel.decode(logits, words)
    batch, _, height, width = logits.shape
    labels = torch.empty(batch, height * width, dtype=torch.int64, device=logits.device)
    flat = logits.flatten(2)
    with full_precision(logits):
        for image, span in pieces(logits):
            soft = soft_signs(flat[image, :, span].to(signed.dtype))
            labels[image, span] = first_largest(agreement(signed, soft))
    return labels.view(batch, height, width)


@_nearest.register_fake
def _(logits: Tensor, signed: Tensor, words: Sequence[int]) -> Tensor:
    return logits.new_empty((logits.shape[0], *logits.shape[2:]), dtype=torch.int64)
