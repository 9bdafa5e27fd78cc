# Triton knows tuples only as (a, b) and a + b, whose types change.
# ruff: noqa: RUF005
# mypy: disallow-untyped-defs=False, disable-error-code=assignment
"""The loss on bits and its gradient in one pass over the logits (Eq. 8 to 12)."""

import math
from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from ecocseg.codes.bit_loss import slope_like
from ecocseg.codes.kernels.dialect import add_up, jit, lanes, opaque
from ecocseg.codes.kernels.layout import (
    OPTIONS,
    codeword_table,
    codewords,
    flatten,
    on_device,
)
from ecocseg.codes.kernels.parts import (
    GROUP,
    bit_of,
    by_bit,
    by_class,
    equals_row,
    group_size,
    load_group,
    log_1_plus,
    repeat,
    set_bit,
)
from ecocseg.types import IGNORE

PIXELS, WARPS = 128, 4
_SCALED, _SCALE_PROGRAMS = 1024, 2048


@jit
def loss_kernel(
    logits,
    targets,
    weight,
    words,
    partial,
    slope,
    size,
    stride_image,
    stride_bit,
    stride_pixel,
    target_image,
    target_bit,
    target_pixel,
    weight_image,
    weight_pixel,
    slope_image,
    slope_bit,
    slope_pixel,
    distance_weight,
    contrast_weight,
    sharpness,
    slope_scale,
    ignore,
    ROWS: tl.constexpr,
    N: tl.constexpr,
    K: tl.constexpr,
    BITS: tl.constexpr,
    WEIGHTED: tl.constexpr,
    EXTRA: tl.constexpr,
    SLOPE: tl.constexpr,
    ROOT: tl.constexpr,
    PIXELS: tl.constexpr,
):
    """Sums of the three terms over PIXELS pixels, and the gradient of the total's sum.

    `sharpness` is 1 / temperature, `ROOT` the square root of K. BITS: targets are bits, not labels.
    EXTRA: a target that is no codeword comes in addition to the codewords in the denominator.
    """
    image = tl.program_id(1).to(tl.int64)
    pixel = tl.program_id(0) * PIXELS + lanes(PIXELS)
    inside = pixel < size
    source = logits + image * stride_image + pixel * stride_pixel
    target = targets + image * target_image + pixel * target_pixel
    if WEIGHTED:
        place = weight + image * weight_image + pixel * weight_pixel
        w = tl.load(place, mask=inside, other=0).to(tl.float32)
    else:
        w = inside.to(tl.float32)

    # The target as words: bits 0..31 and 32..63.
    if BITS:
        low = tl.where(inside, 0, 0)
        high = low
        for k in tl.static_range(K):
            bit = tl.load(target + k * target_bit, mask=inside, other=0) != 0
            low, high = set_bit(low, high, bit, k)
        low = opaque(low)
        high = opaque(high)
    else:
        label = tl.load(target, mask=inside, other=ignore)
        w = tl.where(label == ignore, 0.0, w)
        known = (label >= 0) & (label < N)
        row = words + 2 * tl.where(known, label, 0)
        low = tl.load(row)
        high = tl.load(row + 1)
    # Pixels that do not count must not leak, not even as 0 * nan.
    counts = inside & (w > 0)

    zero = tl.where(inside, 0.0, 0.0)
    totals = repeat(zero, N)
    squares = zero
    towards = zero
    excess = zero
    # The product of all 1 + exp(-|z|), less 1: one logarithm for the K bits, exact when they are
    # saturated. It stays below 2^64.
    product = zero
    for start in tl.static_range(0, K, GROUP):
        values = load_group(source, counts, stride_bit, start, group_size(start, K))
        for i in tl.static_range(group_size(start, K)):
            z = values[i]
            x = tl.where(bit_of(low, high, start + i), z, -z)
            squares += z * z
            towards += x
            excess += tl.maximum(-x, 0.0)
            decay = tl.exp(-tl.abs(z))
            product = product + decay + product * decay
        totals = by_class(totals, values, ROWS, N, start, group_size(start, K))

    # Vectors too short to have a direction: cosine 0, no pull.
    inverse = tl.where(squares > 1e-24, tl.rsqrt(tl.maximum(squares, 1e-24)), 0.0)
    scale = inverse / ROOT
    top = towards
    for n in tl.static_range(N):
        top = tl.maximum(top, totals[n])
    steep = scale * sharpness
    shares = ()
    denominator = zero
    aligned = zero
    for n in tl.static_range(N):
        share = tl.exp((totals[n] - top) * steep)
        denominator += share
        aligned += share * totals[n]
        shares = shares + (share,)
    extra = zero
    if BITS and EXTRA:
        among = equals_row(low, high, ROWS, N, K)
        extra = tl.where(among, 0.0, tl.exp((towards - top) * steep))
        denominator += extra

    cosine = towards * scale
    bce = (excess + log_1_plus(product)) * w / K
    distance = (1 - cosine) * w
    contrast = (tl.log(denominator) + (top - towards) * steep) * w
    if not BITS:
        # A label that no class has would read past the table: it must not pass unnoticed.
        bce = tl.where(inside & (label != ignore) & ~known, float("nan"), bce)
    sums = partial + 3 * (image * tl.num_programs(0) + tl.program_id(0))
    tl.store(sums, add_up(bce))
    tl.store(sums + 1, add_up(distance))
    tl.store(sums + 2, add_up(contrast))

    if SLOPE:
        # d cos_n / dz = c^_n / (|z| sqrt K) - cos_n z / |z|^2; each term is a function of cosines.
        low = opaque(low)
        high = opaque(high)
        w = w * slope_scale
        pull = w * contrast_weight * sharpness
        ratio = pull / denominator
        of_target = ratio * extra - pull - w * distance_weight
        along = (ratio * aligned * scale + of_target * cosine) * inverse * inverse
        each = ratio * scale
        pulls = ()
        for n in tl.static_range(N):
            pulls = pulls + (shares[n] * each,)
        pulls = by_bit(pulls, ROWS, N, K)
        # The logits are read again, from the cache, and their addresses are computed again: kept,
        # either would take the registers of other lanes.
        pixel = opaque(pixel)
        source = logits + image * stride_image + pixel * stride_pixel
        onto = slope + image * slope_image + pixel * slope_pixel
        of_bit = w / K
        of_target = of_target * scale
        for start in tl.static_range(0, K, GROUP):
            values = load_group(source, counts, stride_bit, start, group_size(start, K))
            for i in tl.static_range(group_size(start, K)):
                z = values[i]
                bit = bit_of(low, high, start + i)
                decay = tl.exp(-tl.abs(z))
                wrong = tl.where((z < 0) == bit, 1.0, decay) / (1 + decay)
                push = of_target - of_bit * wrong
                value = pulls[start + i] + tl.where(bit, push, -push) - z * along
                if slope.dtype.element_ty == tl.float16:
                    value = tl.minimum(tl.maximum(value, -65504.0), 65504.0)
                value = value.to(slope.dtype.element_ty)
                tl.store(onto + (start + i) * slope_bit, value, mask=inside)


