"""The loss on bits and its gradient in one pass over the logits, in plain PyTorch."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from ecocseg.codes.pixels import codewords_of, compute_dtype, full_precision, pieces
from ecocseg.types import IGNORE

# Logit vectors shorter than this have no direction: cosine 0, gradient 0.
_SHORTEST = 1e-12
_LARGEST_HALF = torch.finfo(torch.float16).max


class Setting(NamedTuple):
    """Options of the loss, as in `ECOCLoss`."""

    distance_weight: float
    contrast_weight: float
    temperature: float
    extra_positive: bool
    """Whether a target that is no codeword joins the denominator of the contrast."""


def loss_and_slope(
    logits: Tensor,
    targets: Tensor,
    weight: Tensor | None,
    signed: Tensor,
    setting: Setting,
    want_slope: bool,
) -> tuple[Tensor, Tensor | None]:
    """Sums over all pixels of bce, distance and contrast times weight, float64 [3], and the slope.

    `logits` [B,K,H,W]; `targets` labels [B,H,W] or bits [B,K,H,W]; `weight` [B,H,W] or None;
    `signed` codewords [N,K]. The slope, like the logits in shape, type and layout, is the
    gradient of the weighted total of the sums.
    """
    dtype = compute_dtype(logits)
    signed = signed.to(dtype)
    batch, _, height, width = logits.shape
    bits = targets.ndim == 4
    if weight is None:
        weight = logits.new_ones((batch, height, width), dtype=dtype)
    weight = weight.to(dtype)
    if not bits:
        weight = weight.masked_fill(targets == IGNORE, 0)
        targets = targets.long().masked_fill(targets == IGNORE, 0)
    flat_logits, flat_weight = logits.flatten(2), weight.flatten(1)
    flat_targets = targets.flatten(-2)
    slope = slope_like(logits) if want_slope else None
    flat_slope = None if slope is None else slope.flatten(2)
    sums = torch.zeros(3, dtype=torch.float64, device=logits.device)
    with full_precision(logits):
        for image, span in pieces(logits):
            values, part = _piece(
                flat_logits[image, :, span].to(dtype),
                _signed_target(flat_targets[image, ..., span], signed),
                flat_weight[image, span],
                signed,
                setting,
                may_differ=bits,
                want_slope=want_slope,
            )
            sums += values
            if flat_slope is not None and part is not None:
                if logits.dtype == torch.float16:
                    part.clamp_(-_LARGEST_HALF, _LARGEST_HALF)
                flat_slope[image, :, span] = part
    return sums, slope


def slope_like(logits: Tensor) -> Tensor:
    """An empty tensor like the logits, channels last or contiguous, so that it flattens."""
    last = logits.is_contiguous(memory_format=torch.channels_last)
    layout = torch.channels_last if last else torch.contiguous_format
    return torch.empty_like(logits, memory_format=layout)


def _signed_target(target: Tensor, signed: Tensor) -> Tensor:
    """Signed bits [K,c] of class labels [c] or of bits [K,c]."""
    if target.ndim == 1:
        return codewords_of(target, signed)
    # Through bytes: booleans become floating point at a fourth of that speed.
    return target.bool().view(torch.int8).mul(2).sub_(1).to(signed.dtype)


def _piece(
    z: Tensor,
    target: Tensor,
    weight: Tensor,
    signed: Tensor,
    setting: Setting,
    *,
    may_differ: bool,
    want_slope: bool,
) -> tuple[Tensor, Tensor | None]:
    """Weighted sums [3] of the terms over c pixels, and the gradient [K,c] of the total's sum.

    `z` logits [K,c], `target` signed bits [K,c], `weight` [c], `signed` codewords [N,K].
    `may_differ`: the target may be no codeword.
    """
    length = z.shape[0]
    z, squares = _without_uncounted(z, weight)
    inverse = torch.where(squares > _SHORTEST**2, squares, torch.inf).rsqrt()
    scale = inverse / math.sqrt(length)
    x = z * target
    cos_target = x.sum(0) * scale
    cos = (signed @ z).mul_(scale)

    # Powers of two: exp2 takes half the time of exp on a CPU.
    per_cos = 1 / (setting.temperature * math.log(2))
    positive = cos_target * per_cos
    shift = torch.maximum(cos.amax(0) * per_cos, positive)
    share = (cos * per_cos).sub_(shift).exp2_()
    denominator = share.sum(0)
    # A target that is a codeword is among the N rows already; one that is not comes in addition.
    extra = torch.zeros_like(positive)
    if may_differ and setting.extra_positive:
        known = (signed @ target).amax(0) > length - 1
        extra = torch.exp2(positive - shift).masked_fill_(known, 0)
        denominator = denominator + extra

    wrong = torch.sigmoid(-x)
    values = torch.stack(
        [
            _cross_entropy(x, wrong) @ weight / length,
            (1 - cos_target) @ weight,
            (denominator.log2() + shift - positive).mul_(math.log(2)) @ weight,
        ]
    )
    if not want_slope:
        return values, None

    # d cos_n / dz = c^_n / (|z| sqrt K) - cos_n z / |z|^2, and each term is a function of cosines.
    pull = weight * (setting.contrast_weight / setting.temperature)
    share.mul_(pull / denominator)
    of_target = pull * (extra / denominator - 1) - weight * setting.distance_weight
    along = (cos.mul_(share).sum(0) + of_target * cos_target) * inverse.square()
    slope = wrong.mul_(weight / -length).add_(of_target * scale).mul_(target)
    slope.addmm_(signed.T, share.mul_(scale))
    return values, slope.addcmul_(z, along, value=-1)


def _without_uncounted(z: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """`z` [K,c] with zeros where a pixel does not count, and its sums of squares [c].

    Such pixels must not leak, not even as 0 * nan. `where` takes ten times as long as a product
    on a CPU, so there it is left to the rare batch that needs it.
    """
    counts = weight > 0
    if z.device.type != "cpu":
        z = torch.where(counts, z, 0)
        return z, (z * z).sum(0)
    if not bool(counts.all()):
        product = z * counts
        squares = (product * product).sum(0)
        if bool(squares.isfinite().all()):
            return product, squares
        z = torch.where(counts, z, 0)
    return z, (z * z).sum(0)


def _cross_entropy(x: Tensor, wrong: Tensor) -> Tensor:
    """Sum over K of softplus(-x): x [K,c] and `wrong` = sigmoid(-x) -> [c].

    softplus(-x) = max(-x, 0) - log sigmoid(|x|): the sigmoids lie in 1/2..1, so that one logarithm
    of the product of many serves them all. Exact to the rounding of 1 (6e-8 a bit in float32);
    the gradient does not come from here.
    """
    sure = torch.maximum(wrong, 1 - wrong)
    # 2^-64 is far from underflow.
    logs = [group.prod(0).log_() for group in sure.split(64)]
    return -(x.clamp(max=0).sum(0) + sum(logs))
