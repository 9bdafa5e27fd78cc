"""How right mined labels are where the truth is known: candidates, corrections, thresholds.

The candidate sets of Algorithm 1 do not depend on T, only where they stop growing does: here they
grow once and are read off for many T. `mine_reliable_bits` is what training uses.
"""

import torch
from torch import Tensor

from ecocseg.codes.candidates import first_largest
from ecocseg.codes.codebook import Codebook
from ecocseg.codes.pixels import (
    agreement,
    check_logits,
    codewords_of,
    compute_dtype,
    full_precision,
    soft_signs,
)
from ecocseg.metrics import tally

THRESHOLDS = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 1.0)
"""T of the sweep: 0.5 gives code-wise labels, 1 bit-wise ones (Fig. 6)."""


@torch.no_grad()
def label_statistics(
    logits: Tensor,
    labels: Tensor,
    book: Codebook,
    threshold: float = 0.95,
    max_candidates: int | None = None,
) -> dict[str, Tensor]:
    """Counts, int64, of what mining makes of `logits` [B,K,H,W] with true classes `labels` [B,H,W].

    candidates [N]: pixels that end with 1, 2, ... candidates. Bits: bits (all), difference
    (code-wise and bit-wise label differ), correction (those in M), right_correction (of these, the
    code-wise bit is the true one); Fig. 4. For each T of `THRESHOLDS`: sweep_right (right bits of
    the hybrid label) and sweep_mask (bits in M), both [T]; Fig. 6. All add up over batches. No
    pixel is ignored: `labels` are below N. Takes 20 times the memory of the logits. Raises
    ValueError when the logits do not fit the codebook.
    """
    check_logits(logits, book)
    z = logits.to(compute_dtype(logits)).transpose(0, 1).flatten(1)
    signed = book.place(z.device, z.dtype)
    soft = soft_signs(z)
    with full_precision(z):
        nearness = agreement(signed, soft)
    target = codewords_of(labels.flatten(), signed)
    code = codewords_of(first_largest(nearness), signed)
    differ = code != torch.where(z >= 0, 1, -1)
    right = differ & (code == target)
    bit_right = ((z >= 0) == (target > 0)).count_nonzero()

    tried = torch.tensor([*THRESHOLDS, threshold], dtype=torch.float64)
    # As in the mining: rounded, for 2 * 0.95 - 1 falls short of 0.9 and ties would pass.
    least = (2 * tried - 1).mul(1e12).round().div(1e12).to(z.device, z.dtype)
    per_bit = torch.stack(
        [torch.ones_like(soft), differ.to(z.dtype), right.to(z.dtype), soft.abs_()]
    )
    limit = min(max_candidates or book.num_classes, book.num_classes)
    sums, candidates = _grow(per_bit, nearness, signed, least, limit)
    mask, correction, right_correction = sums.long().unbind(1)
    return {
        "candidates": tally(candidates - 1, book.num_classes),
        "bits": torch.tensor(z.numel(), device=z.device),
        "difference": differ.count_nonzero(),
        "correction": correction[-1],
        "right_correction": right_correction[-1],
        # A correction turns a wrong bit right, or the other way round.
        "sweep_right": bit_right + (2 * right_correction - correction)[:-1],
        "sweep_mask": mask[:-1],
    }


def _grow(
    per_bit: Tensor, nearness: Tensor, signed: Tensor, least: Tensor, limit: int
) -> tuple[Tensor, Tensor]:
    """Algorithm 1 for several T at once; `per_bit` and `nearness` are overwritten.

    `per_bit` [4,K,P]: ones, two more to be added up over M, and |2p - 1|, whose mean over S is to
    exceed `least` [T]. `nearness` [N,P]: larger is nearer. Returns the first three added up over
    the M of all pixels, float64 [T,3], and the number of candidates under the last T, int64 [P].
    """
    classes, pixels = nearness.shape
    totals = torch.zeros(len(least), 3, dtype=torch.float64, device=nearness.device)
    candidates = torch.full((pixels,), limit, device=nearness.device)
    place = torch.arange(pixels, device=nearness.device)
    open_ = torch.ones(len(least), pixels, dtype=torch.bool, device=nearness.device)
    first = codewords_of(first_largest(nearness), signed)
    for count in range(1, limit + 1):
        latest = first_largest(nearness)
        nearness.scatter_(0, latest[None], -torch.inf)
        if count > 1:
            # The bits on which the new candidate agrees with the first stay in S.
            per_bit *= (codewords_of(latest, signed) * first).clamp_(min=0)
        sums = per_bit.sum(1)
        # An empty S divides 0 by 0, and nan exceeds nothing.
        ended = open_ & ((sums[3] / sums[0] > least[:, None]) | (sums[0] == 0))
        if count == classes:
            ended |= open_
        totals += ended.double() @ sums[:3].double().T
        candidates[place[ended[-1]]] = count
        open_ &= ~ended
        going = open_.any(0).nonzero().squeeze(1)
        if len(going) == 0:
            break
        if len(going) < 0.8 * len(place):
            per_bit, first = per_bit.index_select(2, going), first.index_select(1, going)
            nearness, open_ = nearness.index_select(1, going), open_.index_select(1, going)
            place = place[going]
    return totals, candidates
