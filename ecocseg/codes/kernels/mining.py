# Triton knows tuples only as (a, b) and a + b, whose types change.
# ruff: noqa: RUF005
# mypy: disallow-untyped-defs=False, disable-error-code=assignment
"""Reliable bit mining (Alg. 1) and hybrid labels (Eq. 7) in one pass over the logits."""

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from ecocseg.codes.kernels.dialect import add_up, any_of, jit, lanes, opaque
from ecocseg.codes.kernels.layout import OPTIONS, codeword_table, codewords, flatten, on_device
from ecocseg.codes.kernels.parts import (
    GROUP,
    bit_of,
    by_class,
    certainty,
    count_bits,
    group_size,
    load_group,
    nearest,
    not_taken,
    repeat,
    set_bit,
    whole_sign,
    word,
)

# Few pixels: a program's loop ends with its last pixel's.
PIXELS, WARPS = 64, 2


@jit
def mining_kernel(
    logits,
    words,
    labels,
    bits,
    candidates,
    confidence,
    partial,
    size,
    stride_image,
    stride_bit,
    stride_pixel,
    bits_image,
    bits_bit,
    bits_pixel,
    least,
    limit,
    ROWS: tl.constexpr,
    N: tl.constexpr,
    K: tl.constexpr,
    HYBRID: tl.constexpr,
    PIXELS: tl.constexpr,
):
    """Algorithm 1 for PIXELS pixels; `bits` gets the mask M, with HYBRID the hybrid label.

    `least`: what the mean of |2p - 1| over S must exceed. With HYBRID, `partial` gets the number of
    bits in which code-wise and bit-wise labels differ, of those in M, and of all bits in M.
    """
    image = tl.program_id(1).to(tl.int64)
    pixel = tl.program_id(0) * PIXELS + lanes(PIXELS)
    inside = pixel < size
    source = logits + image * stride_image + pixel * stride_pixel
    zero = tl.where(inside, 0.0, 0.0)
    none = tl.where(inside, 0, 0)
    totals = repeat(none, N)
    certain = ()
    mean = zero
    sign_low = none
    sign_high = none
    for start in tl.static_range(0, K, GROUP):
        values = ()
        group = load_group(source, inside, stride_bit, start, group_size(start, K))
        for i in tl.static_range(group_size(start, K)):
            sure = certainty(group[i])
            values = values + (whole_sign(sure, group[i]),)
            certain = certain + (sure,)
            mean += sure
            sign_low, sign_high = set_bit(sign_low, sign_high, group[i] >= 0, start + i)
        totals = by_class(totals, values, ROWS, N, start, group_size(start, K))
    sign_low = opaque(sign_low)
    sign_high = opaque(sign_high)
    best, label = nearest(totals, N)
    mean = tl.div_rn(mean, zero + K)
    first = words + 2 * label
    first_low = tl.load(first)
    first_high = tl.load(first + 1)

    going = inside & (mean <= least)
    # S of the candidates so far, and M: all bits for a pixel whose first candidate settles it.
    low = none | word((1 << K) - 1, 0)
    high = none | word((1 << K) - 1, 1)
    mask_low = tl.where(going, 0, low)
    mask_high = tl.where(going, 0, high)
    count = none + 1
    latest = label
    taken_0 = none
    taken_1 = none
    taken_2 = none
    taken_3 = none
    rank = 1
    again = any_of(going) & (limit > 1)
    while again:
        rank += 1
        flag = 1 << (latest & 31)
        quarter = latest >> 5
        taken_0 |= tl.where(quarter == 0, flag, 0)
        taken_1 |= tl.where(quarter == 1, flag, 0)
        taken_2 |= tl.where(quarter == 2, flag, 0)
        taken_3 |= tl.where(quarter == 3, flag, 0)
        # Less than any sum of 64 signs.
        best = none - 2147483647
        latest = none
        for n in tl.static_range(N):
            free = not_taken(taken_0, taken_1, taken_2, taken_3, n)
            better = free & (totals[n] > best)
            best = tl.where(better, totals[n], best)
            latest = tl.where(better, n, latest)
        other = words + 2 * latest
        low &= ~(first_low ^ tl.load(other))
        high &= ~(first_high ^ tl.load(other + 1))
        total = zero
        for k in tl.static_range(K):
            total += tl.where(bit_of(low, high, k), certain[k], 0.0)
        members = count_bits(low) + count_bits(high)
        passed = tl.div_rn(total, tl.maximum(members, 1).to(tl.float32)) > least
        ended = going & (passed | (members == 0) | (rank == N))
        mask_low = tl.where(ended, low, mask_low)
        mask_high = tl.where(ended, high, mask_high)
        count = tl.where(going, rank, count)
        going = going & ~ended
        again = any_of(going) & (rank < limit)

    place = image * size + pixel
    tl.store(labels + place, label.to(tl.int64), mask=inside)
    tl.store(candidates + place, count.to(tl.int64), mask=inside)
    tl.store(confidence + place, mean * 0.5 + 0.5, mask=inside)
    if HYBRID:
        differ_low = first_low ^ sign_low
        differ_high = first_high ^ sign_high
        right_low = differ_low & mask_low
        right_high = differ_high & mask_high
        sums = partial + 3 * (image * tl.num_programs(0) + tl.program_id(0))
        differ = tl.where(inside, count_bits(differ_low) + count_bits(differ_high), 0)
        right = tl.where(inside, count_bits(right_low) + count_bits(right_high), 0)
        members = tl.where(inside, count_bits(mask_low) + count_bits(mask_high), 0)
        tl.store(sums, add_up(differ))
        tl.store(sums + 1, add_up(right))
        tl.store(sums + 2, add_up(members))
        mask_low = sign_low ^ right_low
        mask_high = sign_high ^ right_high
    onto = bits + image * bits_image + pixel * bits_pixel
    for k in tl.static_range(K):
        value = bit_of(mask_low, mask_high, k).to(tl.uint8)
        tl.store(onto + k * bits_bit, value, mask=inside)


