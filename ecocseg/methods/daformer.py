"""DAFormer: DACS with rare class sampling, feature distance to ImageNet, pseudo-label margins.

Source: Hoyer et al., CVPR 2022 (lhoyer/DAFormer); margins carried with the crop are HRDA's (ECCV
2022). With ECOC targets it is the paper's Table 1. Differences from the public code: unless told
otherwise (`encoding.quality=batch`, `method.mix_classes=batch`, as the tables are) quality and
mixed classes are of each image, not of the batch; where no pixel of a thing class is there the
feature distance is 0 instead of NaN, which moves no weight either; and target images come in passes
instead of being drawn with replacement.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from ecocseg.config import require
from ecocseg.data.dataset import Stream
from ecocseg.data.sampling import RareClasses
from ecocseg.data.transforms import Sample
from ecocseg.engine.distributed import SINGLE, Group
from ecocseg.errors import ConfigError
from ecocseg.methods import dacs
from ecocseg.methods.base import Context, Loss, supervised_terms
from ecocseg.types import IGNORE, PseudoLabel


@dataclass(frozen=True, kw_only=True)
class Config(dacs.Config):
    """Configuration of `daformer`."""

    rare_class_temperature: float | None = 0.01
    """T of rare class sampling: the smaller, the more often rare classes; None: plain passes."""
    rare_class_min_pixels: int = 3000
    """Pixels of the drawn class that an image must have more of, at its original size."""
    rare_class_min_crop_ratio: float = 0.5
    """The crop is drawn again until it has more than this share of `rare_class_min_pixels`."""
    feature_weight: float = 0.005
    """Weight of the feature distance; 0 switches it off."""
    feature_classes: tuple[int, ...] = (6, 7, 11, 12, 13, 14, 15, 16, 17, 18)
    """Train ids of the thing classes, which alone keep near ImageNet's features."""
    feature_min_ratio: float = 0.75
    """Share of a feature's pixels that must be of one thing class; above 0.5."""
    margins: tuple[int, int, int, int] = (15, 120, 0, 0)
    """Pixels at top, bottom, left and right where pseudo-labels weigh nothing: rectification leaves
    artefacts there, and the car's bonnet has no class."""
    margins_of: Literal["crop", "image"] = "crop"
    """Of every crop as in DAFormer, or of the stored image as in HRDA and MIC."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._rare_classes()
        require(self.feature_weight >= 0, "feature_weight", self.feature_weight, "0 or more")
        ids = self.feature_classes
        require(
            all(0 <= train < 255 for train in ids) and len(set(ids)) == len(ids),
            "feature_classes",
            list(ids),
            "different train ids from 0 up",
        )
        require(
            0.5 < self.feature_min_ratio <= 1,
            "feature_min_ratio",
            self.feature_min_ratio,
            "above 0.5, up to 1",
        )
        require(min(self.margins) >= 0, "margins", list(self.margins), "four numbers from 0 up")

    def _rare_classes(self) -> RareClasses | None:
        if self.rare_class_temperature is None:
            return None
        try:
            return RareClasses(
                temperature=self.rare_class_temperature,
                min_pixels=self.rare_class_min_pixels,
                min_crop_ratio=self.rare_class_min_crop_ratio,
            )
        except ConfigError as error:
            raise ConfigError(f"rare_class_{error}") from error


class DAFormer(dacs.DACS):
    """DACS, and what keeps rare classes, ImageNet's knowledge and bad margins in check."""

    name = "daformer"
    config: Config

    @property
    def uses_reference(self) -> bool:
        """The feature distance compares with the network before training."""
        return self.config.feature_weight > 0

    def adapt(self, stream: Stream) -> Stream:
        """Rare classes come first among the labelled images; unlabelled ones carry margins."""
        if stream.name == "labelled":
            return replace(stream, rare_classes=self.config._rare_classes())
        if stream.name == "unlabelled" and self.config.margins_of == "image":
            return replace(stream, margins=self.config.margins)
        return stream

    def source_loss(self, context: Context, source: Sample) -> Loss:
        """The loss on the source images' labels and the feature distance, in one summand.

        One graph holds both, so one backward pass does.
        """
        outputs = context.outputs(source.images)
        value, parts = supervised_terms(context, outputs.heads, source.labels)
        logs = {"loss/labelled": value.detach(), **parts}
        if self.uses_reference:
            assert context.reference is not None
            known = context.encoding.num_classes
            require(
                max(self.config.feature_classes, default=0) < known,
                "method.feature_classes",
                list(self.config.feature_classes),
                f"train ids of the data's {known} classes; name those of its things, or set "
                "method.feature_weight=0",
            )
            with torch.no_grad():
                wanted = context.reference.features(source.images)
            distance = feature_distance(
                outputs.features,
                wanted,
                outputs.stride,
                source.labels,
                self.config.feature_classes,
                self.config.feature_min_ratio,
                context.group,
            )
            weighted = self.config.feature_weight * distance
            logs |= {"loss/features": weighted.detach(), "features/distance": distance.detach()}
            value = value + weighted
        return Loss(value=value, logs=logs)

    @torch.no_grad()
    def teach(self, context: Context, target: Sample) -> PseudoLabel:
        """The teacher's pseudo-labels; the margins have quality 0, but count in the share."""
        pseudo = super().teach(context, target)
        quality = pseudo.quality * self._trusted(target)
        return replace(pseudo, quality=quality)

    def _trusted(self, target: Sample) -> Tensor:
        """Pixels outside the margins, bool [B,H,W]."""
        if self.config.margins_of == "image":
            assert target.trusted is not None
            return target.trusted
        height, width = target.valid.shape[-2:]
        top, bottom, left, right = self.config.margins
        if top + bottom >= height or left + right >= width:
            raise ConfigError(
                f"method.margins: got {list(self.config.margins)} (top, bottom, left, right) for "
                f"crops of {height}x{width}, allowed are margins that leave some of it; make them "
                "smaller, or set method.margins_of=image"
            )
        trusted = torch.zeros_like(target.valid)
        trusted[..., top : height - bottom, left : width - right] = True
        return trusted


def feature_distance(
    features: Tensor,
    reference: Tensor,
    stride: int,
    labels: Tensor,
    classes: Sequence[int],
    min_ratio: float,
    group: Group = SINGLE,
) -> Tensor:
    """Mean Euclidean distance of `features` and `reference` [B,C,h,w] on thing classes.

    A feature counts when at least `min_ratio` of its `stride` x `stride` pixels in `labels` [B,H,W]
    are of one of `classes`. The mean is over the features of all processes. Source: Hoyer et al.,
    CVPR 2022, Sec. 3.3.
    """
    (height, width), size = labels.shape[-2:], features.shape[-2:]
    padding = (0, size[1] * stride - width, 0, size[0] * stride - height)
    labels = F.pad(labels, padding, value=IGNORE)
    counts = torch.zeros(len(features), *size, dtype=torch.bool, device=features.device)
    for train in classes:
        share = F.avg_pool2d((labels == train).float()[:, None], stride)[:, 0]
        counts |= share >= min_ratio
    distance = torch.linalg.vector_norm((features - reference).float(), dim=1)
    return torch.where(counts, distance, 0).sum() / group.divisor(counts.sum())
