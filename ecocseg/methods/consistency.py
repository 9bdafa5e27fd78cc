"""What the semi-supervised methods share: the loss on labels, and strong views with their targets.

Sources: LiheYoung/UniMatch `fixmatch.py`, `unimatch.py`, `util/ohem.py`; the ECOC form is the
paper's App. H.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ecocseg.config import require
from ecocseg.data.augment import strong_view
from ecocseg.data.mixing import cutmix_mask, paste
from ecocseg.data.transforms import Sample
from ecocseg.encodings.base import Encoding
from ecocseg.engine.distributed import SINGLE, Group
from ecocseg.errors import ConfigError
from ecocseg.methods.base import Context, supervised_terms, whole
from ecocseg.types import IGNORE, PseudoLabel


@dataclass(frozen=True, kw_only=True)
class LabelledConfig:
    """How a method learns from labels: the loss over valid pixels, or over hard ones (OHEM)."""

    ohem_threshold: float | None = None
    """Only pixels whose label has at most this confidence count, and at least `ohem_min_kept` for
    each image; None for all pixels. The Cityscapes recipe has 0.7."""
    ohem_min_kept: int = 100_000
    """Hardest pixels for each image of the batch that count in any case."""

    def __post_init__(self) -> None:
        threshold = self.ohem_threshold
        require(
            threshold is None or 0 < threshold <= 1, "ohem_threshold", threshold, "null, or 0 to 1"
        )
        require(self.ohem_min_kept >= 0, "ohem_min_kept", self.ohem_min_kept, "0 or more")


@dataclass(frozen=True, kw_only=True)
class ConsistencyConfig(LabelledConfig):
    """What methods with strong views have in common."""

    cutmix_probability: float = 0.5
    greyscale_probability: float = 0.2
    """Of a strong view; the change detection recipe has 0."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("cutmix_probability", "greyscale_probability"):
            require(0 <= getattr(self, name) <= 1, name, getattr(self, name), "0 to 1")


@dataclass(frozen=True, kw_only=True)
class View:
    """Images and what is to be learnt of them; every tensor crops and mixes like an image."""

    images: Tensor
    """[B,3F,H,W] in 0..1."""
    targets: Tensor
    """As in `PseudoLabel`."""
    weight: Tensor
    """Of each pixel, 0 on padding, [B,H,W]."""


def labelled_pixels(context: Context, labels: Tensor, config: LabelledConfig) -> Tensor:
    """Pixels of labels [B,H,W] that `labelled_loss` is to be told the divisor of, bool [B,H,W].

    Raises ConfigError when the hard ones of a whole batch are asked for, but it comes in parts.
    """
    if config.ohem_threshold is not None and context.micro_batches > 1:
        raise ConfigError(
            f"method.ohem_threshold: got {config.ohem_threshold} with schedule.micro_batches "
            f"{context.micro_batches}; which pixels of a batch are its hardest is not known from a "
            "part of it: set schedule.micro_batches to 1, or method.ohem_threshold to null"
        )
    return labels != IGNORE


def labelled_loss(
    context: Context, logits: Tensor, labels: Tensor, config: LabelledConfig, divisor: Tensor
) -> tuple[Tensor, dict[str, Tensor]]:
    """Loss of `logits` [B,K,H,W] on labels [B,H,W] over the pixels that count, and its parts.

    `divisor` is that of `labelled_pixels`; hard pixels have their own.
    """
    if config.ohem_threshold is not None:
        least = config.ohem_min_kept * len(labels) * context.group.size
        hard = hard_pixels(
            context.encoding, logits, labels, config.ohem_threshold, least, context.group
        )
        labels = labels.masked_fill(~hard, IGNORE)
        divisor = context.group.divisor(hard.sum())
    return supervised_terms(context, whole(logits), labels, divisor)


@torch.no_grad()
def hard_pixels(
    encoding: Encoding,
    logits: Tensor,
    labels: Tensor,
    threshold: float,
    min_kept: int,
    group: Group = SINGLE,
) -> Tensor:
    """Online hard example mining: the pixels of a batch that count, bool [B,H,W].

    Those whose label has a confidence of at most `threshold`, or of at most the `min_kept`-th
    smallest of the batch if that is more. The batch is that of all processes, so that their number
    changes nothing; UniMatch's code takes each GPU's two images by themselves. For one-hot it is
    the softmax output of the label; for ECOC the mean over bits of the probability of the label's
    bit.
    """
    counted = labels != IGNORE
    confidence = encoding.label_confidence(logits, labels.masked_fill(~counted, 0))
    confidence = confidence.masked_fill(~counted, 2.0)
    limit = torch.full((), threshold, dtype=confidence.dtype, device=confidence.device)
    if min_kept > 0:
        everywhere = group.gather(confidence).flatten()
        place = min(min_kept, everywhere.numel())
        limit = torch.maximum(limit, everywhere.kthvalue(place).values)
    return counted & (confidence <= limit)


def strong_views(
    samples: tuple[Sample, ...], context: Context, config: ConsistencyConfig
) -> list[Tensor]:
    """A strong view of the images of each sample, drawn independently, in one pass."""
    images = torch.cat([sample.images for sample in samples])
    views = strong_view(images, context.random, config.greyscale_probability)
    return list(views.split([len(sample.images) for sample in samples]))


def taught(images: Tensor, pseudo: PseudoLabel) -> View:
    """A view with the targets that the pseudo-label of its images gives."""
    return View(images=images, targets=pseudo.targets, weight=pseudo.quality)


def cutmix_box(sample: Sample, context: Context, config: ConsistencyConfig) -> Tensor:
    """Where images of `sample` are pasted into, bool [B,H,W]."""
    batch, height, width = sample.valid.shape
    box = cutmix_mask(batch, height, width, context.random, config.cutmix_probability)
    return box.to(sample.valid.device)


def cutmix(view: View, other: View, box: Tensor) -> View:
    """`view` with what `other` has in `box` [B,H,W] pasted into each image."""
    parts = {
        name: paste(box, getattr(other, name), getattr(view, name))
        for name in ("images", "targets", "weight")
    }
    return replace(view, **parts)


def view_loss(
    context: Context, logits: Tensor, view: View, divisor: Tensor
) -> tuple[Tensor, Mapping[str, Tensor]]:
    """Weighted loss of `logits` [B,K,H,W] on a view's targets, and its parts.

    The mean over its valid pixels, whose `divisor` this is.
    """
    terms = context.encoding.loss(logits, view.targets, view.weight)
    return terms.total * (view.weight.numel() / divisor), terms.parts


def logged(
    values: Mapping[str, Tensor], pseudo: PseudoLabel, parts: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Scalars for the curves: summands of the loss, parts of the strong one, the labels' facts."""
    found = {f"loss/{name}": value.detach() for name, value in values.items()}
    found |= {f"strong/{name}": part for name, part in parts.items()}
    return found | {f"pseudo/{name}": number for name, number in pseudo.statistics.items()}
