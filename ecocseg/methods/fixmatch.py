"""FixMatch for segmentation with CutMix.

Source: Sohn et al., NeurIPS 2020, in the form that UniMatch (CVPR 2023) uses as its baseline;
the ECOC form is the paper's App. H. One difference: CutMix partners come from a stream of their
own order (in the public code both loaders happen to walk the same order).
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch

from ecocseg.config import require
from ecocseg.data.augment import strong_view
from ecocseg.data.mixing import cutmix_mask, paste
from ecocseg.data.transforms import Sample
from ecocseg.methods.base import (
    Context,
    Loss,
    Method,
    require_alike,
    supervised_terms,
    valid_scale,
    whole,
)


@dataclass(frozen=True, kw_only=True)
class Config:
    """Configuration of `fixmatch`."""

    unlabelled_weight: float = 1.0
    """Weight of the consistency loss; the sum is divided by 1 + this."""
    cutmix_probability: float = 0.5

    def __post_init__(self) -> None:
        require(self.unlabelled_weight >= 0, "unlabelled_weight", self.unlabelled_weight, "0 or up")
        require(
            0 <= self.cutmix_probability <= 1, "cutmix_probability", self.cutmix_probability, "0-1"
        )


class FixMatch(Method):
    """Labels on labelled images, the weak view's pseudo-labels on the strong view."""

    name = "fixmatch"
    streams = ("labelled", "unlabelled", "partner")

    def __init__(self, config: Config) -> None:
        self.config = config

    def losses(self, context: Context, batch: Mapping[str, Sample]) -> Iterator[Loss]:
        """One summand: labelled and weak views share a forward pass, as in the public code."""
        labelled, weak, partner = (batch[name] for name in self.streams)
        require_alike(labelled, weak, self.name, batches=False)
        encoding, student = context.encoding, context.student

        with torch.no_grad():
            strong = strong_view(weak.images, context.random)
            strong_partner = strong_view(partner.images, context.random)
            batch_size, height, width = weak.labels.shape
            box = cutmix_mask(
                batch_size, height, width, context.random, self.config.cutmix_probability
            ).to(weak.images.device)
            strong = paste(box, strong_partner, strong)
            valid = paste(box, partner.valid, weak.valid)
            student.eval()
            other = encoding.pseudo_label(student(partner.images), partner.valid)
            student.train()

        joint = student(torch.cat([labelled.images, weak.images]))
        logits, weak_logits = joint.split([len(labelled.images), len(weak.images)])
        with torch.no_grad():
            pseudo = encoding.pseudo_label(weak_logits.detach(), weak.valid)
            targets = paste(box, other.targets, pseudo.targets)
            weight = paste(box, other.quality, pseudo.quality) * valid

        labelled_value, parts = supervised_terms(
            context, whole(logits), labelled.labels, over_valid=True
        )
        terms = encoding.loss(student(strong), targets, weight)
        strong_value = terms.total * valid_scale(valid)
        share = self.config.unlabelled_weight
        value = (labelled_value + share * strong_value) / (1 + share)
        logs = {f"strong/{name}": part for name, part in terms.parts.items()}
        logs |= {f"pseudo/{name}": number for name, number in pseudo.statistics.items()}
        yield Loss(
            value=value,
            logs={
                "loss/labelled": labelled_value.detach(),
                "loss/strong": strong_value.detach(),
                **parts,
                **logs,
            },
        )
