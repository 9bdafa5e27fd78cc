"""The loss on bits: cross-entropy, pixel-code distance and pixel-code contrast (Eq. 8 to 12)."""

import math
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from ecocseg.codes.codebook import Codebook
from ecocseg.codes.pixels import check_logits, compute_dtype, full_precision, pieces
from ecocseg.errors import ConfigError
from ecocseg.types import IGNORE

Denominator = Literal["paper", "codebook"]
DENOMINATORS: tuple[str, ...] = get_args(Denominator)

# Logit vectors shorter than this have no direction: cosine 0, gradient 0.
_SHORTEST = 1e-12

# From here on softplus(x) = x, in float64 too.
_LINEAR = 40.0


class ECOCTerms(NamedTuple):
    """The loss of a batch: scalars; `total` is differentiable, the others are detached."""

    total: Tensor
    bce: Tensor
    distance: Tensor
    contrast: Tensor


class _Setting(NamedTuple):
    distance_weight: float
    contrast_weight: float
    temperature: float
    extra_positive: bool


class ECOCLoss(nn.Module):
    """bce + distance_weight * distance + contrast_weight * contrast (Eq. 12).

    `denominator` of the contrast: "paper" holds the positive and all codewords but the target,
    "codebook" (the released code) holds the N codewords only; they differ only for target bits
    that are no codeword. Raises ConfigError when a value is out of range.
    """

    def __init__(
        self,
        book: Codebook,
        distance_weight: float = 5.0,
        contrast_weight: float = 2.0,
        temperature: float = 0.5,
        denominator: Denominator = "paper",
    ) -> None:
        super().__init__()
        check_loss(distance_weight, contrast_weight, temperature, denominator)
        self.book = book
        self.setting = _Setting(
            distance_weight, contrast_weight, temperature, denominator == "paper"
        )

    def forward(self, logits: Tensor, targets: Tensor, weight: Tensor | None = None) -> ECOCTerms:
        """Loss of `logits` [B,K,H,W] against class labels int64 [B,H,W] or bits [B,K,H,W].

        Labels of 255 are ignored. `weight` [B,H,W] >= 0 or None (ones); no gradient goes into it.
        Each term is the sum over pixels of value times weight, divided by the number of all
        pixels, ignored ones included (Sec. 4 of method.md). Pixels of weight 0 count as zero
        whatever their logits are. Half precision is computed in float32. Raises ValueError when
        shapes or labels do not fit.
        """
        check_logits(logits, self.book)
        _check_targets(logits, targets, weight, self.book.num_classes)
        if not torch.is_grad_enabled():
            logits = logits.detach()
        return ECOCTerms(*_Loss.apply(logits, targets, weight, self.book, self.setting))


def check_loss(
    distance_weight: float, contrast_weight: float, temperature: float, denominator: str
) -> None:
    """Raise ConfigError when an option of the loss is out of range."""
    weights = {"distance_weight": distance_weight, "contrast_weight": contrast_weight}
    for field, value in weights.items():
        if not (math.isfinite(value) and value >= 0):
            raise ConfigError(f"{field}: got {value}, allowed 0 or more; 0 leaves the term out")
    if not (math.isfinite(temperature) and temperature > 0):
        raise ConfigError(f"temperature: got {temperature}, allowed above 0; the paper has 0.5")
    if denominator not in DENOMINATORS:
        raise ConfigError(f"denominator: got {denominator!r}, allowed {', '.join(DENOMINATORS)}")


def _check_targets(
    logits: Tensor, targets: Tensor, weight: Tensor | None, num_classes: int
) -> None:
    shape = (logits.shape[0], *logits.shape[2:])
    bits = targets.shape == logits.shape
    if not bits and (targets.shape != shape or targets.is_floating_point()):
        raise ValueError(
            f"targets: got {targets.dtype} {list(targets.shape)}, allowed integer labels "
            f"{list(shape)} or bits {list(logits.shape)}; bring them to the size of the logits"
        )
    if weight is not None and weight.shape != shape:
        raise ValueError(f"weight: got {list(weight.shape)}, allowed {list(shape)}, one per pixel")
    # Only on the CPU: elsewhere looking at the values would make the device wait.
    if not bits and targets.device.type == "cpu":
        wrong = targets[(targets < 0) | ((targets >= num_classes) & (targets != IGNORE))]
        if wrong.numel():
            raise ValueError(
                f"targets: got label {int(wrong[0])}, allowed 0..{num_classes - 1} and {IGNORE} "
                "(ignored); map the label ids of the data set to train ids"
            )


