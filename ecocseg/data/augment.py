"""Colour augmentation of batches in 0..1, on whatever device they are, drawn per image."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from ecocseg.codes.pixels import full_precision
from ecocseg.data.transforms import uniform
from ecocseg.engine.distributed import per_image

LUMA = (0.2989, 0.587, 0.114)
"""Shares of red, green and blue in torchvision's greyscale."""
_BRIGHTNESS, _CONTRAST, _SATURATION, _HUE, _NOTHING = range(5)


def strong_view(
    images: Tensor, generator: torch.Generator, greyscale_probability: float = 0.2
) -> Tensor:
    """The strong view of the SSL recipes, of weak views [B,3F,H,W] of F frames, all at once.

    Each frame by itself: colour jitter (0.5, 0.5, 0.5, 0.25) with probability 0.8, greyscale 0.2,
    blur with sigma 0.1 to 2 pixels 0.5. CutMix is the method's: it needs the labels.
    """
    shape = images.shape
    images = images.reshape(-1, 3, *shape[2:])
    frames = shape[1] // 3
    drawn = per_image(
        lambda n: torch.rand(3, n, generator=generator), shape[0], generator, dim=1, each=frames
    )
    jittered, blurred = drawn[0] < 0.8, drawn[2] < 0.5
    images = colour_jitter(images, (0.5, 0.5, 0.5, 0.25), generator, jittered, frames)
    grey = (drawn[1] < greyscale_probability).to(images.device)[:, None, None, None]
    images = torch.where(grey, _greyscale(images), images)
    sigmas = per_image(
        lambda n: torch.rand(n, generator=generator), shape[0], generator, each=frames
    )
    sigmas = sigmas.mul(1.9).add(0.1)
    rows = torch.nonzero(blurred)[:, 0]
    if len(rows):
        soft = blur_each(images[rows.to(images.device)], sigmas[rows].tolist())
        images = images.index_copy(0, rows.to(images.device), soft)
    return images.reshape(shape)


def colour_jitter(
    images: Tensor,
    strengths: tuple[float, float, float, float],
    generator: torch.Generator,
    chosen: Tensor | None = None,
    frames: int = 1,
) -> Tensor:
    """torchvision's ColorJitter of images [B,3,H,W], drawn per image and computed in batches.

    `strengths` of brightness, contrast, saturation (factors between 1 - s and 1 + s) and hue (a
    turn between -s and s of the circle), in an order of each image's own. `chosen` [B], on the CPU:
    the images that change, all of them by default. `frames`: how many, one after the other, make
    one image of the training batch.
    """
    pictures = len(images) // frames
    orders = per_image(
        lambda n: torch.stack([torch.randperm(4, generator=generator) for _ in range(n)]),
        pictures,
        generator,
        each=frames,
    )
    amounts = per_image(
        lambda n: torch.rand(n, 4, generator=generator), pictures, generator, each=frames
    )
    amounts = amounts.mul(2).sub(1) * torch.tensor(strengths)
    if chosen is not None:
        orders[~chosen] = _NOTHING
    for place in range(4):
        operation = orders[:, place]
        images = _blend(images, operation, amounts)
        rows = torch.nonzero(operation == _HUE)[:, 0]
        if len(rows):
            turn = amounts[rows, _HUE, None, None, None].to(images)
            rows = rows.to(images.device)
            images = images.index_copy(0, rows, _shift_hsv(images[rows], turn, 1))
    return images


def _blend(images: Tensor, operation: Tensor, amounts: Tensor) -> Tensor:
    """Brightness, contrast or saturation of each image: a blend with black, its mean or its grey.

    `operation` [B] says which; `amounts` [B,4] hold the factors less 1.
    """
    blends = operation < _HUE
    own = amounts.gather(1, operation.clamp(max=_HUE)[:, None])[:, 0]
    factor = torch.where(blends, 1 + own, 1).to(images)[:, None, None, None]
    grey = _greyscale(images)
    base = torch.stack([operation == _CONTRAST, operation == _SATURATION]).to(images)
    contrast, saturation = base[:, :, None, None, None]
    base = grey.mean((-2, -1), keepdim=True) * contrast + grey * saturation
    return (images * factor + base * (1 - factor)).clamp(0, 1)


def _greyscale(images: Tensor) -> Tensor:
    """Images [B,3,H,W] as their grey [B,1,H,W]."""
    red, green, blue = LUMA
    return images[:, :1] * red + images[:, 1:2] * green + images[:, 2:] * blue


def domain_view(
    images: Tensor, strength: float, probability: float, generator: torch.Generator
) -> Tensor:
    """Colour jitter and blur of the UDA family, of mixed images [B,3,H,W], all of them at once.

    As in DACS and DAFormer both are decided once for the batch: jitter of `strength` when a drawn
    number exceeds `probability`, blur with sigma 0.15 to 1.15 pixels when one exceeds 0.5; the
    amounts are drawn per image. Here the order of the four jitters is the batch's too.
    """
    jitter = uniform(0, 1, generator) > probability
    blur = uniform(0, 1, generator) > 0.5
    if jitter:
        images = _domain_jitter(images, strength, generator)
    if blur:
        sigmas = per_image(
            lambda n: torch.tensor(
                [uniform(0.15, 1.15, generator) for _ in range(n)], dtype=torch.float64
            ),
            len(images),
            generator,
        )
        images = blur_each(images, sigmas.tolist())
    return images


