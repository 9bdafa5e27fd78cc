"""Types that cross the borders of the core, and the legend of its shape letters.

B batch, C colour channels, K channels of the head (one-hot: classes; ECOC: bits), N classes,
H and W height and width in pixels, P pixels of a flattened batch (P = B * H * W).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

IGNORE = 255
"""Label of a pixel that counts neither in losses nor in scores."""


IMAGE_MEAN, IMAGE_DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of ImageNet's RGB values in 0..1, by which networks normalise."""


@dataclass(frozen=True, kw_only=True)
class PseudoLabel:
    """What a teacher says of a batch; every tensor crops, flips and mixes like an image."""

    targets: Tensor
    """What `Encoding.loss` takes: int64 labels [B,H,W] or bool bits [B,K,H,W]."""
    labels: Tensor
    """Class of each pixel, int64 [B,H,W]."""
    confidence: Tensor
    """Confidence of each pixel in 0..1, [B,H,W]."""
    quality: Tensor
    """Loss weight of each pixel in 0..1, [B,H,W]."""
    statistics: Mapping[str, Tensor] = field(default_factory=dict)
    """Scalars worth a curve, detached."""


@dataclass(frozen=True, kw_only=True)
class Terms:
    """A loss: `total` is differentiable, `parts` are detached and unweighted, for the curves."""

    total: Tensor
    parts: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Head:
    """Logits [B,K,h,w] that learn from the targets' pixels `targets[..., rows, columns]`."""

    logits: Tensor
    rows: slice
    columns: slice
    weight: float
    """Share of this head in the network's loss; the shares of all heads sum to 1."""


@dataclass(frozen=True, kw_only=True)
class Outputs:
    """What a network gives to learn from."""

    heads: tuple[Head, ...]
    features: Tensor
    """Last map of the encoder [B,C,h,w], with gradient."""
    stride: int
    """Pixels of the images that a feature stands for, along one side. h and w times this may be
    larger than the images, which networks pad to the right and below."""
