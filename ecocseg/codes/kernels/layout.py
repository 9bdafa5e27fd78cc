"""Where kernels find things: strides of a flattened image, codewords as integers and as a table."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

# A word of 64 bits holds a codeword, and N sums of a pixel must fit a lane's 255 registers.
MOST_BITS, MOST_CLASSES = 64, 128

OPTIONS = {"enable_fp_fusion": True}
"""Passed to every launch: Triton 3.10 changes the default."""


def codewords(words: Sequence[int], length: int) -> tuple[int, ...]:
    """`Codebook.words` as integers of `length` bits, none of them negative."""
    return tuple(word & ((1 << length) - 1) for word in words)


@lru_cache(maxsize=64)
def codeword_table(rows: tuple[int, ...], device: torch.device) -> Tensor:
    """Codewords as int32 [N,2] (bits 0..31, bits 32..63) on a device; copied there once."""
    words = torch.tensor([row - (row >> 63 << 64) for row in rows])
    return words.view(torch.int32).view(-1, 2).to(device)


class Flat(NamedTuple):
    """A [B,*,H,W] tensor as a kernel reads it: the pixels of an image in one row."""

    tensor: Tensor
    strides: tuple[int, ...]
    """Of image, channel (where there is one) and pixel, in elements."""


def flatten(tensor: Tensor) -> Flat:
    """Strides of any layout in which a pixel's neighbour is a fixed step away; else of a copy."""
    flat = tensor.flatten(-2)
    return Flat(flat, flat.stride())


def on_device(tensor: Tensor) -> AbstractContextManager[object]:
    """Context in which kernels start on the tensor's device."""
    return torch.cuda.device(tensor.device) if tensor.is_cuda else nullcontext()
