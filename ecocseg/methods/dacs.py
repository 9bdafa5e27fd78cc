"""DACS: domain adaptation by cross-domain mixed sampling.

Source: Tranheden et al., WACV 2021, with the image-level quality weight and the teacher schedule
that DAFormer gave it; the ECOC form is the paper's Sec. 3.4 and App. H. Deviation from the
released ECOCSeg code: the mix mask itself tells source from target pixels (method.md, section 4).
`mix_classes` says whether half of an image's own classes are pasted, as the paper of ClassMix has
it, or half of the whole batch's, as the code of DACS, DAFormer and MIC does.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ecocseg.config import require
from ecocseg.data.augment import domain_view
from ecocseg.data.mixing import ClassesOf, class_mask, paste
from ecocseg.data.transforms import Sample
from ecocseg.methods.base import (
    Context,
    Loss,
    Losses,
    Method,
    heads_loss,
    require_alike,
    supervised_terms,
)
from ecocseg.types import IGNORE, PseudoLabel


@dataclass(frozen=True, kw_only=True)
class Config:
    """Configuration of `dacs`."""

    jitter_strength: float = 0.2
    jitter_probability: float = 0.2
    """The jitter is applied when a drawn number exceeds this."""
    mix_classes: ClassesOf = "image"
    """Whose classes half are pasted of: each image's own, or the batch's (released code)."""

    def __post_init__(self) -> None:
        require(
            0 <= self.jitter_strength <= 0.5, "jitter_strength", self.jitter_strength, "0 to 0.5"
        )
        require(
            0 <= self.jitter_probability <= 1, "jitter_probability", self.jitter_probability, "0-1"
        )


class DACS(Method):
    """Source loss, then the loss on target images with source classes pasted in."""

    name = "dacs"
    streams = ("labelled", "unlabelled")
    uses_teacher = True
    averages_buffers = False

    def __init__(self, config: Config) -> None:
        self.config = config

    def prepare_teacher(self, teacher: nn.Module) -> None:
        """No dropout; batch normalisation by the teacher's own batches, as in the released code."""
        for module in teacher.modules():
            if isinstance(module, nn.modules.dropout._DropoutNd) or "DropPath" in str(type(module)):
                module.eval()

    def losses(self, context: Context, batch: Mapping[str, Sample]) -> Losses:
        """Yield the source summand, then the mixed one."""
        source, target = batch["labelled"], batch["unlabelled"]
        require_alike(source, target, self.name, batches=True)
        yield self.source_loss(context, source)
        yield self.mixed_loss(context, source, target, self.teach(context, target))

    def source_loss(self, context: Context, source: Sample) -> Loss:
        """The loss on the source images' labels."""
        value, parts = supervised_terms(
            context, context.outputs(source.images).heads, source.labels
        )
        return Loss(value=value, logs={"loss/labelled": value.detach(), **parts})

    @torch.no_grad()
    def teach(self, context: Context, target: Sample) -> PseudoLabel:
        """The teacher's pseudo-labels of target images; padding has quality 0."""
        assert context.teacher is not None
        return context.encoding.pseudo_label(context.teacher(target.images), target.valid)

    def mixed_loss(
        self, context: Context, source: Sample, target: Sample, pseudo: PseudoLabel
    ) -> Loss:
        """The loss on target images with source classes pasted in."""
        images, targets, weight = self.mixed(context, source, target, pseudo)
        value, parts = heads_loss(context, context.outputs(images).heads, targets, weight)
        logs = {f"mixed/{name}": part for name, part in parts.items()}
        logs |= {f"pseudo/{name}": number for name, number in pseudo.statistics.items()}
        return Loss(value=value, logs={"loss/mixed": value.detach(), **logs})

    @torch.no_grad()
    def mixed(
        self, context: Context, source: Sample, target: Sample, pseudo: PseudoLabel
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Images [B,3,H,W], targets and weight [B,H,W] of the mixed batch.

        Source pixels weigh 1 (ignored ones 0); target pixels weigh their quality, padding 0.
        """
        mask = class_mask(source.labels, context.random, self.config.mix_classes)
        images = paste(mask, source.images, target.images)
        targets = paste(mask, context.encoding.encode(source.labels), pseudo.targets)
        quality = pseudo.quality * target.valid
        weight = paste(mask, (source.labels != IGNORE).to(quality.dtype), quality)
        images = domain_view(
            images, self.config.jitter_strength, self.config.jitter_probability, context.random
        )
        return images, targets, weight
