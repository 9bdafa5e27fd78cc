"""UniMatch: two strong views, and feature dropout on the weak one.

Source: Yang et al., CVPR 2023, LiheYoung/UniMatch `unimatch.py`; the ECOC form is the paper's
App. H. CutMix partners come from a stream of their own order, as in `fixmatch`.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ecocseg.config import require
from ecocseg.data.mixing import paste
from ecocseg.data.transforms import Sample
from ecocseg.engine.distributed import per_image
from ecocseg.methods.base import Context, Loss, Losses, Method, counted, require_alike
from ecocseg.methods.consistency import (
    ConsistencyConfig,
    cutmix,
    cutmix_box,
    labelled_loss,
    labelled_pixels,
    logged,
    strong_views,
    taught,
    view_loss,
)
from ecocseg.models.modes import evaluating


@dataclass(frozen=True, kw_only=True)
class Config(ConsistencyConfig):
    """Configuration of `unimatch`."""

    strong_weight: float = 0.25
    """Weight of each of the two strong views."""
    feature_weight: float = 0.5
    """Weight of the view whose features are dropped."""
    feature_dropout: float = 0.5
    """Share of the channels of every map that is dropped."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("strong_weight", "feature_weight"):
            require(getattr(self, name) >= 0, name, getattr(self, name), "0 or more")
        dropped = self.feature_dropout
        require(0 <= dropped < 1, "feature_dropout", dropped, "0 to below 1")


class UniMatch(Method):
    """FixMatch with two strong views and a third one perturbed within the network."""

    name = "unimatch"
    streams = ("labelled", "unlabelled", "partner")
    whole_images = True

    def __init__(self, config: Config) -> None:
        self.config = config

    def losses(self, context: Context, batch: Mapping[str, Sample]) -> Losses:
        """One summand, with the weights of the public code; it is divided by 2 there too.

        As there, labelled and weak views share a pass and so the batch statistics, in which their
        dropped features take part, and both strong views share another.
        """
        labelled, weak, partner = (batch[name] for name in self.streams)
        require_alike(labelled, weak, self.name, batches=False)
        encoding, student, config = context.encoding, context.student, self.config

        with torch.no_grad():
            *strong, first_partner, second_partner = strong_views(
                (weak, weak, partner, partner), context, config
            )
            boxes = [cutmix_box(weak, context, config) for _ in strong]
        labelled_divisor, feature_divisor, *strong_divisors = yield counted(
            labelled_pixels(context, labelled.labels, config),
            weak.valid,
            *(paste(box, partner.valid, weak.valid) for box in boxes),
        )
        with torch.no_grad(), evaluating(student):
            other = encoding.pseudo_label(student(partner.images), partner.valid)

        counts = [len(labelled.images), len(weak.images)]
        images = torch.cat([labelled.images, weak.images])
        clean, dropped = student(images, self._dropout(context)).chunk(2)
        logits, weak_logits = clean.split(counts)
        with torch.no_grad():
            pseudo = encoding.pseudo_label(weak_logits.detach(), weak.valid)
            views = [
                cutmix(taught(own, pseudo), taught(partners, other), box)
                for own, partners, box in zip(
                    strong, (first_partner, second_partner), boxes, strict=True
                )
            ]

        labelled_value, labelled_parts = labelled_loss(
            context, logits, labelled.labels, config, labelled_divisor
        )
        found = student(torch.cat([view.images for view in views])).chunk(2)
        (first, parts), (second, _) = (
            view_loss(context, *each) for each in zip(found, views, strong_divisors, strict=True)
        )
        features, _ = view_loss(
            context, dropped[counts[0] :], taught(weak.images, pseudo), feature_divisor
        )
        strong_value = config.strong_weight * (first + second)
        unlabelled = strong_value + config.feature_weight * features
        values = {
            "labelled": labelled_value,
            "strong": (first + second) / 2,
            "features": features,
        }
        yield Loss(
            value=(labelled_value + unlabelled) / 2,
            logs=labelled_parts | logged(values, pseudo, parts),
        )

    def _dropout(self, context: Context) -> "FeatureDropout":
        return FeatureDropout(self.config.feature_dropout, context.random)


class FeatureDropout:
    """Maps [B,C,h,w] with a second batch [B,C,h,w] behind each, some of whose channels are 0."""

    def __init__(self, share: float, random: torch.Generator) -> None:
        self.share, self.random = share, random

    def __call__(self, maps: list[Tensor]) -> list[Tensor]:
        """Each [B,C,h,w] to [2B,C,h,w]: itself, then dropped; the rest is scaled up."""
        return [torch.cat([each, each * self._mask(each)]) for each in maps]

    def _mask(self, each: Tensor) -> Tensor:
        images, channels = each.shape[:2]
        drawn = per_image(
            lambda n: torch.rand(n, channels, generator=self.random), images, self.random
        )
        kept = drawn >= self.share
        return (kept / (1 - self.share)).to(each)[:, :, None, None]
