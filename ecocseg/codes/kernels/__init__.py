"""Triton kernels for decoding, mining and the loss on a GPU, and when to take them.

Each reads the logits once, keeps a pixel in a lane's registers and waits for nothing. This module
imports no Triton, which not every installation has; `loss`, `mining` and `decode` do.
"""

import functools
import importlib.util
import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor

from ecocseg.codes.kernels.layout import MOST_BITS, MOST_CLASSES

_TYPES = (torch.float32, torch.bfloat16, torch.float16)
_wanted: ContextVar[bool] = ContextVar("wanted", default=True)
_log = logging.getLogger(__name__)


def usable(logits: Tensor, words: Sequence[int]) -> bool:
    """Whether the kernels take logits [B,K,H,W] with the codewords `words` (`Codebook.words`).

    They do on NVIDIA's GPUs with Triton for K <= 64, N <= 128 and up to 32 bits a number; with
    TRITON_INTERPRET=1 (Triton's interpreter, for tests) on the CPU as well. The first time that a
    codebook meets a device and a type, they have to agree with the plain path on a small batch;
    if they do not, a warning says so and the plain path is taken. ECOCSEG_KERNELS=0 in the
    environment turns them off.
    """
    return (
        (logits.is_cuda or os.environ.get("TRITON_INTERPRET") == "1")
        and logits.dtype in _TYPES
        and logits.shape[1] <= MOST_BITS
        and 0 < len(words) <= MOST_CLASSES
        # A pixel's place in its image is counted in 32 bits.
        and logits.shape[1:].numel() < 2**31
        and _wanted.get()
        and os.environ.get("ECOCSEG_KERNELS") != "0"
        and _installed()
        and _agree(tuple(words), logits.shape[1], logits.dtype, logits.device)
    )


@contextmanager
def plain_path() -> Iterator[None]:
    """Within it no kernel is taken."""
    token = _wanted.set(False)
    try:
        yield
    finally:
        _wanted.reset(token)


@functools.cache
def _installed() -> bool:
    # The kernels hold a line of PTX: NVIDIA's GPUs only.
    return torch.version.hip is None and importlib.util.find_spec("triton") is not None


@functools.cache
def _agree(words: tuple[int, ...], length: int, dtype: torch.dtype, device: torch.device) -> bool:
    try:
        from ecocseg.codes.kernels.trial import difference

        found = difference(words, length, dtype, device)
    # Compilers and drivers fail in ways of their own; training goes on without the kernels.
    except Exception as error:
        found = f"{type(error).__name__}: {error}"
    if found is not None:
        _log.warning(
            "the GPU kernels are not used for %s on %s: %s; plain PyTorch, which is slower, takes "
            "their place (ECOCSEG_KERNELS=0 turns them off without this check)",
            dtype, device, found,
        )  # fmt: skip
    return found is None
