"""Types that cross the borders of the core, and the legend of its shape letters.

B batch, C colour channels, K channels of the head (one-hot: classes; ECOC: bits), N classes,
H and W height and width in pixels, P pixels of a flattened batch (P = B * H * W).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

IGNORE = 255
"""Label of a pixel that counts neither in losses nor in scores."""


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
