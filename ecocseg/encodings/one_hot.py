"""One-hot encoding, the paper's baseline: softmax, maximum, cross-entropy."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ecocseg.codes.pixels import compute_dtype
from ecocseg.encodings.base import Encoding, Quality, check_quality_fields
from ecocseg.types import IGNORE, PseudoLabel, Terms


@dataclass(frozen=True, kw_only=True)
class OneHotConfig:
    """Options of the one-hot encoding."""

    quality: Quality = "image"
    """Weight of pseudo-labels: share of confident pixels (image) or confident or not (pixel)."""
    quality_threshold: float = 0.968
    """Confidence above which a pixel counts as confident, 0..1."""

    def __post_init__(self) -> None:
        check_quality_fields(self.quality, self.quality_threshold)


class OneHotEncoding(Encoding):
    """A channel per class."""

    def __init__(self, config: OneHotConfig, num_classes: int) -> None:
        super().__init__(
            channels=num_classes,
            num_classes=num_classes,
            quality=config.quality,
            quality_threshold=config.quality_threshold,
        )

    def loss(self, logits: Tensor, targets: Tensor, weight: Tensor | None = None) -> Terms:
        """Cross-entropy; parts: ce."""
        values = torch.nn.functional.cross_entropy(
            logits.to(compute_dtype(logits)), targets, ignore_index=IGNORE, reduction="none"
        )
        if weight is not None:
            values = values * weight.to(values.dtype)
        total = values.sum() / max(values.numel(), 1)
        return Terms(total=total, parts={"ce": total.detach()})

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
