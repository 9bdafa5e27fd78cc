"""The loss on bits: cross-entropy, pixel-code distance and pixel-code contrast (Eq. 8 to 12)."""

import math
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn

from ecocseg.codes import kernels
from ecocseg.codes.bit_loss import Setting, loss_and_slope, slope_like
from ecocseg.codes.codebook import Codebook
from ecocseg.codes.pixels import check_logits, compute_dtype
from ecocseg.codes.temperature import Temperature, check_temperature, resolve_temperature
from ecocseg.errors import ConfigError
from ecocseg.types import IGNORE

Denominator = Literal["paper", "codebook"]
DENOMINATORS: tuple[str, ...] = get_args(Denominator)


class ECOCTerms(NamedTuple):
    """The loss of a batch: scalars; `total` is differentiable, the others are detached."""

    total: Tensor
    bce: Tensor
    distance: Tensor
    contrast: Tensor


class ECOCLoss(nn.Module):
    """bce + distance_weight * distance + contrast_weight * contrast (Eq. 12).

    `denominator` of the contrast: "paper" holds the positive and all codewords but the target,
    "codebook" (the released code) holds the N codewords only; they differ only for target bits
    that are no codeword. `temperature` "auto" is `auto_temperature` of the codebook. The
    cross-entropy is exact, where the released code adds 1e-4 inside the logarithm: there the
    gradient of a wrong bit falls to half at |z| = 9.2 and on to nothing, though it is to learn
    most. Raises ConfigError when a value is out of range.
    """

    def __init__(
        self,
        book: Codebook,
        distance_weight: float = 5.0,
        contrast_weight: float = 2.0,
        temperature: Temperature = 0.5,
        denominator: Denominator = "paper",
    ) -> None:
        super().__init__()
        check_loss(distance_weight, contrast_weight, temperature, denominator)
        self.book = book
        self.setting = Setting(
            distance_weight,
            contrast_weight,
            resolve_temperature(book, temperature),
            denominator == "paper",
        )

    @property
    def distance_weight(self) -> float:
        """lambda1."""
        return self.setting.distance_weight

    @property
    def contrast_weight(self) -> float:
        """lambda2."""
        return self.setting.contrast_weight

    @property
    def temperature(self) -> float:
        """tau as a number."""
        return self.setting.temperature

    @property
    def denominator(self) -> str:
        """Of the contrast, "paper" or "codebook"."""
        return "paper" if self.setting.extra_positive else "codebook"

    def forward(self, logits: Tensor, targets: Tensor, weight: Tensor | None = None) -> ECOCTerms:
        """Loss of `logits` [B,K,H,W] against class labels int64 [B,H,W] or bits [B,K,H,W].

        Labels of 255 are ignored; bits are bool, or numbers 0 and 1. `weight` [B,H,W] >= 0 or None
        (ones); no gradient goes into it.
        Each term is the sum over pixels of value times weight, divided by the number of all
        pixels, ignored ones included. Pixels of weight 0 count as zero
        whatever their logits are. Half precision is computed in float32; a gradient too large for
        float16, of logits without a direction, is cut off. Raises ValueError when shapes or types
        do not fit, and on a CPU (a GPU would have to wait) when labels, bits or weights do not.
        """
        check_logits(logits, self.book)
        _check_targets(logits, targets, weight)
        total, *parts, _ = _bit_loss(
            logits,
            targets,
            None if weight is None else weight.detach(),
            self.book.place(logits.device, compute_dtype(logits)),
            self.book.words,
            *self.setting,
            want_slope=logits.requires_grad and torch.is_grad_enabled(),
        )
        return ECOCTerms(total, *(part.detach() for part in parts))


def check_loss(
    distance_weight: float, contrast_weight: float, temperature: Temperature, denominator: str
) -> None:
    """Raise ConfigError when an option of the loss is out of range."""
    weights = {"distance_weight": distance_weight, "contrast_weight": contrast_weight}
    for field, value in weights.items():
        if not (math.isfinite(value) and value >= 0):
            raise ConfigError(f"{field}: got {value}, allowed 0 or more; 0 leaves the term out")
    check_temperature(temperature)
    if denominator not in DENOMINATORS:
        raise ConfigError(f"denominator: got {denominator!r}, allowed {', '.join(DENOMINATORS)}")


def _check_targets(logits: Tensor, targets: Tensor, weight: Tensor | None) -> None:
    shape = (logits.shape[0], *logits.shape[2:])
    bits = targets.shape == logits.shape
    if not bits and (targets.shape != shape or targets.is_floating_point()):
        raise ValueError(
            f"targets: got {targets.dtype} {list(targets.shape)}, allowed integer labels "
            f"{list(shape)} or bits {list(logits.shape)}; bring them to the size of the logits"
        )
    # A GPU waits for this look at the values; bits are seldom of this type.
    if bits and targets.is_floating_point():
        _check_bits(targets)
    if weight is not None and weight.shape != shape:
        raise ValueError(f"weight: got {list(weight.shape)}, allowed {list(shape)}, one per pixel")


