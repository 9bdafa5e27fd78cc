"""Geometric transforms of image and label together, drawn from an explicit generator."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.transforms.v2 import functional as TF

from ecocseg.config import require
from ecocseg.data.resize import bilinear
from ecocseg.types import IGNORE

Margins = tuple[int, int, int, int]
"""Top, bottom, left and right, in pixels."""


@dataclass(frozen=True, kw_only=True)
class TransformConfig:
    """Random scale, crop and flip of a training stream."""

    crop: tuple[int, int]
    """Height and width of the crop in pixels; smaller images are padded."""
    scale: tuple[float, float] | None = None
    """Range of the random scale factor, None for no scaling (SSL: 0.5 to 2)."""
    base_size: int | None = None
    """Pixels of a long side at factor 1, whatever the image's own (ST++: 400 on Pascal, 2048 on
    Cityscapes); None for the image's own, as UniMatch has it."""
    flip: float = 0.5
    """Probability of a horizontal flip."""
    quarter_turns: float = 0.0
    """Probability of a turn by a multiple of 90 degrees and a mirror image (ACDC: 0.5); images are
    turned before they are cropped."""
    rotation: float = 0.0
    """Largest angle in degrees by which half of the images that had no quarter turn are rotated
    (ACDC: 20); what comes in from outside is black and, in the label, class 0."""
    max_class_share: float = 1.0
    """A crop where one class covers more is drawn again, ten times at most (UDA source: 0.75)."""

    def __post_init__(self) -> None:
        require(min(self.crop) > 0, "crop", self.crop, "[height, width], both above 0")
        if self.scale is not None:
            low, high = self.scale
            require(0 < low <= high, "scale", self.scale, "[low, high] with 0 < low <= high")
        require(
            self.base_size is None or (self.base_size > 0 and self.scale is not None),
            "base_size",
            self.base_size,
            "null, or 1 or more pixels together with a scale",
        )
        for name in ("flip", "quarter_turns"):
            require(0 <= getattr(self, name) <= 1, name, getattr(self, name), "0 to 1")
        require(0 <= self.rotation <= 180, "rotation", self.rotation, "0 to 180")
        require(0 < self.max_class_share <= 1, "max_class_share", self.max_class_share, "0 to 1")


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One image, or a batch of them when every tensor has a leading B."""

    images: Tensor
    """RGB in 0..1 of F frames, float32 [3F,H,W] or [B,3F,H,W]; the network normalises it."""
    labels: Tensor
    """Class of each pixel, int64 [H,W] or [B,H,W]; 255 where none is given."""
    valid: Tensor
    """False on padding, bool [H,W] or [B,H,W]."""
    trusted: Tensor | None = None
    """False on padding and where the margins of the whole image lie, bool like `valid`; None when
    the stream has no margins."""
    targets: Tensor | None = None
    """Pseudo-labels that were stored, as `Encoding.pack` gives them: uint8 [P,H,W] or [B,P,H,W];
    None when the stream has none."""

    def to(self, device: torch.device) -> "Sample":
        """The sample on `device`."""
        return self._each(lambda tensor: tensor.to(device, non_blocking=True))

    def pin_memory(self) -> "Sample":
        """A copy in page-locked memory, from which `to` copies while the GPU computes.

        DataLoader calls it by this name.
        """
        return self._each(Tensor.pin_memory)

    def _each(self, change: Callable[[Tensor], Tensor]) -> "Sample":
        return Sample(
            images=change(self.images),
            labels=change(self.labels),
            valid=change(self.valid),
            trusted=None if self.trusted is None else change(self.trusted),
            targets=None if self.targets is None else change(self.targets),
        )


@dataclass(frozen=True, kw_only=True)
class Quota:
    """What a crop must have more of to be taken at once."""

    train_id: int
    pixels: float
    tries: int
    """How often another crop is drawn instead; the last one is taken."""


def collate(samples: list[Sample]) -> Sample:
    """Stack samples of one size into a batch."""
    trusted = [s.trusted for s in samples if s.trusted is not None]
    targets = [s.targets for s in samples if s.targets is not None]
    return Sample(
        images=torch.stack([s.images for s in samples]),
        labels=torch.stack([s.labels for s in samples]),
        valid=torch.stack([s.valid for s in samples]),
        trusted=torch.stack(trusted) if trusted else None,
        targets=torch.stack(targets) if targets else None,
    )


def uniform(low: float, high: float, generator: torch.Generator) -> float:
    """One number between `low` and `high`."""
    return low + (high - low) * float(torch.rand((), generator=generator))


def random_geometry(
    image: Tensor,
    label: Tensor,
    config: TransformConfig,
    generator: torch.Generator,
    *,
    margins: Margins | None = None,
    quota: Quota | None = None,
    targets: Tensor | None = None,
) -> Sample:
    """Scale, pad, crop and flip an image uint8 [3F,H,W] with its label uint8 [H,W].

    An image that is smaller than its label is enlarged to it, only where the crop lies. The scale
    factor is of the label's size: with scale [0.5, 2] the long side is between half and twice as
    long, or with a `base_size` between half and twice that. Padding is black,
    labelled 255 and not valid. `margins` of the whole image go with it into `trusted`; crop and
    flip are drawn again while the `quota` is not met. Stored pseudo-labels `targets` uint8 [P,H,W]
    go the way of the label.
    """
    maps = [label] if margins is None else [label, inside(label.shape, margins)]
    if targets is not None:
        maps += targets.unbind()
    if config.quarter_turns or config.rotation:
        image = _enlarged(image, *label.shape)
        image, maps = _turned(image, maps, config, generator)
    if config.scale is not None:
        factor = uniform(*config.scale, generator)
        if config.base_size is not None:
            factor *= config.base_size / max(maps[0].shape)
        size = [max(1, round(side * factor)) for side in maps[0].shape]
        image = TF.resize(_enlarged(image, *maps[0].shape).contiguous(), size, antialias=True)
        # Not NEAREST: that one shifts labels by up to half a pixel against the image.
        maps = [TF.resize(m[None], size, TF.InterpolationMode.NEAREST_EXACT)[0] for m in maps]
    height, width = config.crop
    high, wide = maps[0].shape
    padding = (0, max(0, width - wide), 0, max(0, height - high))
    if any(padding):
        maps = [F.pad(m, padding, value=IGNORE if m is maps[0] else 0) for m in maps]
    for _ in range(1 + (quota.tries if quota is not None else 0)):
        top, left = _crop_corner(maps[0], config, generator)
        window = slice(top, top + height), slice(left, left + width)
        flipped = uniform(0, 1, generator) < config.flip
        if quota is None or int((maps[0][window] == quota.train_id).sum()) > quota.pixels:
            break
    valid = F.pad(torch.ones(min(height, high), min(width, wide), dtype=torch.uint8), padding)
    image = F.pad(_enlarged(image, high, wide, *window), padding)
    crops = [image, valid, *(m[window] for m in maps)]
    image, valid, label, *rest = (c.flip(-1) if flipped else c for c in crops)
    trusted = rest.pop(0).bool() if margins is not None else None
    return Sample(
        images=image.contiguous().float() / 255,
        labels=label.long(),
        valid=valid.bool(),
        trusted=trusted,
        targets=torch.stack(rest) if rest else None,
    )


def _turned(
    image: Tensor, maps: list[Tensor], config: TransformConfig, generator: torch.Generator
) -> tuple[Tensor, list[Tensor]]:
    """Turn an image and its maps as the public code does on ACDC: by quarters, or a little."""
    if uniform(0, 1, generator) < config.quarter_turns:
        turns = int(torch.randint(4, (), generator=generator))
        axis = int(torch.randint(2, (), generator=generator)) - 2
        image, *maps = (each.rot90(turns, (-2, -1)).flip(axis) for each in (image, *maps))
    elif config.rotation and uniform(0, 1, generator) < 0.5:
        angle = uniform(-config.rotation, config.rotation, generator)
        # Nearest pixels for the image too, as there.
        image = TF.rotate(image.contiguous(), angle)
        maps = [TF.rotate(each[None].contiguous(), angle)[0] for each in maps]
    return image, maps


def _enlarged(
    image: Tensor,
    height: int,
    width: int,
    rows: slice = slice(None),
    columns: slice = slice(None),
) -> Tensor:
    """Rows and columns of an image [3,h,w] that is read at height and width."""
    if image.shape[1:] == (height, width):
        return image[:, rows, columns]
    frames = [
        torch.from_numpy(
            bilinear(frame.permute(1, 2, 0).numpy(), (height, width), rows, columns)
        ).permute(2, 0, 1)
        for frame in image.split(3)
    ]
    return frames[0] if len(frames) == 1 else torch.cat(frames)


def inside(size: Sequence[int], margins: Margins) -> Tensor:
    """1 inside the margins of an image of `size`, 0 in them; uint8 [H,W]."""
    top, bottom, left, right = margins
    height, width = size
    trusted = torch.zeros(height, width, dtype=torch.uint8)
    trusted[top : max(top, height - bottom), left : max(left, width - right)] = 1
    return trusted


def _crop_corner(
    label: Tensor, config: TransformConfig, generator: torch.Generator
) -> tuple[int, int]:
    """A random corner; drawn again while one class dominates the crop."""
    height, width = config.crop
    spare = (label.shape[0] - height + 1, label.shape[1] - width + 1)
    for _ in range(11):
        top, left = (int(torch.randint(s, (), generator=generator)) for s in spare)
        if config.max_class_share >= 1:
            break
        counts = torch.bincount(label[top : top + height, left : left + width].flatten())
        counts = counts[:IGNORE]
        # As in mmsegmentation's cat_max_ratio: a crop of a single class is drawn again too.
        if (counts > 0).sum() > 1 and counts.max() / counts.sum() < config.max_class_share:
            break
    return top, left
