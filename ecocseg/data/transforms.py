"""Geometric transforms of image and label together, drawn from an explicit generator."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.transforms.v2 import functional as TF

from ecocseg.config import require
from ecocseg.types import IGNORE


@dataclass(frozen=True, kw_only=True)
class TransformConfig:
    """Random scale, crop and flip of a training stream."""

    crop: tuple[int, int]
    """Height and width of the crop in pixels; smaller images are padded."""
    scale: tuple[float, float] | None = None
    """Range of the random scale factor, None for no scaling (SSL: 0.5 to 2)."""
    flip: float = 0.5
    """Probability of a horizontal flip."""
    max_class_share: float = 1.0
    """A crop where one class covers more is drawn again, ten times at most (UDA source: 0.75)."""

    def __post_init__(self) -> None:
        require(min(self.crop) > 0, "crop", self.crop, "[height, width], both above 0")
        if self.scale is not None:
            low, high = self.scale
            require(0 < low <= high, "scale", self.scale, "[low, high] with 0 < low <= high")
        require(0 <= self.flip <= 1, "flip", self.flip, "a probability, 0 to 1")
        require(0 < self.max_class_share <= 1, "max_class_share", self.max_class_share, "0 to 1")


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One image, or a batch of them when every tensor has a leading B."""

    images: Tensor
    """RGB in 0..1, float32 [3,H,W] or [B,3,H,W]; the network normalises it."""
    labels: Tensor
    """Class of each pixel, int64 [H,W] or [B,H,W]; 255 where none is given."""
    valid: Tensor
    """False on padding, bool [H,W] or [B,H,W]."""

    def to(self, device: torch.device) -> "Sample":
        """The sample on `device`."""
        return Sample(
            images=self.images.to(device, non_blocking=True),
            labels=self.labels.to(device, non_blocking=True),
            valid=self.valid.to(device, non_blocking=True),
        )


def collate(samples: list[Sample]) -> Sample:
    """Stack samples of one size into a batch."""
    return Sample(
        images=torch.stack([s.images for s in samples]),
        labels=torch.stack([s.labels for s in samples]),
        valid=torch.stack([s.valid for s in samples]),
    )


def uniform(low: float, high: float, generator: torch.Generator) -> float:
    """One number between `low` and `high`."""
    return low + (high - low) * float(torch.rand((), generator=generator))


def random_geometry(
    image: Tensor, label: Tensor, config: TransformConfig, generator: torch.Generator
) -> Sample:
    """Scale, pad, crop and flip an image uint8 [3,H,W] with its label uint8 [H,W].

    The scale factor is of the image's stored size: with scale [0.5, 2] the long side is between
    half and twice as long. Padding is black, labelled 255 and not valid.
    """
    if config.scale is not None:
        factor = uniform(*config.scale, generator)
        size = [max(1, round(side * factor)) for side in label.shape]
        image = TF.resize(image, size, antialias=True)
        # Not NEAREST: that one shifts labels by up to half a pixel against the image.
        label = TF.resize(label[None], size, TF.InterpolationMode.NEAREST_EXACT)[0]
    valid = torch.ones_like(label, dtype=torch.bool)
    height, width = config.crop
    bottom, right = max(0, height - label.shape[0]), max(0, width - label.shape[1])
    if bottom or right:
        padding = (0, right, 0, bottom)
        image = F.pad(image, padding)
        label = F.pad(label, padding, value=IGNORE)
        valid = F.pad(valid, padding, value=False)
    top, left = _crop_corner(label, config, generator)
    window = (..., slice(top, top + height), slice(left, left + width))
    image, label, valid = image[window], label[window], valid[window]
    if uniform(0, 1, generator) < config.flip:
        image, label, valid = image.flip(-1), label.flip(-1), valid.flip(-1)
    return Sample(images=image.float() / 255, labels=label.long(), valid=valid.contiguous())


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
