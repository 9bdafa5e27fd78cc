"""HRDA: a large context crop at low resolution and a small detail crop at high resolution, fused.

Source: Hoyer et al., ECCV 2022; lhoyer/MIC `segmentors/hrda_encoder_decoder.py` and
`decode_heads/hrda_head.py`. Deviations: images of any size (the release wants multiples of 64 not
smaller than the detail crop), and detail windows may go through the network in several batches.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ecocseg.errors import ConfigError
from ecocseg.models.network import STRIDE, FeatureChange, Segmenter, pad_to_multiple, upsample
from ecocseg.types import Head, Outputs

SCALE = 2
"""Pixels of the image over pixels of the context image, along one side."""
MAP_STRIDE = 4
"""Pixels that a cell of the decoder's map stands for, along one side."""
GRID = SCALE * MAP_STRIDE
"""Detail crops lie on it, so that they cover whole cells of the context's map."""

Place = tuple[slice, slice]
"""Rows and columns of a crop, in pixels."""


class HRDA(Segmenter):
    """A DAFormer network on two scales, with a learnt attention between them.

    `encoder`, `decoder` and `head` are shared between the scales. `crop` is height and width of the
    detail crop, `loss_weight` its share in the loss, `windows` how many detail windows go through
    the network at a time in `forward`.
    """

    def __init__(
        self,
        encoder: nn.Module,
        decoder: nn.Module,
        head: nn.Sequential,
        attention: nn.Module,
        *,
        crop: tuple[int, int],
        loss_weight: float,
        windows: int,
    ) -> None:
        super().__init__(encoder, decoder, head)
        self.attention = attention
        self.crop, self.loss_weight, self.windows = crop, loss_weight, windows
        self.processes = 1
        """Those that share a batch: what goes through the network at a time is theirs together."""

    def forward(self, images: Tensor, change: FeatureChange | None = None) -> Tensor:
        """[B,3,H,W] in 0..1 to logits [B,K,H,W], the detail from windows that overlap by half.

        Raises ConfigError for a `change` of the features: two scales have none in common.
        """
        if change is not None:
            raise ConfigError(
                "model.decoder: got 'hrda', whose two scales have no features in common that a "
                "method could perturb (unimatch, unimatch_v2); take another decoder"
            )
        height, width = images.shape[-2:]
        full = self._padded(images)
        context, attention, _ = self._context(full)
        fused = fuse(context, self._slide(full), attention)
        return upsample(fused, full.shape[-2:])[..., :height, :width]

    def outputs(self, images: Tensor, random: torch.Generator) -> Outputs:
        """What is learnt from images [B,3,H,W]: the fused prediction and a detail crop.

        One crop is drawn for the batch. The features [B,C,h,w] are those of the context image: a
        cell stands for 64x64 pixels of the padded images.
        """
        height, width = images.shape[-2:]
        full = self._padded(images)
        context, attention, features = self._context(full)
        rows, columns = self.draw_crop(height, width, random)
        detail = self._cut(full[..., rows, columns])[0]
        fused = fuse(context, detail, attention, (rows, columns))

        # Where the image is smaller than the crop, the crop holds padding.
        rows_inside = slice(rows.start, min(rows.stop, height))
        columns_inside = slice(columns.start, min(columns.stop, width))
        inside = rows_inside.stop - rows.start, columns_inside.stop - columns.start
        whole = Head(
            logits=upsample(fused, full.shape[-2:])[..., :height, :width],
            rows=slice(0, height),
            columns=slice(0, width),
            weight=1 - self.loss_weight,
        )
        part = Head(
            logits=upsample(detail, self.crop)[..., : inside[0], : inside[1]],
            rows=rows_inside,
            columns=columns_inside,
            weight=self.loss_weight,
        )
        stride = full.shape[-1] // features.shape[-1]
        return Outputs(heads=(whole, part), features=features, stride=stride)

    def features(self, images: Tensor) -> Tensor:
        """The features of `outputs` alone."""
        last: Tensor = self.encoder(_halved(self._padded(images)))[-1]
        return last

    def draw_crop(self, height: int, width: int, random: torch.Generator) -> Place:
        """Where the detail crop of images of that size lies, on a grid of 8 pixels.

        As in the release, the last position of the grid is never drawn.
        """
        slices = []
        for side, crop in zip((height, width), self.crop, strict=True):
            positions = max((max(side - crop, 0) + 1) // GRID, 1)
            first = GRID * int(torch.randint(positions, (), generator=random))
            slices.append(slice(first, first + crop))
        return slices[0], slices[1]

    def _padded(self, images: Tensor) -> Tensor:
        return pad_to_multiple(self.normalise(images), SCALE * STRIDE, self.crop)

    def _context(self, full: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Of normalised images [B,3,H,W]: logits and attention [B,K,H/8,W/8], features."""
        logits, maps = self._cut(_halved(full))
        return logits, self.attention(maps), maps[-1]

    def _cut(self, images: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Logits [B,K,H/4,W/4] of normalised images, and the encoder's maps of the padded ones."""
        height, width = images.shape[-2:]
        maps = self.encoder(pad_to_multiple(images, STRIDE))
        logits: Tensor = self.head(self.decoder(maps))
        return logits[..., : height // MAP_STRIDE, : width // MAP_STRIDE], maps

    def _slide(self, full: Tensor) -> Tensor:
        """Mean logits [B,K,H/4,W/4] of the detail windows over normalised images [B,3,H,W]."""
        places = window_places(full.shape[-2], full.shape[-1], self.crop)
        # Batch statistics are of the windows that go together.
        sharing = self.processes if self.training else 1
        at_a_time = max(self.windows // (len(full) * sharing), 1)
        total, visits = None, None
        for first in range(0, len(places), at_a_time):
            part = places[first : first + at_a_time]
            found = self._cut(torch.cat([full[..., rows, columns] for rows, columns in part]))[0]
            if total is None or visits is None:
                size = [side // MAP_STRIDE for side in full.shape[-2:]]
                # Sums of half-precision numbers would lose digits.
                wide = torch.promote_types(found.dtype, torch.float32)
                total = found.new_zeros(len(full), found.shape[1], *size, dtype=wide)
                visits = total.new_zeros(1, 1, *size)
            for logits, place in zip(found.split(len(full)), part, strict=True):
                rows, columns = (_shrunk(side, MAP_STRIDE) for side in place)
                total[..., rows, columns] += logits
                visits[..., rows, columns] += 1
        assert total is not None
        assert visits is not None
        return (total / visits).to(found.dtype)


def fuse(context: Tensor, detail: Tensor, attention: Tensor, place: Place | None = None) -> Tensor:
    """Fused logits [B,K,2h,2w]: attention * detail + (1 - attention) * context, upsampled.

    `context` logits and `attention` are [B,K,h,w]. `detail` logits are [B,K,2h,2w], or those of the
    crop at `place`, outside of which the context alone counts.
    """
    size = (SCALE * context.shape[-2], SCALE * context.shape[-1])
    wide = torch.promote_types(context.dtype, torch.float32)
    context, attention = context.to(wide), attention.to(wide)
    if place is not None:
        inside = attention.new_zeros(1, 1, *attention.shape[-2:])
        inside[..., _shrunk(place[0], GRID), _shrunk(place[1], GRID)] = 1
        attention = attention * inside
        crop = detail
        detail = crop.new_zeros(*context.shape[:2], *size)
        detail[..., _shrunk(place[0], MAP_STRIDE), _shrunk(place[1], MAP_STRIDE)] = crop
    fused = upsample(attention, size) * detail + upsample((1 - attention) * context, size)
    return fused.to(detail.dtype)


def window_places(height: int, width: int, crop: tuple[int, int]) -> list[Place]:
    """Windows of `crop` that overlap by half and cover an image not smaller than that.

    The last ones of a row and of a column are moved back into the image.
    """
    starts = [
        [min(first, side - size) for first in range(0, side - size + size // 2, size // 2)]
        for side, size in zip((height, width), crop, strict=True)
    ]
    return [
        (slice(top, top + crop[0]), slice(left, left + crop[1]))
        for top in starts[0]
        for left in starts[1]
    ]


def _halved(images: Tensor) -> Tensor:
    """The context image of [B,3,H,W]: half the size, bilinear without a low-pass filter."""
    size = [side // SCALE for side in images.shape[-2:]]
    return F.interpolate(images, size, mode="bilinear", align_corners=False)


def _shrunk(pixels: slice, stride: int) -> slice:
    return slice(pixels.start // stride, pixels.stop // stride)
