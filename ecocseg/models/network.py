"""What every network is: an encoder, a decoder and a head between images and logits."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ecocseg.types import IMAGE_DEVIATION, IMAGE_MEAN, Head, Outputs

FeatureChange = Callable[[list[Tensor]], list[Tensor]]
"""Maps of an encoder, without the image itself, to what the decoder reads in their place: of equal
channels and sizes, and perhaps of more images."""
STRIDE = 32
"""Encoders want images whose sides are multiples of this, unless they have a `stride` of their own
(the patch of a ViT)."""


class Segmenter(nn.Module):
    """Images in 0..1 to logits of K channels at the size of the images.

    The images are normalised by ImageNet's mean and deviation, or those that the encoder's weights
    were made with (`set_normalisation`), and, where the network does not take
    any size, padded to a multiple of 32 (a ViT: of its patch) inside; logits are upsampled
    bilinearly, so that bits and classes are decided at full size (method.md, section 2).

    `encoder` maps images to a list of maps, of which `decoder` makes one and `head`, whose last
    module gives K channels, logits.
    """

    frames = 1
    """Images of three channels that an input has, one behind the other."""
    encoder: nn.Module
    decoder: nn.Module
    head: nn.Sequential
    mean: Tensor
    """[1,3,1,1], by which images are normalised, as by `deviation`."""
    deviation: Tensor

    def __init__(
        self,
        encoder: nn.Module,
        decoder: nn.Module,
        head: nn.Sequential,
        *,
        cell: int | None = None,
        align_corners: bool = False,
    ) -> None:
        """With `cell`, the stride of the last map, images are taken at any size, without padding.

        `align_corners`: logits are upsampled so that corners fall on corners.
        """
        super().__init__()
        self.encoder, self.decoder, self.head = encoder, decoder, head
        stride: Any = getattr(encoder, "stride", STRIDE)
        self.multiple: int = 1 if cell else stride
        """Sides of the images are padded to multiples of this."""
        self.cell, self.align_corners = cell, align_corners
        for name, values in (("mean", IMAGE_MEAN), ("deviation", IMAGE_DEVIATION)):
            self.register_buffer(name, torch.tensor(values).view(1, 3, 1, 1), persistent=False)

    def set_normalisation(self, mean: Sequence[float], deviation: Sequence[float]) -> None:
        """Normalise by another mean and deviation of RGB in 0..1; neither is in the state."""
        for buffer, values in ((self.mean, mean), (self.deviation, deviation)):
            buffer.copy_(torch.tensor(values).view(1, 3, 1, 1))

    def forward(self, images: Tensor, change: FeatureChange | None = None) -> Tensor:
        """[B,3F,H,W] in 0..1 of F frames to logits [B,K,H,W].

        `change` perturbs the maps between encoder and decoder; where it returns more images than it
        got, there are logits for as many.
        """
        return self._predict(images, change)[0]

    def outputs(self, images: Tensor, random: torch.Generator) -> Outputs:
        """What is learnt from images [B,3,H,W]: one head over the whole of them.

        The features [B,C,h,w] are those of the padded images. `random` is a CPU generator for
        networks that draw a crop; here it is left as it is.
        """
        logits, features = self._predict(images)
        height, width = images.shape[-2:]
        whole = Head(logits=logits, rows=slice(0, height), columns=slice(0, width), weight=1.0)
        padded = width + -width % self.multiple
        stride = self.cell or padded // features.shape[-1]
        return Outputs(heads=(whole,), features=features, stride=stride)

    def features(self, images: Tensor) -> Tensor:
        """The features of `outputs` alone."""
        return self.maps(pad_to_multiple(self.normalise(images), self.multiple))[-1]

    def maps(self, images: Tensor) -> list[Tensor]:
        """Normalised and padded images to themselves and the maps that the decoder reads."""
        return list(self.encoder(images))

    def normalise(self, images: Tensor) -> Tensor:
        """By mean and deviation, as the encoder's weights expect it."""
        return (images - self.mean) / self.deviation

    def _predict(
        self, images: Tensor, change: FeatureChange | None = None
    ) -> tuple[Tensor, Tensor]:
        """Logits [B,K,H,W] and the last map of the encoder."""
        height, width = images.shape[-2:]
        padded = pad_to_multiple(self.normalise(images), self.multiple)
        maps = self.maps(padded)
        if change is not None:
            maps = [maps[0], *change(maps[1:])]
        logits = self.head(self.decoder(maps))
        logits = upsample(logits, padded.shape[-2:], align_corners=self.align_corners)
        return logits[..., :height, :width], maps[-1]


def pad_to_multiple(images: Tensor, multiple: int, least: tuple[int, int] = (0, 0)) -> Tensor:
    """Images [B,C,H,W] with the border repeated to the right and below.

    The sides become multiples of `multiple` and not smaller than `least` rounded up to one.
    """
    height, width = images.shape[-2:]
    bottom, right = (
        max(side, smallest) - side + -max(side, smallest) % multiple
        for side, smallest in zip((height, width), least, strict=True)
    )
    if bottom or right:
        images = F.pad(images, (0, right, 0, bottom), mode="replicate")
    return images


def upsample(logits: Tensor, size: tuple[int, ...], *, align_corners: bool = False) -> Tensor:
    """Logits [B,K,h,w] at `size`, bilinear."""
    if logits.shape[-2:] == size:
        return logits
    return F.interpolate(logits, size, mode="bilinear", align_corners=align_corners)
