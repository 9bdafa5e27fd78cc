"""The drawing surface: perspective, and one canvas of paints beside one of labels.

Scenes are drawn in metres: X to the right, Y up from the road, Z ahead of the camera. A pixel of
the paint canvas names a `Paint` (colour, material, distance), so that texture, shadow and haze can
be laid over the finished picture by lookup tables; the label canvas is drawn with the very same
polygons and is never anti-aliased.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from ecocseg.data.streets.dice import Colour

Point = tuple[float, float]
Point3 = tuple[float, float, float]

OVERSAMPLING = 2  # drawn at twice the size: thin things survive, and edges of images are smooth

# Materials: what texture and which light a paint gets (see sensor.py).
SKY, ROAD, PAVING, GRASS, FACADE, GLASS, FOLIAGE, METAL, CLOTH, MARKING = range(10)
MATERIALS = 10
GROUND = (ROAD, PAVING, GRASS, MARKING)


class Paint(NamedTuple):
    """What a pixel of the paint canvas stands for; `distance` in metres."""

    colour: Colour
    material: int
    distance: float


@dataclass(frozen=True, kw_only=True)
class View:
    """A pinhole camera that looks along Z, in pixels of the oversampled canvas.

    `bend` (1/m) shifts what lies at Z sideways by bend * Z^2 metres: a curved street.
    """

    width: int
    height: int
    focal: float
    centre: float
    horizon: float
    eye: float
    bend: float

    def point(self, x: float, y: float, z: float) -> Point:
        """Pixel of a point in metres (z > 0)."""
        scale = self.focal / z
        return (
            self.centre + (x + self.bend * z * z) * scale,
            self.horizon + (self.eye - y) * scale,
        )

    def points(self, corners: Iterable[Point3]) -> list[Point]:
        """Pixels of several points in metres."""
        return [self.point(*corner) for corner in corners]


class Canvas:
    """Paints and labels of one scene, [H, W] times OVERSAMPLING."""

    def __init__(self, view: View) -> None:
        self.view = view
        self.paints: list[Paint] = [Paint((0.0, 0.0, 0.0), SKY, 500.0)]
        size = (view.width, view.height)
        self.paint_image = Image.new("I", size, 0)
        self.label_image = Image.new("L", size, 0)
        self.shade_image = Image.new("L", size, 0)
        self._paint = ImageDraw.Draw(self.paint_image)
        self._label = ImageDraw.Draw(self.label_image)
        self._shade = ImageDraw.Draw(self.shade_image)

    def mix(self, colour: Colour, material: int, distance: float) -> int:
        """Add a paint; its number is what `fill` and `ring` take."""
        self.paints.append(Paint(colour, material, distance))
        return len(self.paints) - 1

    def fill(self, points: Sequence[Point], paint: int | None, label: int | None) -> None:
        """Fill a polygon; a paint or label of None leaves that canvas as it is."""
        xs = [p[0] for p in points]
        if max(xs) < 0 or min(xs) > self.view.width:
            return
        if paint is not None:
            self._paint.polygon(points, fill=paint)
        if label is not None:
            self._label.polygon(points, fill=label)

    def disc(
        self, centre: Point, rx: float, ry: float, paint: int | None, label: int | None
    ) -> None:
        """Fill an upright ellipse, radii in pixels."""
        x, y = centre
        if x + rx < 0 or x - rx > self.view.width:
            return
        rx, ry = max(rx, 0.5), max(ry, 0.5)
        box = (x - rx, y - ry, x + rx, y + ry)
        if paint is not None:
            self._paint.ellipse(box, fill=paint)
        if label is not None:
            self._label.ellipse(box, fill=label)

    def ring(self, centre: Point, rx: float, ry: float, paint: int, width: float) -> None:
        """Draw an ellipse's outline on the paint canvas only."""
        x, y = centre
        if x + rx < 0 or x - rx > self.view.width:
            return
        rx, ry = max(rx, 1.0), max(ry, 1.0)
        box = (x - rx, y - ry, x + rx, y + ry)
        self._paint.ellipse(box, outline=paint, width=max(1, round(width)))

    def line(self, a: Point, b: Point, width: float, paint: int | None, label: int | None) -> None:
        """Draw a straight bar, `width` in pixels, at least OVERSAMPLING so that labels keep it."""
        half = max(width, OVERSAMPLING) / 2
        dx, dy = b[0] - a[0], b[1] - a[1]
        length = math.hypot(dx, dy) or 1.0
        # PIL includes both borders of a polygon, which makes it one pixel wider.
        half = max(half - 0.5, 0.5)
        nx, ny = -dy / length * half, dx / length * half
        corners = [
            (a[0] + nx, a[1] + ny),
            (b[0] + nx, b[1] + ny),
            (b[0] - nx, b[1] - ny),
            (a[0] - nx, a[1] - ny),
        ]
        self.fill(corners, paint, label)

    def hair(self, a: Point, b: Point, paint: int) -> None:
        """Draw a line one canvas pixel wide on the paint canvas only."""
        self._paint.line([a, b], fill=paint)

    def plane(self, corners: Iterable[Point3], paint: int | None, label: int | None) -> None:
        """Fill a polygon given in metres."""
        self.fill(self.view.points(corners), paint, label)

    def shadow(self, corners: Iterable[Point3], strength: int) -> None:
        """Darken the ground (0 none .. 255 black) within a polygon given in metres."""
        self._shade.polygon(self.view.points(corners), fill=strength)

    def labels(self) -> np.ndarray:
        """Label ids, uint8 [H, W]."""
        return np.asarray(self.label_image)[::OVERSAMPLING, ::OVERSAMPLING].copy()