class _Loss(torch.autograd.Function):
    """Forward and gradient in one pass over the logits, so that nothing else need be kept."""

    @staticmethod
    def forward(
        ctx: Any,
        logits: Tensor,
        targets: Tensor,
        weight: Tensor | None,
        book: Codebook,
        setting: _Setting,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        dtype = compute_dtype(logits)
        signed = book.place(logits.device, dtype)
        batch, _, height, width = logits.shape
        bits = targets.ndim == 4
        if weight is None:
            weight = logits.new_ones((batch, height, width), dtype=dtype)
        weight = weight.detach().to(dtype)
        if not bits:
            weight = weight.masked_fill(targets == IGNORE, 0)
            targets = targets.masked_fill(targets == IGNORE, 0)
        flat_logits, flat_weight = logits.flatten(2), weight.flatten(1)
        flat_targets = targets.flatten(-2)
        grad, flat_grad = None, None
        if ctx.needs_input_grad[0]:
            last = logits.is_contiguous(memory_format=torch.channels_last)
            layout = torch.channels_last if last else torch.contiguous_format
            grad = torch.empty_like(logits, memory_format=layout)
            flat_grad = grad.flatten(2)
        sums = torch.zeros(3, dtype=torch.float64, device=logits.device)
        with full_precision(logits):
            for image, span in pieces(logits):
                target = flat_targets[image, ..., span]
                values, slope = _piece(
                    flat_logits[image, :, span].to(dtype),
                    _signed_target(target, signed),
                    flat_weight[image, span],
                    signed,
                    setting,
                    may_differ=bits,
                    want_slope=flat_grad is not None,
                )
                sums += values
                if flat_grad is not None and slope is not None:
                    flat_grad[image, :, span] = slope
        ctx.pixels = max(weight.numel(), 1)
        if grad is not None:
            # Saved before the division by the number of pixels, whose result half precision
            # would round to zero; backward divides the incoming (maybe scaled) gradient.
            ctx.save_for_backward(grad)
        bce, distance, contrast = (sums / ctx.pixels).to(dtype)
        total = bce + setting.distance_weight * distance + setting.contrast_weight * contrast
        ctx.mark_non_differentiable(bce, distance, contrast)
        return total, bce, distance, contrast

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_total: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        (grad,) = ctx.saved_tensors
        return grad * (grad_total / ctx.pixels), None, None, None, None


def _signed_target(target: Tensor, signed: Tensor) -> Tensor:
    """Signed bits [K,c] of class labels [c] or of bits [K,c]."""
    if target.ndim == 1:
        # Six times as fast as indexing on a CPU.
        return signed.T.gather(1, target.expand(signed.shape[1], -1))
    return target.to(signed.dtype).mul(2).sub_(1)


def _piece(
    z: Tensor,
    target: Tensor,
    weight: Tensor,
    signed: Tensor,
    setting: _Setting,
    *,
    may_differ: bool,
    want_slope: bool,
) -> tuple[Tensor, Tensor | None]:
    """Weighted sums [3] of the terms over c pixels, and the gradient [K,c] of the total's sum.

    `z` logits [K,c], `target` signed bits [K,c], `weight` [c], `signed` codewords [N,K].
    `may_differ`: the target may be no codeword.
    """
    length = z.shape[0]
    # Pixels that do not count must not leak, not even as 0 * nan. To look first would make a GPU
    # wait, but saves time on a CPU.
    counts = weight > 0
    if z.device.type != "cpu" or not bool(counts.all()):
        z = torch.where(counts, z, 0)
    x = z * target
    squares = (z * z).sum(0)
    inverse = torch.where(squares > _SHORTEST**2, squares, torch.inf).rsqrt()
    scale = inverse / math.sqrt(length)
    cos_target = x.sum(0) * scale
    cos = (signed @ z).mul_(scale)

    logits, positive = cos / setting.temperature, cos_target / setting.temperature
    shift = torch.maximum(logits.amax(0), positive)
    share = logits.sub_(shift).exp_()
    denominator = share.sum(0)
    # A target that is a codeword is among the N rows already; one that is not comes in addition.
    extra = torch.zeros_like(positive)
    if may_differ and setting.extra_positive:
        known = (signed @ target).amax(0) > length - 1
        extra = torch.exp(positive - shift).masked_fill_(known, 0)
        denominator = denominator + extra

    values = torch.stack(
        [
            nn.functional.softplus(-x, threshold=_LINEAR).sum(0) @ weight / length,
            (1 - cos_target) @ weight,
            (denominator.log() + shift - positive) @ weight,
        ]
    )
    if not want_slope:
        return values, None

    # d cos_n / dz = c^_n / (|z| sqrt K) - cos_n z / |z|^2, and each term is a function of cosines.
    pull = weight * (setting.contrast_weight / setting.temperature)
    share.mul_(pull / denominator)
    of_target = pull * (extra / denominator - 1) - weight * setting.distance_weight
    along = ((share * cos).sum(0) + of_target * cos_target) * inverse.square()
    slope = torch.sigmoid_(x.neg_()).mul_(weight / -length).add_(of_target * scale).mul_(target)
    slope.addmm_(signed.T, share.mul_(scale))
    return values, slope.addcmul_(z, along, value=-1)
