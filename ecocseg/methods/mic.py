"""MIC: masked image consistency around another method of domain adaptation.

Source: Hoyer et al., CVPR 2023 (lhoyer/MIC): the student learns the inner method's pseudo-labels
again on colour-augmented target images of which most blocks are hidden, so that it infers them
from context. Teacher, threshold and margins are the inner method's.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ecocseg.config import require, unknown
from ecocseg.data.augment import domain_view
from ecocseg.data.dataset import Stream
from ecocseg.data.mixing import block_mask
from ecocseg.data.transforms import Sample
from ecocseg.errors import ConfigError
from ecocseg.methods import build_method
from ecocseg.methods.base import Context, Loss, Losses, Method, heads_loss, require_alike
from ecocseg.methods.dacs import DACS
from ecocseg.types import PseudoLabel

INNER = ("dacs", "daformer")


@dataclass(frozen=True, kw_only=True)
class Config:
    """Configuration of `mic`."""

    inner: Mapping[str, Any] = field(default_factory=lambda: {"name": "daformer"})
    """The method inside: its name, dacs or daformer, and its fields."""
    mask_block: int = 64
    """Side of the hidden blocks in pixels."""
    mask_ratio: float = 0.7
    """Share of the blocks that is hidden."""
    mask_weight: float = 1.0
    """Weight of the masked loss beside the inner method's losses."""

    def __post_init__(self) -> None:
        require(self.mask_block > 0, "mask_block", self.mask_block, "1 or more pixels")
        require(0 <= self.mask_ratio <= 1, "mask_ratio", self.mask_ratio, "0 to 1")
        require(self.mask_weight >= 0, "mask_weight", self.mask_weight, "0 or more")
        self.build_inner()

    def build_inner(self) -> DACS:
        """The inner method; ConfigError for another one than allowed and for its fields."""
        values = dict(self.inner)
        name = str(values.pop("name", ""))
        if name not in INNER:
            raise ConfigError(unknown("inner.name", "method", name, INNER))
        try:
            method: DACS = build_method(name, values)
        except ConfigError as error:
            raise ConfigError(f"inner: {error}") from error
        return method


class MIC(Method):
    """The inner method's losses, then its pseudo-labels on masked target images."""

    name = "mic"
    streams = ("labelled", "unlabelled")
    uses_teacher = True

    def __init__(self, config: Config) -> None:
        self.config = config
        self.inner = config.build_inner()

    @property
    def averages_buffers(self) -> bool:  # type: ignore[override]
        """As in the inner method, whose teacher it is."""
        return self.inner.averages_buffers

    @property
    def uses_reference(self) -> bool:
        """As in the inner method."""
        return self.inner.uses_reference

    def adapt(self, stream: Stream) -> Stream:
        """As the inner method does."""
        return self.inner.adapt(stream)

    def prepare_teacher(self, teacher: nn.Module) -> None:
        """As the inner method does."""
        self.inner.prepare_teacher(teacher)

    def losses(self, context: Context, batch: Mapping[str, Sample]) -> Losses:
        """Yield the inner method's summands, then the masked one."""
        source, target = batch["labelled"], batch["unlabelled"]
        require_alike(source, target, self.name, batches=True)
        yield self.inner.source_loss(context, source)
        pseudo = self.inner.teach(context, target)
        yield self.inner.mixed_loss(context, source, target, pseudo)
        yield self.masked_loss(context, target, pseudo)

    def masked_loss(self, context: Context, target: Sample, pseudo: PseudoLabel) -> Loss:
        """The loss of the pseudo-labels on target images of which blocks are hidden."""
        heads = context.outputs(self.masked(context, target)).heads
        value, parts = heads_loss(context, heads, pseudo.targets, pseudo.quality * target.valid)
        value = self.config.mask_weight * value
        logs = {f"masked/{name}": part for name, part in parts.items()}
        return Loss(value=value, logs={"loss/masked": value.detach(), **logs})

    @torch.no_grad()
    def masked(self, context: Context, target: Sample) -> Tensor:
        """Colour-augmented target images [B,3,H,W] with hidden blocks.

        A hidden pixel has the mean colour that the network's normalisation makes 0.
        """
        jitter = self.inner.config
        images = domain_view(
            target.images, jitter.jitter_strength, jitter.jitter_probability, context.random
        )
        batch, _, height, width = images.shape
        shown = block_mask(
            batch, height, width, self.config.mask_block, self.config.mask_ratio, context.random
        ).to(images.device)
        return torch.where(shown[:, None], images, context.student.mean)
