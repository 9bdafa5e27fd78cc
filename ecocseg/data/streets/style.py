"""The two domains: how streets are laid out, coloured and photographed in each.

`game` is the source of the default experiments, `camera` their target. They differ on purpose in
all three respects, because a network that only had to undo a colour shift would say little about
pseudo-labels.
"""

from dataclasses import dataclass
from typing import Literal

from ecocseg.data.streets.dice import Colour, Span

Domain = Literal["game", "camera"]
Palette = tuple[Colour, ...]


@dataclass(frozen=True, kw_only=True)
class Style:
    """Ranges (low, high) and probabilities of one domain; lengths in metres."""

    # camera: focal length as a share of the width, horizon as a share of the height
    eye: Span
    focal: Span
    horizon: Span
    bend: float
    hood: bool
    # layout
    lanes: tuple[int, int]
    lane_width: Span
    sidewalk: Span
    strip: float
    storeys: tuple[int, int]
    setback: float
    gap: float
    trees: float
    parked: float
    traffic: Span
    walkers: tuple[int, int]
    clutter: float
    pitched_roofs: float
    # colours
    sky: tuple[Palette, Palette]  # zenith, horizon
    road: Palette
    paving: Palette
    marking: Palette
    grass: Palette
    foliage: Palette
    facades: Palette
    roofs: Palette
    glass: Palette
    masonry: Palette
    fences: Palette
    metal: Palette
    cars: Palette
    coaches: Palette
    clothes: Palette
    skin: Palette
    # light and sensor: relief is how much darker the shaded side is, texture a factor, noise a
    # standard deviation (of 255), haze 1/m, cast and vignette shares
    relief: float
    texture: float
    saturation: Span
    cast: float
    gain: Span
    gamma: Span
    contrast: Span
    shadow: Span
    blur: Span  # pixels at 128 rows
    noise: Span
    haze: Span
    vignette: Span


GAME = Style(
    eye=(1.35, 2.2),
    focal=(0.68, 0.9),
    horizon=(0.42, 0.54),
    bend=0.0012,
    hood=False,
    lanes=(1, 3),
    lane_width=(3.2, 3.8),
    sidewalk=(2.5, 5.5),
    strip=0.4,
    storeys=(2, 12),
    setback=0.55,
    gap=0.35,
    trees=0.35,
    parked=0.25,
    traffic=(14.0, 34.0),
    walkers=(6, 14),
    clutter=0.1,
    pitched_roofs=0.1,
    sky=(
        ((70, 140, 230), (50, 120, 215), (100, 165, 240), (160, 190, 225)),
        ((175, 215, 250), (200, 225, 245), (240, 215, 180), (225, 230, 238)),
    ),
    road=((92, 94, 100), (80, 82, 90), (104, 104, 108)),
    paving=((176, 170, 160), (164, 164, 166), (190, 180, 162)),
    marking=((235, 235, 235), (240, 200, 60)),
    grass=((110, 160, 62), (128, 166, 70), (150, 160, 80)),
    foliage=((52, 128, 48), (70, 145, 52), (40, 110, 58), (96, 150, 50)),
    facades=(
        (206, 178, 140),
        (190, 120, 96),
        (176, 164, 146),
        (222, 208, 184),
        (150, 160, 176),
        (170, 96, 80),
        (202, 196, 190),
        (120, 130, 150),
        (226, 190, 120),
    ),
    roofs=((120, 70, 60), (90, 90, 96), (140, 100, 80)),
    glass=((86, 126, 160), (110, 150, 180), (60, 90, 130), (150, 190, 210)),
    masonry=((168, 84, 62), (184, 104, 74), (146, 92, 70), (150, 70, 58)),
    fences=((150, 108, 60), (166, 124, 70), (60, 84, 70), (132, 92, 52)),
    metal=((112, 116, 120), (80, 84, 90), (140, 142, 140)),
    cars=(
        (205, 40, 36),
        (30, 80, 180),
        (235, 235, 235),
        (40, 42, 48),
        (225, 180, 30),
        (40, 140, 90),
        (150, 154, 160),
        (96, 100, 108),
        (200, 202, 206),
        (230, 110, 30),
    ),
    coaches=((240, 190, 40), (60, 110, 190), (210, 60, 50), (230, 230, 228), (60, 150, 120)),
    clothes=(
        (200, 50, 50),
        (40, 70, 160),
        (230, 220, 210),
        (30, 30, 36),
        (60, 140, 80),
        (220, 150, 40),
        (120, 70, 140),
        (80, 86, 100),
    ),
    skin=((224, 178, 148), (190, 138, 104), (120, 82, 60)),
    relief=0.08,
    texture=0.3,
    saturation=(1.05, 1.25),
    cast=0.02,
    gain=(0.95, 1.05),
    gamma=(0.95, 1.05),
    contrast=(1.0, 1.06),
    shadow=(0.2, 0.35),
    blur=(0.0, 0.0),
    noise=(0.0, 0.0),
    haze=(0.0, 0.002),
    vignette=(0.0, 0.0),
)