@jit
def scale_kernel(values, factor, size, BLOCK: tl.constexpr):
    """values *= factor, or nothing when the factor is 1."""
    by = tl.load(factor).to(tl.float32)
    if by != 1:
        step = tl.num_programs(0).to(tl.int64) * BLOCK
        start = tl.program_id(0).to(tl.int64) * BLOCK
        while start < size:
            place = start + lanes(BLOCK)
            value = tl.load(values + place, mask=place < size).to(tl.float32) * by
            tl.store(values + place, value.to(values.dtype.element_ty), mask=place < size)
            start += step


def loss_and_slope(
    logits: Tensor,
    targets: Tensor,
    weight: Tensor | None,
    words: Sequence[int],
    *,
    distance_weight: float,
    contrast_weight: float,
    temperature: float,
    extra_positive: bool,
    want_slope: bool,
    slope_scale: float = 1.0,
) -> tuple[Tensor, Tensor | None]:
    """Weighted sums of the terms over all pixels, and the gradient of the total's sum.

    `logits` [B,K,H,W] for which `usable` holds; `targets` integer labels [B,H,W] (255 counts
    as weight 0, any other value outside 0..N-1 makes the sums nan) or bits [B,K,H,W] (bool or
    integer); `weight` [B,H,W] or None (ones). Gives float64 [3] (bce, distance, contrast) and,
    with `want_slope`, `slope_scale` times the gradient of bce + distance_weight * distance +
    contrast_weight * contrast, in the type and layout of the logits. Computed in float32; the same
    on every call. Nothing waits for the device.
    """
    batch, length, height, width = logits.shape
    rows = codewords(words, length)
    size, device = height * width, logits.device
    slope = slope_like(logits) if want_slope else None
    if not logits.numel():
        return torch.zeros(3, dtype=torch.float64, device=device), slope
    bits = targets.ndim == 4
    if targets.dtype == torch.bool:
        targets = targets.view(torch.uint8)
    grid = (triton.cdiv(size, PIXELS), batch)
    partial = torch.empty(batch * grid[0], 3, dtype=torch.float32, device=device)
    z, t = flatten(logits), flatten(targets)
    # What a kernel does not touch may be any tensor.
    w = flatten(weight) if weight is not None else flatten(logits[:, 0])
    onto = flatten(slope) if slope is not None else z
    with on_device(logits):
        loss_kernel[grid](
            z.tensor,
            t.tensor,
            w.tensor,
            codeword_table(rows, device),
            partial,
            onto.tensor,
            size,
            *z.strides,
            *(t.strides if bits else (t.strides[0], 0, t.strides[1])),
            *w.strides,
            *onto.strides,
            float(distance_weight),
            float(contrast_weight),
            1.0 / temperature,
            float(slope_scale),
            IGNORE,
            ROWS=rows,
            N=len(rows),
            K=length,
            BITS=bits,
            WEIGHTED=weight is not None,
            EXTRA=extra_positive,
            SLOPE=want_slope,
            ROOT=math.sqrt(length),
            PIXELS=PIXELS,
            num_warps=WARPS,
            **OPTIONS,
        )
    return partial.sum(0, dtype=torch.float64), slope


def scale_(slope: Tensor, factor: Tensor) -> Tensor:
    """Multiply a dense tensor in place by a scalar on its device; nothing is moved when it is 1.

    Nothing waits for the device.
    """
    if slope.numel():
        grid = (min(triton.cdiv(slope.numel(), _SCALED), _SCALE_PROGRAMS),)
        with on_device(slope):
            scale_kernel[grid](slope, factor, slope.numel(), BLOCK=_SCALED, **OPTIONS)
    return slope
