"""From paints to a picture: light, texture, haze, lens and sensor."""

import numpy as np
from PIL import Image, ImageFilter

from ecocseg.data.streets import canvas as surface
from ecocseg.data.streets.canvas import OVERSAMPLING, Canvas
from ecocseg.data.streets.dice import Dice
from ecocseg.data.streets.style import Style

# Amplitude (of 255) of texture in the `camera` domain: pixel by pixel, in patches, in large clouds.
_TEXTURE: dict[int, tuple[float, float, float]] = {
    surface.SKY: (0.3, 1.0, 9.0),
    surface.ROAD: (5.0, 5.0, 3.0),
    surface.PAVING: (6.0, 6.0, 3.0),
    surface.GRASS: (13.0, 11.0, 5.0),
    surface.FACADE: (6.0, 7.0, 4.0),
    surface.GLASS: (5.0, 9.0, 6.0),
    surface.FOLIAGE: (18.0, 12.0, 4.0),
    surface.METAL: (2.0, 4.0, 3.0),
    surface.CLOTH: (4.0, 5.0, 0.0),
    surface.MARKING: (6.0, 14.0, 3.0),
}


def _texture(rng: np.random.Generator, kind: np.ndarray) -> np.ndarray:
    """Texture of every pixel's material in three scales, float32 [H, W]."""
    height, width = kind.shape
    amplitude = np.array([_TEXTURE[i] for i in range(surface.MATERIALS)], np.float32)
    total = amplitude[kind, 0] * rng.standard_normal((height, width), dtype=np.float32)
    for scale, cells in ((1, 40), (2, 6)):
        grid = rng.standard_normal((cells, 2 * cells), dtype=np.float32)
        image = Image.fromarray(grid).resize((width, height), Image.Resampling.BICUBIC)
        total += amplitude[kind, scale] * np.asarray(image)
    return total


def develop(canvas: Canvas, dice: Dice, style: Style, seed: int) -> np.ndarray:
    """The finished photograph, uint8 [H, W, 3]."""
    rng = np.random.default_rng((seed, 1))
    view = canvas.view
    height, width = view.height // OVERSAMPLING, view.width // OVERSAMPLING
    numbers = np.asarray(canvas.paint_image)
    colours = np.array([p.colour for p in canvas.paints], np.float32).clip(0, 255)
    material = np.array([p.material for p in canvas.paints], np.uint8)
    distance = np.array([p.distance for p in canvas.paints], np.float32)

    smooth = Image.fromarray(colours.astype(np.uint8)[numbers]).reduce(OVERSAMPLING)
    image = np.asarray(smooth).astype(np.float32)
    numbers = numbers[::OVERSAMPLING, ::OVERSAMPLING]
    kind = material[numbers]

    # Texture is a share of the reflected light: what is dark shows little of it.
    reflected = np.float32(style.texture) * (0.3 + image.mean(axis=2) / 180)
    image += (reflected * _texture(rng, kind))[..., None]

    ground = np.isin(kind, surface.GROUND)
    shade = canvas.shade_image.reduce(OVERSAMPLING).filter(ImageFilter.GaussianBlur(height / 160))
    lit = 1 - np.asarray(shade).astype(np.float32) / 255
    image *= np.where(ground, lit, 1.0)[..., None]

    image = _haze(image, dice, style, canvas, ground, distance[numbers], kind)
    image = _tone(image, dice, style)
    image = _lens(image, dice, style)
    noise = dice.span(style.noise)
    if noise > 0:
        # Shot noise grows with the light; a part of it is common to the three channels.
        level = noise * np.sqrt(0.25 + image / 255)
        grain = rng.standard_normal((height, width, 3), dtype=np.float32)
        grain += rng.standard_normal((height, width, 1), dtype=np.float32)
        image += level * grain * np.float32(0.7)
    return np.rint(image.clip(0, 255)).astype(np.uint8)


def _haze(
    image: np.ndarray,
    dice: Dice,
    style: Style,
    canvas: Canvas,
    ground: np.ndarray,
    distance: np.ndarray,
    kind: np.ndarray,
) -> np.ndarray:
    """Blend towards the air's colour with distance; a ground pixel's follows from its row."""
    density = dice.span(style.haze)
    view = canvas.view
    rows = (np.arange(image.shape[0], dtype=np.float32) + 0.5) * OVERSAMPLING
    depth = view.focal * view.eye / np.maximum(rows - view.horizon, 1.0)
    metres = np.where(ground, np.minimum(depth, 300.0)[:, None], distance)
    veil = 1 - np.exp(-density * metres)
    veil[kind == surface.SKY] = 0
    air = np.array(style.sky[1][0], np.float32)
    return image + (air - image) * veil[..., None]


def _tone(image: np.ndarray, dice: Dice, style: Style) -> np.ndarray:
    """White balance, saturation, exposure, gamma and contrast."""
    warmth = dice.between(-style.cast, style.cast)
    tint = dice.between(-style.cast, style.cast) * 0.4
    balance = np.array([1 + warmth, 1 + tint, 1 - warmth], np.float32)
    grey = image.mean(axis=2, keepdims=True)
    image = grey + (image - grey) * np.float32(dice.span(style.saturation))
    image = image * (balance * np.float32(dice.span(style.gain)))
    image = 255 * (image.clip(0, 255) / 255) ** np.float32(dice.span(style.gamma))
    return 118 + (image - 118) * np.float32(dice.span(style.contrast))


def _lens(image: np.ndarray, dice: Dice, style: Style) -> np.ndarray:
    """Blur and vignetting."""
    height, width = image.shape[:2]
    blur = dice.span(style.blur) * height / 128
    if blur > 0:
        picture = Image.fromarray(np.rint(image.clip(0, 255)).astype(np.uint8))
        image = np.asarray(picture.filter(ImageFilter.GaussianBlur(blur))).astype(np.float32)
    strength = dice.span(style.vignette)
    if strength > 0:
        y = np.linspace(-1, 1, height, dtype=np.float32)[:, None]
        x = np.linspace(-1, 1, width, dtype=np.float32)[None]
        image = image * (1 - np.float32(strength) * (0.6 * x * x + 0.4 * y * y))[..., None]
    return image