class Sprite:
    """A flat figure that faces the camera, drawn in metres around its foot point on the ground.

    `turn` squeezes it sideways: 1 is a full side view, -1 its mirror image, near 0 edge-on.
    """

    def __init__(self, canvas: Canvas, x: float, z: float, turn: float = 1.0) -> None:
        self.canvas = canvas
        self.distance = z
        self.scale = canvas.view.focal / z
        self.foot = canvas.view.point(x, 0.0, z)
        self.turn = turn

    def at(self, u: float, v: float) -> Point:
        """Pixel of the point u metres to the right of the foot and v above it."""
        return self.foot[0] + u * self.turn * self.scale, self.foot[1] - v * self.scale

    def mix(self, colour: Colour, material: int) -> int:
        """A paint at the figure's distance."""
        return self.canvas.mix(colour, material, self.distance)

    def fill(self, corners: Iterable[Point], paint: int | None, label: int | None) -> None:
        """Fill a polygon given in metres (u, v)."""
        self.canvas.fill([self.at(u, v) for u, v in corners], paint, label)

    def box(
        self, u0: float, v0: float, u1: float, v1: float, paint: int | None, label: int | None
    ) -> None:
        """Fill a rectangle."""
        self.fill([(u0, v0), (u1, v0), (u1, v1), (u0, v1)], paint, label)

    def disc(
        self, u: float, v: float, ru: float, rv: float, paint: int | None, label: int | None
    ) -> None:
        """Fill an ellipse."""
        radius = ru * abs(self.turn) * self.scale
        self.canvas.disc(self.at(u, v), radius, rv * self.scale, paint, label)

    def ring(self, u: float, v: float, radius: float, paint: int, width: float) -> None:
        """Draw a circle's outline (paint only)."""
        reach = radius * self.scale
        self.canvas.ring(self.at(u, v), reach * abs(self.turn), reach, paint, width * self.scale)

    def limb(self, a: Point, b: Point, width: float, paint: int | None, label: int | None) -> None:
        """Draw a bar of `width` metres."""
        self.canvas.line(self.at(*a), self.at(*b), width * self.scale, paint, label)
