"""The seam of the design: what a method needs to know of how classes become channels."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from ecocseg.codes.mining import check_quality, quality_weight
from ecocseg.engine.distributed import SINGLE, Group
from ecocseg.errors import ConfigError
from ecocseg.types import PseudoLabel, Terms

Quality = Literal["image", "batch", "pixel"]


class Encoding(nn.Module, ABC):
    """Classes as channels of the head; a method works with any of them.

    It has no parameters and no state: nothing of it is in a state dict.
    """

    def __init__(
        self, *, channels: int, num_classes: int, quality: Quality, quality_threshold: float
    ) -> None:
        super().__init__()
        self.channels = channels
        """Channels K of the head."""
        self.num_classes = num_classes
        """Classes N."""
        self.quality: Quality = quality
        self.quality_threshold = quality_threshold
        self.group: Group = SINGLE
        """The processes that share a batch, for losses that are no mean over pixels."""

    @abstractmethod
    def loss(self, logits: Tensor, targets: Tensor, weight: Tensor | None = None) -> Terms:
        """Loss of `logits` [B,K,H,W], averaged over all pixels.

        `targets`: int64 labels [B,H,W] (255 ignored) or what `encode` and `pseudo_label` give.
        `weight` [B,H,W] or None (ones); ignored pixels weigh 0 and stay in the divisor.
        """

    @abstractmethod
    def encode(self, labels: Tensor) -> Tensor:
        """Labels [B,H,W] as targets of the kind that `pseudo_label` gives, to be mixed with them.

        What an ignored pixel (255) becomes is left open: give it weight 0.
        """

    @abstractmethod
    def decode(self, logits: Tensor) -> Tensor:
        """Class of each pixel: [B,K,H,W] -> int64 [B,H,W]."""

    @abstractmethod
    def class_scores(self, logits: Tensor) -> Tensor:
        """Scores to add up over windows and networks: [B,K,H,W] -> [B,N,H,W], larger is better."""

    @abstractmethod
    def pseudo_label(self, logits: Tensor, valid: Tensor | None = None) -> PseudoLabel:
        """Targets out of a teacher's logits [B,K,H,W], without gradient.

        `valid` bool [B,H,W]: pixels that are no padding; the others are left out of the quality
        share and get quality 0.
        """

    @abstractmethod
    def confidence(self, logits: Tensor) -> Tensor:
        """Confidence of each pixel in 0..1, as in `pseudo_label`: [B,K,H,W] -> [B,H,W]."""

    @abstractmethod
    def bit_probabilities(self, logits: Tensor) -> Tensor:
        """Probability that a channel's target bit is 1: [B,K,H,W] -> [B,K,H,W], float32 or 64."""

    @abstractmethod
    def bit_targets(self, labels: Tensor) -> Tensor:
        """The bits that the channels stand for: labels [B,H,W] -> bool [B,K,H,W].

        What an ignored pixel (255) becomes is left open.
        """

    @abstractmethod
    def label_confidence(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Confidence in given labels: [B,K,H,W] and int64 [B,H,W] without 255 -> [B,H,W], 0..1."""

    @abstractmethod
    def logits_of(self, probabilities: Tensor) -> Tensor:
        """Logits whose `bit_probabilities` these are: [B,K,H,W] -> [B,K,H,W].

        So that predictions of several views are averaged as probabilities and labelled as one.
        """

    @abstractmethod
    def pack(self, targets: Tensor) -> Tensor:
        """Targets of a pseudo-label as planes to be stored: uint8 [B,P,H,W]."""

    @abstractmethod
    def unpack(self, planes: Tensor) -> Tensor:
        """The inverse of `pack`."""

    def label_diagnostics(self, logits: Tensor, labels: Tensor) -> Mapping[str, Tensor]:
        """Counts, int64, of what only this encoding's pseudo-labels have; added up over batches.

        `logits` [B,K,H,W], `labels` [B,H,W] with no pixel ignored. Nothing by default.
        """
        return {}

    def label_maps(self, logits: Tensor) -> Mapping[str, Tensor]:
        """Counts worth a picture that only this encoding has, by title: [B,K,H,W] -> [B,H,W]."""
        return {}

    def facts(self) -> Mapping[str, Any]:
        """Plain values that a reader of `label_diagnostics` needs to know. Nothing by default."""
        return {}

    def confidences(self, logits: Tensor) -> Mapping[str, Tensor]:
        """Confidences in the decoded class worth a reliability diagram: [B,K,H,W] -> [B,H,W] each.

        "classes" is a probability of the class; an encoding may have others.
        """
        return {"classes": self.confidence(logits)}

    def pixel_quality(self, confidence: Tensor, valid: Tensor | None) -> Tensor:
        """Loss weight of each pixel [B,H,W] from its confidence: Eq. 47 (image) or 48 (pixel).

        `batch` is the released code's form of Eq. 47: one share for the images of all processes.
        """
        if self.quality == "image":
            share = quality_weight(confidence, self.quality_threshold, valid)
            weight = share[:, None, None].expand_as(confidence)
        elif self.quality == "batch":
            counted = torch.ones_like(confidence, dtype=torch.bool) if valid is None else valid
            above = (confidence > self.quality_threshold) & counted
            confident, pixels = self.group.sum(torch.stack([above.sum(), counted.sum()]))
            share = confident.to(confidence.dtype) / pixels.clamp(min=1)
            weight = share.expand_as(confidence)
        else:
            weight = (confidence > self.quality_threshold).to(confidence.dtype)
        return weight.clone() if valid is None else torch.where(valid, weight, 0)


def check_quality_fields(quality: str, threshold: float) -> None:
    """Raise ConfigError when a quality option that both encodings share is out of range."""
    if quality not in get_args(Quality):
        raise ConfigError(f"quality: got {quality!r}, allowed {', '.join(get_args(Quality))}")
    check_quality(threshold)
