"""Algorithm 1 for many pixels at once, in plain PyTorch."""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ecocseg.codes.pixels import (
    CPU_PIXELS,
    agreement,
    compute_dtype,
    full_precision,
    pieces,
    soft_signs,
)


class Tables(NamedTuple):
    """For the pair of classes a, b in row a * N + b: bits on which their codewords agree."""

    factor: Tensor
    """1 where they agree, else 0, floating point [N*N,K]."""
    bits: Tensor
    """The same as bytes, eight to a word: int64 [N*N,ceil(K/8)]; bits beyond K are 0."""


class _Unsettled(NamedTuple):
    """Pixels of one piece that need more than one candidate."""

    image: int
    span: slice
    pixels: Tensor
    """Their places in the span, int64 [U]."""
    certainty: Tensor
    """|2p - 1| of their bits, [U,K]."""
    nearness: Tensor
    """With each codeword, larger is nearer: whole numbers, float64 [U,N]."""


def mine(
    logits: Tensor, signed: Tensor, least: float, limit: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Labels int64 [B,H,W], mask bool [B,K,H,W], candidates int64 [B,H,W], confidence [B,H,W].

    `logits` [B,K,H,W], `signed` codewords [N,K]; a set S is accepted when the mean of |2p - 1|
    over it exceeds `least`; at most `limit` candidates.
    """
    dtype = compute_dtype(logits)
    signed = signed.to(dtype)
    tables = agreement_tables(signed)
    batch, length, height, width = logits.shape
    size, device = height * width, logits.device
    labels = torch.empty(batch, size, dtype=torch.int64, device=device)
    mask = torch.empty(batch, length, size, dtype=torch.bool, device=device)
    candidates = torch.ones(batch, size, dtype=torch.int64, device=device)
    confidence = torch.empty(batch, size, dtype=dtype, device=device)
    flat = logits.flatten(2)
    waiting: list[_Unsettled] = []

    def settle() -> None:
        certainty = torch.cat([each.certainty for each in waiting])
        nearness = torch.cat([each.nearness for each in waiting])
        rows, counts = grow(certainty, nearness, tables, least, limit)
        start = 0
        for image, span, pixels, *_ in waiting:
            part = slice(start, start := start + len(pixels))
            mask[image, :, span][:, pixels] = rows[part].T
            candidates[image, span][pixels] = counts[part]
        waiting.clear()

    with full_precision(logits):
        for image, span in pieces(logits):
            soft = soft_signs(flat[image, :, span].to(dtype))
            nearness = agreement(signed, soft)
            labels[image, span] = first_largest(nearness)
            certainty = soft.abs_()
            mean = certainty.mean(0)
            confidence[image, span] = mean * 0.5 + 0.5
            mask[image, :, span] = True
            pixels = (mean <= least).nonzero().squeeze(1)
            if len(pixels):
                rows = (t.index_select(1, pixels).T.contiguous() for t in (certainty, nearness))
                waiting.append(_Unsettled(image, span, pixels, *rows))
            # A few pixels at a time would cost more in calls than in arithmetic.
            if sum(len(each.pixels) for each in waiting) >= CPU_PIXELS:
                settle()
        if waiting:
            settle()
    shape = (batch, height, width)
    return (
        labels.view(shape),
        mask.view(logits.shape),
        candidates.view(shape),
        confidence.view(shape),
    )


def agreement_tables(signed: Tensor) -> Tables:
    """Tables of the signed codewords [N,K]."""
    agree = (signed[:, None] == signed[None]).flatten(0, 1)
    padded = torch.nn.functional.pad(agree.to(torch.uint8), (0, -agree.shape[1] % 8))
    return Tables(agree.to(signed.dtype), padded.contiguous().view(torch.int64))


def first_largest(scores: Tensor) -> Tensor:
    """Row of the largest value of each column, the first of equals: [N,c] -> int64 [c]."""
    rows = len(scores)
    if scores.device.type != "cpu" or rows > 255:
        return scores.argmax(0)
    # On a CPU a maximum of values is vectorised, one that keeps its place is not.
    turn = torch.arange(rows, 0, -1, dtype=torch.uint8)[:, None]
    found = (scores == scores.amax(0)).view(torch.uint8).mul_(turn).amax(0)
    # Of a column of nan no value equals the largest: any row will do.
    return rows - found.clamp_(min=1).long()


def nearest_first(nearness: Tensor) -> Tensor:
    """Classes by falling nearness, ties to the lower index: [U,N] -> int64 [N,U].

    `nearness`: whole numbers up to 2^50, float64, as `agreement` gives them.
    """
    classes = nearness.shape[1]
    room = classes.bit_length()
    if nearness.device.type != "cpu" or room > 12:
        order = torch.sort(nearness, dim=1, descending=True, stable=True).indices
    else:
        # numpy sorts short rows of integers many times as fast as torch; the class lies beneath.
        keys = nearness.neg().long().mul_(1 << room).add_(torch.arange(classes))
        order = torch.from_numpy(np.sort(keys.numpy(), axis=1)).bitwise_and_((1 << room) - 1)
    return order.T.contiguous()


def grow(
    certainty: Tensor, nearness: Tensor, tables: Tables, least: float, limit: int
) -> tuple[Tensor, Tensor]:
    """Reliable bits of U pixels that their first candidate did not settle.

    `certainty` [U,K]: |2p - 1|, whose mean over S has to exceed `least`; it is overwritten.
    `nearness` [U,N]: as `nearest_first` takes it. Returns the mask, bool [U,K], and the number of
    candidates, int64 [U]; a pixel that would need more than `limit` has an empty mask.
    """
    length, classes = certainty.shape[1], nearness.shape[1]
    order = nearest_first(nearness)
    base = order[0] * classes
    bits = tables.bits.index_select(0, base + order[0])
    counts, going = torch.ones_like(base), torch.ones_like(base)
    mask, numbers, pixel = torch.zeros_like(bits), counts, None
    for rank in range(1, limit):
        # A pixel that has ended takes the pair of class 0 with itself, which changes nothing, so
        # that it ends in every round again: to leave it out costs more, until half have ended.
        pair = (base + order[rank]).mul_(going)
        bits &= tables.bits.index_select(0, pair)
        certainty *= tables.factor.index_select(0, pair)
        counts += going
        size = _count_bits(bits)
        # An empty S divides 0 by 0, and nan exceeds nothing.
        ended = (certainty.sum(1) / size > least) | (size == 0)
        going = (~ended).long()
        left = int(going.sum())
        if left == 0:
            break
        if 2 * left < len(base):
            mask, numbers = _put(mask, numbers, pixel, bits, counts)
            stay = going.nonzero().squeeze(1)
            pixel = stay if pixel is None else pixel[stay]
            base, order, going = base[stay], order.index_select(1, stay), going[stay]
            bits, counts = bits.index_select(0, stay), counts[stay]
            certainty = certainty.index_select(0, stay)
    if limit < classes:
        bits = bits * (1 - going)[:, None]
    mask, numbers = _put(mask, numbers, pixel, bits, counts)
    return mask.view(torch.bool)[:, :length], numbers


def _put(
    mask: Tensor, numbers: Tensor, pixel: Tensor | None, bits: Tensor, counts: Tensor
) -> tuple[Tensor, Tensor]:
    """Write what was found for the pixels at `pixel`, None for all of them."""
    if pixel is None:
        return bits.clone(), counts.clone()
    return mask.index_copy_(0, pixel, bits), numbers.index_copy_(0, pixel, counts)


def _count_bits(words: Tensor) -> Tensor:
    """Number of bytes that are 1 in int64 [U,V], int64 [U]."""
    if words.shape[1] > 255:
        # A sum of more could overflow a byte.
        return _count_bits(words[:, :255]) + _count_bits(words[:, 255:])
    lanes = words.sum(1)
    # Add eight lanes of a byte pairwise into four of two bytes, and those by multiplication.
    lanes = (lanes & 0x00FF00FF00FF00FF) + ((lanes >> 8) & 0x00FF00FF00FF00FF)
    return (lanes * 0x0001000100010001 >> 48) & 0xFFFF
