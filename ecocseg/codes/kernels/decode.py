# Triton knows tuples only as (a, b) and a + b, whose types change.
# ruff: noqa: RUF005
# mypy: disallow-untyped-defs=False, disable-error-code=assignment
"""The nearest codeword of each pixel in one pass over the logits (Eq. 6)."""

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from ecocseg.codes.kernels.dialect import jit, lanes
from ecocseg.codes.kernels.layout import OPTIONS, codewords, flatten, on_device
from ecocseg.codes.kernels.parts import (
    GROUP,
    by_class,
    certainty,
    group_size,
    load_group,
    nearest,
    repeat,
    whole_sign,
)

PIXELS, WARPS = 128, 4


@jit
def decode_kernel(
    logits,
    labels,
    size,
    stride_image,
    stride_bit,
    stride_pixel,
    ROWS: tl.constexpr,
    N: tl.constexpr,
    K: tl.constexpr,
    PIXELS: tl.constexpr,
):
    """labels[b,p] = argmax over n of c^_n . tanh(z / 2)."""
    image = tl.program_id(1).to(tl.int64)
    pixel = tl.program_id(0) * PIXELS + lanes(PIXELS)
    inside = pixel < size
    source = logits + image * stride_image + pixel * stride_pixel
    totals = repeat(tl.where(inside, 0, 0), N)
    for start in tl.static_range(0, K, GROUP):
        values = ()
        group = load_group(source, inside, stride_bit, start, group_size(start, K))
        for i in tl.static_range(group_size(start, K)):
            values = values + (whole_sign(certainty(group[i]), group[i]),)
        totals = by_class(totals, values, ROWS, N, start, group_size(start, K))
    _, label = nearest(totals, N)
    tl.store(labels + image * size + pixel, label.to(tl.int64), mask=inside)


def decode(logits: Tensor, words: Sequence[int]) -> Tensor:
    """Class of the nearest codeword, ties to the lower index: [B,K,H,W] -> int64 [B,H,W].

    `logits` float32, bfloat16 or float16 for which `usable` holds; computed in float32.
    """
    batch, length, height, width = logits.shape
    rows = codewords(words, length)
    labels = torch.empty(batch, height, width, dtype=torch.int64, device=logits.device)
    if not labels.numel():
        return labels
    source = flatten(logits)
    with on_device(logits):
        decode_kernel[(triton.cdiv(height * width, PIXELS), batch)](
            source.tensor,
            labels,
            height * width,
            *source.strides,
            ROWS=rows,
            N=len(rows),
            K=length,
            PIXELS=PIXELS,
            num_warps=WARPS,
            **OPTIONS,
        )
    return labels
