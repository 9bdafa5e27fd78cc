"""DACS: domain adaptation by cross-domain mixed sampling.

Source: Tranheden et al., WACV 2021, with the image-level quality weight and the teacher schedule
that DAFormer gave it; the ECOC form is the paper's Sec. 3.4 and App. H. Deviation from the
released ECOCSeg code: the mix mask itself tells source from target pixels (method.md, section 4).
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ecocseg.config import require
from ecocseg.data.augment import domain_view
from ecocseg.data.mixing import class_mask, paste
from ecocseg.data.transforms import Sample
from ecocseg.methods.base import Context, Loss, Method, require_alike, supervised_terms
from ecocseg.types import IGNORE


@dataclass(frozen=True, kw_only=True)
class Config:
    """Configuration of `dacs`."""

    jitter_strength: float = 0.2
    jitter_probability: float = 0.2
    """The jitter is applied when a drawn number exceeds this."""

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
        teacher.train()
        for module in teacher.modules():
            if isinstance(module, nn.modules.dropout._DropoutNd) or "DropPath" in str(type(module)):
                module.eval()

    def losses(self, context: Context, batch: Mapping[str, Sample]) -> Iterator[Loss]:
        """Yield the source summand, then the mixed one."""
        source, target = batch["labelled"], batch["unlabelled"]
        require_alike(source, target, self.name, batches=True)
        value, parts = supervised_terms(
            context, context.student(source.images), source.labels, over_valid=False
        )
        yield Loss(value=value, logs={"loss/labelled": value.detach(), **parts})
        del value

        images, targets, weight, statistics = self.mixed(context, source, target)
        terms = context.encoding.loss(context.student(images), targets, weight)
        logs = {f"mixed/{name}": part for name, part in terms.parts.items()}
        logs |= {f"pseudo/{name}": number for name, number in statistics.items()}
        yield Loss(value=terms.total, logs={"loss/mixed": terms.total.detach(), **logs})

    def mixed(
        self, context: Context, source: Sample, target: Sample
    ) -> tuple[Tensor, Tensor, Tensor, Mapping[str, Tensor]]:
        """Images [B,3,H,W], targets, weight [B,H,W] of the mixed batch, and the statistics.

        Source pixels weigh 1 (ignored ones 0); target pixels weigh their quality, padding 0.
        """
        assert context.teacher is not None
        with torch.no_grad():
            pseudo = context.encoding.pseudo_label(context.teacher(target.images), target.valid)
            mask = class_mask(source.labels, context.random)
            images = paste(mask, source.images, target.images)
            targets = paste(mask, context.encoding.encode(source.labels), pseudo.targets)
            quality = pseudo.quality * target.valid
            weight = paste(mask, (source.labels != IGNORE).to(quality.dtype), quality)
            images = domain_view(
                images, self.config.jitter_strength, self.config.jitter_probability, context.random
            )
        return images, targets, weight, pseudo.statistics
