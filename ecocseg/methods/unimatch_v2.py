"""UniMatch V2: an averaged teacher, and a pair of strong views with complementary dropout.

Source: Yang et al., TPAMI 2025, LiheYoung/UniMatch-V2 `unimatch_v2.py` and `model/semseg/dpt.py`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from ecocseg.config import require
from ecocseg.data.mixing import paste
from ecocseg.data.transforms import Sample
from ecocseg.engine.distributed import Group, group_of, per_image
from ecocseg.methods.base import Context, Loss, Losses, Method, counted
from ecocseg.methods.consistency import (
    ConsistencyConfig,
    View,
    cutmix,
    cutmix_box,
    labelled_loss,
    labelled_pixels,
    logged,
    strong_views,
    taught,
    view_loss,
)


@dataclass(frozen=True, kw_only=True)
class Config(ConsistencyConfig):
    """Configuration of `unimatch_v2`."""

    dropped_pairs: float = 0.5
    """Share of the pairs of strong views whose features are dropped at all."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(0 <= self.dropped_pairs <= 1, "dropped_pairs", self.dropped_pairs, "0 to 1")


class UniMatchV2(Method):
    """Labels, and the teacher's pseudo-labels on two strong views that share no channel."""

    name = "unimatch_v2"
    streams = ("labelled", "unlabelled")
    whole_images = True
    uses_teacher = True

    def __init__(self, config: Config) -> None:
        self.config = config

    def losses(self, context: Context, batch: Mapping[str, Sample]) -> Losses:
        """Two summands, each half of the loss: labelled images, then the strong views.

        CutMix partners are the images of the batch in reversed order.
        """
        labelled, weak = (batch[name] for name in self.streams)
        encoding, student, config = context.encoding, context.student, self.config
        assert context.teacher is not None

        (divisor,) = yield counted(labelled_pixels(context, labelled.labels, config))
        logits = student(labelled.images)
        value, labelled_parts = labelled_loss(context, logits, labelled.labels, config, divisor)
        del logits
        yield Loss(value=value / 2, logs={"loss/labelled": value.detach(), **labelled_parts})
        del value

        with torch.no_grad():
            strong = strong_views((weak, weak), context, config)
            boxes = [cutmix_box(weak, context, config) for _ in strong]
            other_valid = context.group.mirrored(weak.valid)
        divisors = yield counted(*(paste(box, other_valid, weak.valid) for box in boxes))
        with torch.no_grad():
            pseudo = encoding.pseudo_label(context.teacher(weak.images), weak.valid)
            views = []
            for images, box in zip(strong, boxes, strict=True):
                view = taught(images, pseudo)
                views.append(cutmix(view, _reversed(view, context.group), box))
        dropout = ComplementaryDropout(config.dropped_pairs, context.random)
        found = student(torch.cat([view.images for view in views]), dropout).chunk(2)
        (first, parts), (second, _) = (
            view_loss(context, *each) for each in zip(found, views, divisors, strict=True)
        )
        strong_value = (first + second) / 2
        yield Loss(value=strong_value / 2, logs=logged({"strong": strong_value}, pseudo, parts))


class ComplementaryDropout:
    """Maps [2B,C,h,w] of B pairs of views: what the first of a pair keeps the second one loses.

    Half of the channels, drawn anew for each pair; those kept are doubled. All maps of one width
    lose the same channels, as the public code has it for the layers of a ViT. Of the pairs a share
    of `1 - dropped`, rounded down, stays whole.
    """

    def __init__(self, dropped: float, random: torch.Generator) -> None:
        self.dropped, self.random = dropped, random

    def __call__(self, maps: list[Tensor]) -> list[Tensor]:
        """Maps of equal shapes."""
        pairs = len(maps[0]) // 2
        every = pairs * group_of(self.random).size
        whole = torch.randperm(every, generator=self.random)[: int(every * (1 - self.dropped))]
        masks: dict[int, Tensor] = {}
        for width in (each.shape[1] for each in maps):
            if width not in masks:
                first = self._first(pairs, width, whole)
                masks[width] = torch.cat([first, 2 - first])
        return [each * masks[each.shape[1]].to(each)[:, :, None, None] for each in maps]

    def _first(self, pairs: int, width: int, whole: Tensor) -> Tensor:
        """Factors [pairs,width] of the first views; those of the second are 2 minus these."""

        def draw(count: int) -> Tensor:
            first = (torch.rand(count, width, generator=self.random) < 0.5) * 2.0
            first[whole] = 1.0
            return first

        return per_image(draw, pairs, self.random)


def _reversed(view: View, group: Group) -> View:
    """The images of the batch in reversed order; this process's part of them."""
    found = {each.name: group.mirrored(getattr(view, each.name)) for each in fields(view)}
    return replace(view, **found)
