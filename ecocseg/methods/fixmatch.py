"""FixMatch for segmentation with CutMix.

Source: Sohn et al., NeurIPS 2020, in the form that UniMatch (CVPR 2023) uses as its baseline;
the ECOC form is the paper's App. H. One difference: CutMix partners come from a stream of their
own order. In the public code both loaders shuffle by one seed, so that an image's partner is
another view of itself; CutMix means another image.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from ecocseg.config import require
from ecocseg.data.mixing import paste
from ecocseg.data.transforms import Sample
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
    """Configuration of `fixmatch`."""

    unlabelled_weight: float = 1.0
    """Weight of the consistency loss; the sum is divided by 1 + this."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.unlabelled_weight >= 0, "unlabelled_weight", self.unlabelled_weight, "0 or up")


class FixMatch(Method):
    """Labels on labelled images, the weak view's pseudo-labels on the strong view."""

    name = "fixmatch"
    streams = ("labelled", "unlabelled", "partner")
    whole_images = True

    def __init__(self, config: Config) -> None:
        self.config = config

    def losses(self, context: Context, batch: Mapping[str, Sample]) -> Losses:
        """One summand: labelled and weak views share a forward pass, as in the public code."""
        labelled, weak, partner = (batch[name] for name in self.streams)
        require_alike(labelled, weak, self.name, batches=False)
        encoding, student, config = context.encoding, context.student, self.config

        with torch.no_grad():
            strong, strong_partner = strong_views((weak, partner), context, config)
            box = cutmix_box(weak, context, config)
        labelled_divisor, strong_divisor = yield counted(
            labelled_pixels(context, labelled.labels, config),
            paste(box, partner.valid, weak.valid),
        )
        with torch.no_grad(), evaluating(student):
            other = encoding.pseudo_label(student(partner.images), partner.valid)

        joint = student(torch.cat([labelled.images, weak.images]))
        logits, weak_logits = joint.split([len(labelled.images), len(weak.images)])
        with torch.no_grad():
            pseudo = encoding.pseudo_label(weak_logits.detach(), weak.valid)
            view = cutmix(taught(strong, pseudo), taught(strong_partner, other), box)

        labelled_value, labelled_parts = labelled_loss(
            context, logits, labelled.labels, config, labelled_divisor
        )
        strong_value, parts = view_loss(context, student(view.images), view, strong_divisor)
        share = config.unlabelled_weight
        yield Loss(
            value=(labelled_value + share * strong_value) / (1 + share),
            logs=labelled_parts
            | logged({"labelled": labelled_value, "strong": strong_value}, pseudo, parts),
        )
