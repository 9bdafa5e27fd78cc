"""One-hot encoding, the paper's baseline: softmax, maximum, cross-entropy."""

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from ecocseg.codes.pixels import compute_dtype
from ecocseg.encodings.base import Encoding, Quality, check_quality_fields
from ecocseg.engine.distributed import SINGLE, Group
from ecocseg.errors import ConfigError
from ecocseg.types import IGNORE, PseudoLabel, Terms

Criterion = Literal["ce", "dice"]
_SMOOTH = 1e-5


@dataclass(frozen=True, kw_only=True)
class OneHotConfig:
    """Options of the one-hot encoding."""

    quality: Quality = "image"
    """Weight of pseudo-labels: share of confident pixels, of each image or of the batch (released
    UDA code), or confident or not (pixel)."""
    quality_threshold: float = 0.968
    """Confidence above which a pixel counts as confident, 0..1."""
    criterion: Criterion = "ce"
    """Cross-entropy; or dice as UniMatch has it on ACDC: the mean of cross-entropy and Dice loss on
    labels, the Dice loss alone on weighted targets (pseudo-labels)."""

    def __post_init__(self) -> None:
        check_quality_fields(self.quality, self.quality_threshold)
        if self.criterion not in get_args(Criterion):
            raise ConfigError(
                f"criterion: got {self.criterion!r}, allowed {', '.join(get_args(Criterion))}"
            )


class OneHotEncoding(Encoding):
    """A channel per class."""

    def __init__(self, config: OneHotConfig, num_classes: int) -> None:
        super().__init__(
            channels=num_classes,
            num_classes=num_classes,
            quality=config.quality,
            quality_threshold=config.quality_threshold,
        )
        self.criterion = config.criterion

    def loss(self, logits: Tensor, targets: Tensor, weight: Tensor | None = None) -> Terms:
        """Cross-entropy, or as `criterion` says; parts: ce, dice."""
        if self.criterion == "dice":
            return self._with_dice(logits, targets, weight)
        total = self._cross_entropy(logits, targets, weight)
        return Terms(total=total, parts={"ce": total.detach()})

    def _with_dice(self, logits: Tensor, targets: Tensor, weight: Tensor | None) -> Terms:
        if weight is not None:
            dice = dice_loss(logits, targets, weight, self.group)
            return Terms(total=dice, parts={"dice": dice.detach()})
        ce = self._cross_entropy(logits, targets, None)
        dice = dice_loss(logits, targets, group=self.group)
        return Terms(total=(ce + dice) / 2, parts={"ce": ce.detach(), "dice": dice.detach()})

    def _cross_entropy(self, logits: Tensor, targets: Tensor, weight: Tensor | None) -> Tensor:
        values = torch.nn.functional.cross_entropy(
            logits.to(compute_dtype(logits)), targets, ignore_index=IGNORE, reduction="none"
        )
        if weight is not None:
            values = values * weight.to(values.dtype)
        return values.sum() / max(values.numel(), 1)

    def encode(self, labels: Tensor) -> Tensor:
        """The labels themselves."""
        return labels

    @torch.no_grad()
    def decode(self, logits: Tensor) -> Tensor:
        """Class of the largest logit."""
        return logits.argmax(1)

    def class_scores(self, logits: Tensor) -> Tensor:
        """Softmax probabilities."""
        return logits.to(compute_dtype(logits)).softmax(1)

    def confidence(self, logits: Tensor) -> Tensor:
        """The largest softmax probability."""
        return self.class_scores(logits).amax(1)

    def label_confidence(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The softmax probability of the label."""
        return self.class_scores(logits).gather(1, labels[:, None])[:, 0]

    def logits_of(self, probabilities: Tensor) -> Tensor:
        """Logarithms."""
        return probabilities.clamp_min(torch.finfo(probabilities.dtype).tiny).log()

    def pack(self, targets: Tensor) -> Tensor:
        """One plane: the labels."""
        return targets[:, None].to(torch.uint8)

    def unpack(self, planes: Tensor) -> Tensor:
        """The labels, int64."""
        return planes[:, 0].long()

    def bit_probabilities(self, logits: Tensor) -> Tensor:
        """Softmax probabilities: a channel's bit says that the pixel is of its class."""
        return self.class_scores(logits)

    def bit_targets(self, labels: Tensor) -> Tensor:
        """One bit of N is set, of an ignored pixel none."""
        classes = torch.arange(self.num_classes, device=labels.device)
        return labels[:, None] == classes[:, None, None]

    @torch.no_grad()
    def pseudo_label(self, logits: Tensor, valid: Tensor | None = None) -> PseudoLabel:
        """Class and probability of the largest softmax output."""
        confidence, labels = self.class_scores(logits).max(1)
        quality = self.pixel_quality(confidence, valid)
        return PseudoLabel(
            targets=labels,
            labels=labels,
            confidence=confidence,
            quality=quality,
            statistics={"confidence": confidence.mean(), "quality": quality.mean()},
        )


def dice_loss(
    logits: Tensor, targets: Tensor, weight: Tensor | None = None, group: Group = SINGLE
) -> Tensor:
    """1 minus the mean over classes of 2 sum(p t) / (sum(p p) + sum(t t)), over a whole batch.

    `logits` [B,N,H,W], `targets` int64 [B,H,W] (255 ignored), `weight` [B,H,W] in 0..1 of each
    pixel in every sum; sums run over all processes. Source: LiheYoung/UniMatch
    more-scenarios/medical/util/utils.py.
    """
    probabilities = logits.to(compute_dtype(logits)).softmax(1)
    counted = targets != IGNORE
    share = counted.to(probabilities.dtype)
    if weight is not None:
        share = share * weight.to(probabilities.dtype)
    share = share[:, None]
    classes = torch.arange(logits.shape[1], device=logits.device)[:, None, None]
    truth = (targets[:, None] == classes).to(probabilities.dtype)
    both, predicted, true = (
        group.sum((share * product).sum((0, 2, 3)))
        for product in (probabilities * truth, probabilities.square(), truth)
    )
    return 1 - ((2 * both + _SMOOTH) / (predicted + true + _SMOOTH)).mean()