CAMERA = Style(
    eye=(1.15, 1.4),
    focal=(0.85, 1.1),
    horizon=(0.38, 0.47),
    bend=0.0018,
    hood=True,
    lanes=(1, 2),
    lane_width=(2.8, 3.4),
    sidewalk=(2.6, 5.5),
    strip=0.3,
    storeys=(3, 6),
    setback=0.6,
    gap=0.25,
    trees=0.6,
    parked=0.55,
    traffic=(10.0, 30.0),
    walkers=(6, 16),
    clutter=0.6,
    pitched_roofs=0.7,
    sky=(
        ((150, 176, 204), (196, 202, 210), (116, 158, 206), (214, 218, 222)),
        ((220, 225, 230), (234, 234, 232), (206, 219, 232)),
    ),
    road=((112, 112, 112), (124, 121, 117), (98, 99, 103)),
    paving=((146, 140, 134), (158, 151, 143), (130, 130, 132)),
    marking=((205, 205, 200), (190, 190, 186)),
    grass=((98, 112, 66), (112, 116, 76), (84, 104, 58)),
    foliage=((66, 90, 52), (80, 102, 58), (56, 78, 52), (98, 110, 62)),
    facades=(
        (168, 156, 138),
        (146, 134, 122),
        (186, 178, 164),
        (130, 112, 98),
        (152, 150, 148),
        (176, 160, 128),
        (120, 116, 114),
        (160, 130, 112),
    ),
    roofs=((104, 70, 58), (74, 74, 78), (92, 80, 74)),
    glass=((58, 64, 70), (80, 88, 96), (44, 48, 54), (118, 128, 136)),
    masonry=((128, 78, 62), (140, 92, 72), (116, 82, 68), (122, 70, 58)),
    fences=((112, 88, 58), (128, 102, 66), (52, 66, 56), (100, 76, 50)),
    metal=((92, 94, 96), (66, 68, 72), (116, 118, 116)),
    cars=(
        (44, 46, 50),
        (84, 88, 94),
        (160, 164, 168),
        (204, 206, 208),
        (56, 70, 104),
        (134, 42, 38),
        (122, 126, 130),
        (186, 182, 172),
    ),
    coaches=((196, 166, 60), (150, 50, 46), (190, 190, 186), (64, 90, 120), (206, 204, 198)),
    clothes=(
        (40, 42, 50),
        (60, 64, 76),
        (90, 84, 78),
        (30, 30, 34),
        (120, 50, 48),
        (52, 66, 96),
        (150, 146, 138),
        (84, 92, 80),
    ),
    skin=((196, 160, 138), (170, 126, 100), (110, 80, 62)),
    relief=0.22,
    texture=1.0,
    saturation=(0.6, 1.0),
    cast=0.08,
    gain=(0.95, 1.35),
    gamma=(0.85, 1.2),
    contrast=(0.85, 1.1),
    shadow=(0.3, 0.5),
    blur=(0.25, 0.6),
    noise=(1.5, 4.5),
    haze=(0.001, 0.007),
    vignette=(0.05, 0.25),
)

STYLES: dict[str, Style] = {"game": GAME, "camera": CAMERA}