def _domain_jitter(images: Tensor, strength: float, generator: torch.Generator) -> Tensor:
    """The jitter of kornia 0.5.8, with which DAFormer and MIC were published.

    Other than torchvision's: brightness is added (-s to s), contrast is a factor of the values
    themselves, saturation is HSV's. Amounts per image.
    """
    order = torch.randperm(4, generator=generator).tolist()
    drawn = per_image(
        lambda n: torch.rand(4, n, generator=generator), len(images), generator, dim=1
    )
    drawn = drawn.mul(2).sub(1).mul(strength)
    brightness, contrast, saturation, hue = drawn.to(images)[:, :, None, None, None]
    operations = (
        lambda x: (x + brightness).clamp(0, 1),
        lambda x: (x * (1 + contrast)).clamp(0, 1),
        lambda x: _shift_hsv(x, 0, 1 + saturation),
        lambda x: _shift_hsv(x, hue, 1),
    )
    for i in order:
        images = operations[i](images)
    return images


def photometric_distortion(images: Tensor, generator: torch.Generator) -> Tensor:
    """mmsegmentation's PhotoMetricDistortion of images [B,3,H,W], drawn per image.

    Brightness +-32 of 255, contrast and saturation 0.5 to 1.5, hue +-18 of 180 degrees, each with
    probability 0.5; contrast comes before the two of HSV or after them, equally often. Values are
    kept as they are where mmsegmentation rounds them to 8 bits after each change.
    """
    count = len(images)

    def rand(rows: int) -> Tensor:
        return per_image(
            lambda n: torch.rand(rows, n, generator=generator), count, generator, dim=1
        )

    chosen = rand(4) < 0.5
    drawn = torch.where(chosen, rand(4) * 2 - 1, 0)
    early = (rand(1)[0] < 0.5)[:, None, None, None].to(images.device)
    brightness, contrast, saturation, hue = drawn.to(images)[:, :, None, None, None]
    images = (images + 32 / 255 * brightness).clamp(0, 1)
    images = torch.where(early, (images * (1 + 0.5 * contrast)).clamp(0, 1), images)
    images = _shift_hsv(images, 0.1 * hue, 1 + 0.5 * saturation)
    return torch.where(early, images, (images * (1 + 0.5 * contrast)).clamp(0, 1))


def _shift_hsv(images: Tensor, turn: Tensor | float, factor: Tensor | float) -> Tensor:
    """Turn the hue of RGB images [B,3,H,W] by a share of the circle, scale their saturation."""
    red, green, blue = images.unbind(1)
    value, low = images.amax(1), images.amin(1)
    chroma = value - low
    safe = torch.where(chroma > 0, chroma, 1)
    hue = torch.where(
        value == red,
        (green - blue) / safe,
        torch.where(value == green, 2 + (blue - red) / safe, 4 + (red - green) / safe),
    )
    saturation = chroma / torch.where(value > 0, value, 1)
    hue = (hue[:, None] / 6 + turn) * 6
    chroma = value[:, None] * (saturation[:, None] * factor).clamp(0, 1)
    # Each colour falls off from the value by the chroma, a third of the circle apart.
    places = torch.tensor([5.0, 3.0, 1.0], dtype=images.dtype, device=images.device)
    distance = (places.view(1, 3, 1, 1) + hue) % 6
    return value[:, None] - chroma * torch.minimum(distance, 4 - distance).clamp(0, 1)


def blur_each(images: Tensor, sigmas: Sequence[float]) -> Tensor:
    """Blur images [B,C,H,W], each with its own sigma in pixels.

    The kernel reaches three standard deviations; borders are reflected.
    """
    batch, channels, height, width = images.shape
    reaches = [_kernel_size(images, sigma) // 2 for sigma in sigmas]
    reach = max(reaches)
    offsets = torch.arange(-reach, reach + 1, dtype=images.dtype)
    kernels = torch.stack(
        [
            torch.exp(-0.5 * (offsets / sigma) ** 2).where(offsets.abs() <= own, 0)
            for sigma, own in zip(sigmas, reaches, strict=True)
        ]
    )
    kernels /= kernels.sum(1, keepdim=True)
    weights = kernels.to(images.device).repeat_interleave(channels, 0)[:, None]
    flat = images.reshape(1, batch * channels, height, width)
    flat = F.pad(flat, (reach, reach, reach, reach), mode="reflect")
    # Images keep their precision where networks compute in bfloat16.
    with full_precision(images):
        flat = F.conv2d(flat, weights[:, :, :, None], groups=batch * channels)
        flat = F.conv2d(flat, weights[:, :, None], groups=batch * channels)
    return flat.reshape(images.shape)


def _kernel_size(image: Tensor, sigma: float) -> int:
    """Three standard deviations to each side, odd, small enough for reflection at the borders."""
    shortest = min(image.shape[-2:])
    return min(2 * math.ceil(3 * sigma) + 1, shortest - 1 + shortest % 2)
