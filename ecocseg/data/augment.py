"""Colour augmentation of batches in 0..1, on whatever device they are, drawn per image."""

import math

import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as TF

from ecocseg.data.transforms import uniform


def colour_jitter(
    image: Tensor, strengths: tuple[float, float, float, float], generator: torch.Generator
) -> Tensor:
    """Jitter brightness, contrast, saturation and hue of an image [3,H,W] in random order.

    `strengths` are those of torchvision's ColorJitter: factors between 1 - s and 1 + s, hue
    between -s and s.
    """
    brightness, contrast, saturation, hue = strengths
    operations = [
        lambda x: TF.adjust_brightness(x, uniform(1 - brightness, 1 + brightness, generator)),
        lambda x: TF.adjust_contrast(x, uniform(1 - contrast, 1 + contrast, generator)),
        lambda x: TF.adjust_saturation(x, uniform(1 - saturation, 1 + saturation, generator)),
        lambda x: TF.adjust_hue(x, uniform(-hue, hue, generator)),
    ]
    for i in torch.randperm(4, generator=generator).tolist():
        image = operations[i](image)
    return image


def gaussian_blur(image: Tensor, sigma: float) -> Tensor:
    """Blur an image [3,H,W]; the kernel reaches three standard deviations (`sigma` in pixels)."""
    # Odd, and small enough for the reflection at the borders.
    shortest = min(image.shape[-2:])
    size = min(2 * math.ceil(3 * sigma) + 1, shortest - 1 + shortest % 2)
    return TF.gaussian_blur(image, [size, size], [sigma, sigma])


def strong_view(images: Tensor, generator: torch.Generator) -> Tensor:
    """The strong view of the SSL recipes, of weak views [B,3,H,W].

    Per image: colour jitter (0.5, 0.5, 0.5, 0.25) with probability 0.8, greyscale 0.2, blur with
    sigma 0.1 to 2 pixels 0.5. CutMix is the method's: it needs the labels.
    """
    return torch.stack([_strong(image, generator) for image in images])


def _strong(image: Tensor, generator: torch.Generator) -> Tensor:
    if uniform(0, 1, generator) < 0.8:
        image = colour_jitter(image, (0.5, 0.5, 0.5, 0.25), generator)
    if uniform(0, 1, generator) < 0.2:
        image = TF.rgb_to_grayscale(image, 3)
    if uniform(0, 1, generator) < 0.5:
        image = gaussian_blur(image, uniform(0.1, 2.0, generator))
    return image


def domain_view(
    images: Tensor, strength: float, probability: float, generator: torch.Generator
) -> Tensor:
    """Colour jitter and blur of the UDA family, of mixed images [B,3,H,W].

    As in DACS and DAFormer both are decided once for the batch: jitter of `strength` when a drawn
    number exceeds `probability`, blur with sigma 0.15 to 1.15 pixels when one exceeds 0.5; the
    amounts are drawn per image.
    """
    jitter = uniform(0, 1, generator) > probability
    blur = uniform(0, 1, generator) > 0.5
    views = []
    for image in images:
        if jitter:
            image = colour_jitter(image, (strength, strength, strength, strength), generator)
        if blur:
            image = gaussian_blur(image, uniform(0.15, 1.15, generator))
        views.append(image)
    return torch.stack(views)