def mine(
    logits: Tensor, words: Sequence[int], least: float, limit: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Reliable bit mining of `logits` [B,K,H,W] for which `usable` holds; `words`: codewords.

    `least`: what the mean of |2p - 1| over S must exceed, 2T - 1; `limit`: candidates at most,
    1..N. Gives labels int64 [B,H,W], M bool [B,K,H,W], candidates int64 [B,H,W] and confidence
    float32 [B,H,W], as `mine_reliable_bits`.
    """
    labels, mask, candidates, confidence, _ = _launch(logits, words, least, limit, hybrid=False)
    return labels, mask, candidates, confidence


def pseudo(
    logits: Tensor, words: Sequence[int], least: float, limit: int
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Hybrid labels in the pass that mines, without M in memory; arguments as `mine`.

    Gives hybrid bits bool [B,K,H,W], labels int64 [B,H,W], candidates int64 [B,H,W], confidence
    float32 [B,H,W] and counts int64 [3]: bits in which code-wise and bit-wise labels differ, those
    of them in M (corrected), all bits in M.
    """
    labels, bits, candidates, confidence, counts = _launch(logits, words, least, limit, hybrid=True)
    return bits, labels, candidates, confidence, counts


def _launch(
    logits: Tensor, words: Sequence[int], least: float, limit: int, *, hybrid: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    batch, length, height, width = logits.shape
    rows = codewords(words, length)
    size, device = height * width, logits.device
    labels = torch.empty(batch, height, width, dtype=torch.int64, device=device)
    candidates = torch.empty_like(labels)
    confidence = torch.empty_like(labels, dtype=torch.float32)
    bits = torch.empty(logits.shape, dtype=torch.bool, device=device)
    grid = (triton.cdiv(size, PIXELS), batch)
    partial = torch.empty(batch * grid[0], 3, dtype=torch.int32, device=device)
    if logits.numel():
        z, onto = flatten(logits), flatten(bits.view(torch.uint8))
        with on_device(logits):
            mining_kernel[grid](
                z.tensor,
                codeword_table(rows, device),
                labels,
                onto.tensor,
                candidates,
                confidence,
                partial,
                size,
                *z.strides,
                *onto.strides,
                float(least),
                limit,
                ROWS=rows,
                N=len(rows),
                K=length,
                HYBRID=hybrid,
                PIXELS=PIXELS,
                num_warps=WARPS,
                **OPTIONS,
            )
    return labels, bits, candidates, confidence, partial.sum(0)