def _check_values(targets: Tensor, weight: Tensor | None, num_classes: int) -> None:
    if targets.ndim == 3:
        _check_labels(targets, num_classes)
    elif targets.dtype != torch.bool:
        _check_bits(targets)
    if weight is not None and not bool((weight >= 0).all()):
        raise ValueError("weight: got a negative or undefined weight, allowed 0 or more")


def _check_bits(bits: Tensor) -> None:
    wrong = bits[(bits != 0) & (bits != 1)]
    if wrong.numel():
        raise ValueError(
            f"targets: got a bit of {wrong[0].item():.3g}, allowed 0 and 1; decide probabilities "
            "(targets >= 0.5), and give a pixel that does not count weight 0"
        )


def _check_labels(labels: Tensor, num_classes: int) -> None:
    wrong = labels[(labels < 0) | ((labels >= num_classes) & (labels != IGNORE))]
    if wrong.numel():
        raise ValueError(
            f"targets: got label {int(wrong[0])}, allowed 0..{num_classes - 1} and {IGNORE} "
            "(ignored); map the label ids of the data set to train ids"
        )


# An operator of our own: torch.compile takes it as a whole, and leaves the choice of kernel to it.
@torch.library.custom_op("ecocseg::bit_loss", mutates_args=())
def _bit_loss(
    logits: Tensor,
    targets: Tensor,
    weight: Tensor | None,
    signed: Tensor,
    words: Sequence[int],
    distance_weight: float,
    contrast_weight: float,
    temperature: float,
    extra_positive: bool,
    want_slope: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """(total, bce, distance, contrast, slope): means over all pixels, slope times `_undivided`.

    The gradient is computed in the forward pass, so that nothing else need be kept for it.
    """
    # Only on the CPU: elsewhere looking at the values would make the device wait.
    if targets.device.type == "cpu":
        _check_values(targets, weight, len(signed))
    setting = Setting(distance_weight, contrast_weight, temperature, extra_positive)
    if kernels.usable(logits, words):
        from ecocseg.codes.kernels import loss as kernel

        sums, slope = kernel.loss_and_slope(
            logits,
            targets,
            weight,
            words,
            **setting._asdict(),
            want_slope=want_slope,
            slope_scale=_undivided(logits) / _pixels(logits),
        )
    else:
        sums, slope = loss_and_slope(logits, targets, weight, signed, setting, want_slope)
        if slope is not None and logits.is_cuda:
            slope.mul_(_undivided(logits) / _pixels(logits))
    bce, distance, contrast = (sums / _pixels(logits)).to(compute_dtype(logits)).unbind()
    total = bce + distance_weight * distance + contrast_weight * contrast
    if slope is None:
        slope = logits.new_empty(0)
    # Operators may return no views.
    return total, bce.clone(), distance.clone(), contrast.clone(), slope


@_bit_loss.register_fake
def _(logits: Tensor, *others: Any) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    total, bce, distance, contrast = (
        logits.new_empty((), dtype=compute_dtype(logits)) for _ in range(4)
    )
    want_slope = others[-1]
    slope = slope_like(logits) if want_slope else logits.new_empty(0)
    return total, bce, distance, contrast, slope


def _keep_slope(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(output[-1])
    ctx.undivided = _undivided(inputs[0])
    ctx.kernel = output[-1].is_cuda and kernels.usable(inputs[0], inputs[4])


def _backward(
    ctx: Any, grad_total: Tensor | None, *others: Tensor | None
) -> tuple[Tensor | None, ...]:
    if any(other is not None for other in others):
        raise RuntimeError("ECOCLoss: the loss has no second derivative")
    if grad_total is None:
        return (None,) * 10
    (slope,) = ctx.saved_tensors
    factor = grad_total / ctx.undivided
    # In place unless it may be asked for again: a copy takes as much memory as the logits.
    if torch.compiler.is_compiling() or torch._C._autograd._get_current_graph_task_keep_graph():
        return slope * factor, *(None,) * 9
    if ctx.kernel:
        from ecocseg.codes.kernels.loss import scale_

        return scale_(slope, factor), *(None,) * 9
    return slope.mul_(factor), *(None,) * 9


_bit_loss.register_autograd(_backward, setup_context=_keep_slope)


def _pixels(logits: Tensor) -> int:
    return max(logits.shape[0] * logits.shape[2] * logits.shape[3], 1)


def _undivided(logits: Tensor) -> int:
    """What the slope still has to be divided by in the backward pass.

    A kernel divides on its way, so that the factor left is 1 and costs nothing. float16 would
    round the quotient to zero, and waits for the factor that a loss scaler brings.
    """
    return 1 if logits.is_cuda and logits.dtype != torch.float16 else _pixels(logits)
