"""Vehicles as small meshes: a side profile, extruded over the width, with details on its faces."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from ecocseg.data.streets.canvas import CLOTH, GLASS, METAL, Canvas, Point, Point3
from ecocseg.data.streets.dice import Colour, Dice, scale
from ecocseg.data.streets.style import Style

TYRE: Colour = (26, 26, 28)
_TAIL: Colour = (190, 36, 32)
_LAMP: Colour = (238, 236, 214)


@dataclass(kw_only=True)
class Face:
    """A polygon in the vehicle's own metres (u across, v up, w along; w = 0 is its rear)."""

    corners: Sequence[Point3]
    colour: Colour
    material: int = METAL
    details: list["Face"] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class Body:
    """An extruded profile (w, v), from the bottom of the rear over the roof to that of the front.

    `panes` holds the numbers of the profile's edges that are glass; `taper` how much narrower it
    is at the top.
    """

    profile: tuple[Point, ...]
    width: float
    panes: tuple[int, ...] = ()
    taper: float = 0.0


def _half(body: Body, v: float) -> float:
    top = max(point[1] for point in body.profile)
    waist = 0.62 * top
    lean = max(0.0, (v - waist) / (top - waist)) if top > waist else 0.0
    return body.width / 2 * (1 - body.taper * lean)


def faces_of(body: Body, colour: Colour, glass: Colour) -> list[Face]:
    """The two sides, then one face per edge of the profile, all wound outwards."""
    ring = body.profile
    right = [(_half(body, v), v, w) for w, v in ring]
    left = [(-_half(body, v), v, w) for w, v in ring]
    faces = [
        Face(corners=right[::-1], colour=colour),
        Face(corners=left, colour=scale(colour, 0.92)),
    ]
    for i in range(len(ring) - 1):
        pane = i in body.panes
        # Faces that look up are lighter than those that look along the street.
        slope = abs(ring[i + 1][0] - ring[i][0])
        rise = abs(ring[i + 1][1] - ring[i][1])
        tone = 0.82 + 0.3 * slope / (slope + rise + 1e-9)
        corners = [left[i], right[i], right[i + 1], left[i + 1]]
        face = Face(corners=corners, colour=scale(glass if pane else colour, tone))
        face.material = GLASS if pane else METAL
        faces.append(face)
    return faces


def _patch(u0: float, u1: float, v0: float, v1: float, w: float) -> list[Point3]:
    return [(u0, v0, w), (u1, v0, w), (u1, v1, w), (u0, v1, w)]


def _side_patches(
    faces: list[Face], half: float, outline: Sequence[Point], colour: Colour, material: int
) -> None:
    """The same polygon (w, v) on both sides."""
    for face, u in ((faces[0], half), (faces[1], -half)):
        corners = [(u, v, w) for w, v in outline]
        face.details.append(Face(corners=corners, colour=colour, material=material))


def _wheels(faces: list[Face], half: float, places: Sequence[float], radius: float) -> None:
    for place in places:
        for size, colour in ((radius, TYRE), (radius * 0.55, (130, 132, 134))):
            circle = [
                (
                    place + size * math.cos(i * math.pi / 5),
                    radius + size * math.sin(i * math.pi / 5),
                )
                for i in range(10)
            ]
            _side_patches(faces, half, circle, colour, CLOTH)


def _ends(faces: list[Face], body: Body, *, lights: float, plate: float) -> None:
    """Lights, plates and the tyres that show below, on the rear (edge 0) and the front (last)."""
    half = body.width / 2
    rear, front = faces[2], faces[-1]
    w0, w1 = body.profile[0][0], body.profile[-1][0]
    for face, w, inset, colour in ((rear, w0, 0.35, _TAIL), (front, w1, -0.35, _LAMP)):
        for s in (-1, 1):
            edge = sorted((s * half * 0.96, s * half * 0.62))
            lamp = _patch(edge[0], edge[1], lights - 0.1, lights + 0.12, w)
            face.details.append(Face(corners=lamp, colour=colour))
            edge = sorted((s * half * 0.94, s * half * 0.66))
            tyre = _patch(edge[0], edge[1], 0.0, body.profile[0][1] + 0.05, w + inset)
            face.details.append(Face(corners=tyre, colour=TYRE, material=CLOTH))
        sign = _patch(-0.26, 0.26, plate - 0.06, plate + 0.06, w)
        face.details.append(Face(corners=sign, colour=(225, 225, 220)))


def car(dice: Dice, style: Style) -> list[Face]:
    """A saloon, hatchback, estate or van (all of them `car` in Cityscapes)."""
    colour, glass = dice.colour(style.cars, 0.12), scale(dice.pick(style.glass), 0.6)
    kind = dice.pick(("saloon", "saloon", "hatch", "hatch", "hatch", "estate", "estate", "van"))
    size = dice.between(0.94, 1.08)
    if kind == "saloon":
        ring = [(0, 0.2), (0, 0.92), (0.6, 0.99), (1.2, 1.42), (2.6, 1.45), (3.35, 0.98)]
        ring += [(4.35, 0.78), (4.45, 0.2)]
        panes, window = (2, 4), [(0.85, 1.0), (1.3, 1.36), (2.5, 1.38), (3.1, 1.0)]
    elif kind == "van":
        ring = [(0, 0.24), (0, 1.2), (0.12, 1.95), (3.6, 1.98), (4.3, 1.15), (4.8, 0.95)]
        ring += [(4.9, 0.24)]
        panes, window = (1, 3), [(2.7, 1.2), (2.7, 1.82), (3.5, 1.82), (4.1, 1.2)]
    else:
        long = 0.4 if kind == "estate" else 0.0
        ring = [(0, 0.22), (0, 0.98), (0.3, 1.48), (2.3 + long, 1.52), (3.1 + long, 1.02)]
        ring += [(3.85 + long, 0.84), (3.95 + long, 0.22)]
        panes, window = (1, 3), [(0.35, 1.04), (0.5, 1.42), (2.25 + long, 1.44), (2.9 + long, 1.04)]
    profile = tuple((w * size, v * size) for w, v in ring)
    body = Body(profile=profile, width=1.78 * size, panes=panes, taper=0.16)
    faces = faces_of(body, colour, glass)
    half = body.width / 2
    _side_patches(faces, half * 0.9, [(w * size, v * size) for w, v in window], glass, GLASS)
    length = profile[-1][0]
    _wheels(faces, half, (0.75, length - 0.8), 0.33)
    _ends(faces, body, lights=0.75 * size, plate=0.55 * size)
    return faces


def truck(dice: Dice, style: Style) -> list[list[Face]]:
    """A lorry: box or tipper behind, cab in front; two meshes, rear first."""
    cab_colour = dice.colour(style.cars, 0.12)
    box_colour = dice.colour(style.coaches if dice.chance(0.5) else style.masonry, 0.12)
    glass = scale(dice.pick(style.glass), 0.6)
    length, top = dice.between(4.2, 8.0), dice.between(2.7, 3.7)
    floor = 0.75
    wide = 2.45
    box = Body(profile=((0, floor), (0, top), (length, top), (length, floor)), width=wide)
    cargo = faces_of(box, box_colour, glass)
    half = wide / 2
    chassis = [(0, 0.45), (0, floor + 0.1), (length, floor + 0.1), (length, 0.45)]
    _side_patches(cargo, half, chassis, (44, 44, 46), METAL)
    _wheels(cargo, half, (0.9, 2.0, length - 0.4), 0.48)
    rear = cargo[2]
    rear.details.append(Face(corners=_patch(-0.04, 0.04, floor, top, 0), colour=(70, 70, 72)))
    rear.details.append(Face(corners=_patch(-half, half, 0.4, floor, 0), colour=(50, 50, 52)))
    for s in (-1, 1):
        edge = sorted((s * half * 0.95, s * half * 0.7))
        lamp = _patch(edge[0], edge[1], 0.5, 0.7, 0)
        rear.details.append(Face(corners=lamp, colour=_TAIL))
        tyre = _patch(edge[0], edge[1], 0.0, 0.45, 0)
        rear.details.append(Face(corners=tyre, colour=TYRE, material=CLOTH))
    start, roof = length + 0.15, min(top, dice.between(2.4, 3.0))
    ring = ((0, 0.4), (0, roof), (1.5, roof), (1.75, 1.5), (1.85, 0.4))
    cab_body = Body(profile=tuple((w + start, v) for w, v in ring), width=2.3, panes=(2,))
    cab = faces_of(cab_body, cab_colour, glass)
    pane = [(start + 0.7, 1.5), (start + 0.7, roof - 0.3), (start + 1.5, roof - 0.3)]
    _side_patches(cab, 1.15, [*pane, (start + 1.7, 1.5)], glass, GLASS)
    _wheels(cab, 1.15, (start + 1.0,), 0.46)
    _ends(cab, cab_body, lights=0.75, plate=0.55)
    return [cargo, cab]


def _coach(
    dice: Dice, style: Style, length: float, top: float, floor: float, nose: float
) -> tuple[list[Face], Body]:
    """What a bus and a tram share: a long box with a band of windows."""
    colour = dice.colour(style.coaches, 0.1)
    glass = scale(dice.pick(style.glass), 0.6)
    ring = ((0, floor), (0, 1.25), (nose * 0.6, top), (length - nose, top), (length, 1.25))
    body = Body(profile=(*ring, (length, floor)), width=2.5, panes=(1, 3))
    faces = faces_of(body, colour, glass)
    half = body.width / 2
    z = 0.5 + nose
    pitch = dice.between(1.3, 1.9)
    while z + pitch < length - 0.3 - nose:
        pane = [(z, 1.35), (z, top - 0.55), (z + pitch - 0.15, top - 0.55)]
        _side_patches(faces, half, [*pane, (z + pitch - 0.15, 1.35)], glass, GLASS)
        z += pitch
    if dice.chance(0.6):
        band = [(0.05, floor + 0.15), (0.05, floor + 0.5), (length - 0.05, floor + 0.5)]
        trim = scale(dice.colour(style.coaches), 0.85)
        _side_patches(faces, half, [*band, (length - 0.05, floor + 0.15)], trim, METAL)
    return faces, body


def bus(dice: Dice, style: Style) -> list[Face]:
    """A city bus."""
    length, top = dice.between(8.5, 12.0), dice.between(2.9, 3.2)
    faces, body = _coach(dice, style, length, top, 0.4, 0.15)
    _wheels(faces, 1.25, (1.9, length - 2.3), 0.46)
    _ends(faces, body, lights=0.8, plate=0.55)
    front = faces[4 + 1]  # the windscreen: the display with the destination sits above it
    w = length - 0.1
    front.details.append(
        Face(corners=_patch(-0.9, 0.9, top - 0.4, top - 0.1, w), colour=(30, 30, 30))
    )
    text = _patch(-0.7, 0.7, top - 0.32, top - 0.18, w)
    front.details.append(Face(corners=text, colour=(240, 180, 60)))
    return faces


def tram(dice: Dice, style: Style) -> list[Face]:
    """A train of Cityscapes' kind: a tram on rails, long, low, with a rounded nose."""
    length, top = dice.between(18.0, 30.0), dice.between(3.2, 3.6)
    faces, body = _coach(dice, style, length, top, 0.15, 0.7)
    half = body.width / 2
    skirt = [(0.2, 0.15), (0.2, 0.45), (length - 0.2, 0.45), (length - 0.2, 0.15)]
    _side_patches(faces, half, skirt, (48, 48, 52), METAL)
    for share in (0.33, 0.66):  # the joints between its parts
        z = length * share
        joint = [(z, 0.2), (z, top), (z + 0.4, top), (z + 0.4, 0.2)]
        _side_patches(faces, half, joint, (40, 40, 42), METAL)
    roof = Face(corners=_patch(-0.8, 0.8, top, top + 0.3, 2.0), colour=(110, 112, 114))
    faces[4].details.append(roof)
    for face, w, colour in ((faces[2], 0.0, _TAIL), (faces[-1], length, _LAMP)):
        for s in (-1, 1):
            lamp = _patch(s * 0.85 - 0.12, s * 0.85 + 0.12, 0.75, 0.95, w)
            face.details.append(Face(corners=lamp, colour=colour))
        bumper = _patch(-half, half, 0.15, 0.5, w)
        face.details.append(Face(corners=bumper, colour=(48, 48, 52)))
        stripe = _patch(-half * 0.8, half * 0.8, 1.0, 1.12, w)
        face.details.append(Face(corners=stripe, colour=(210, 210, 206)))
    return faces


def _placed(corner: Point3, place: Point, yaw: float) -> Point3:
    cos, sin = math.cos(math.radians(yaw)), math.sin(math.radians(yaw))
    u, v, w = corner
    # What is beside or behind the camera is drawn far outside the picture instead.
    return place[0] + u * cos + w * sin, v, max(place[1] - u * sin + w * cos, 0.8)


def cast_contact(
    canvas: Canvas, faces: Sequence[Face], place: Point, yaw: float, strength: int
) -> None:
    """Darken the ground below a vehicle (strength 0..255)."""
    corners = [corner for face in faces for corner in face.corners]
    length = max(corner[2] for corner in corners) + 0.2
    half = max(corner[0] for corner in corners) + 0.15
    foot = [(-half, 0, -0.2), (half, 0, -0.2), (half, 0, length), (-half, 0, length)]
    canvas.shadow([_placed(corner, place, yaw) for corner in foot], strength)


def draw_mesh(canvas: Canvas, faces: Sequence[Face], label: int, place: Point, yaw: float) -> None:
    """Draw a vehicle whose rear stands at place = (x, z).

    `yaw` in degrees: 0 drives away from the camera, 180 comes towards it (its front is then the
    near end), 90 drives to the right.
    """
    ordered = []
    for face in faces:
        corners = [_placed(corner, place, yaw) for corner in face.corners]
        points = canvas.view.points(corners)
        area = sum(
            a[0] * b[1] - b[0] * a[1] for a, b in zip(points, points[1:] + points[:1], strict=True)
        )
        if area < 0:  # rows count downwards: what faces the camera winds this way round
            distance = sum(corner[2] for corner in corners) / len(corners)
            ordered.append((distance, points, face))
    ordered.sort(key=lambda item: -item[0])
    for distance, points, face in ordered:
        canvas.fill(points, canvas.mix(face.colour, face.material, distance), label)
        for detail in face.details:
            corners = [_placed(corner, place, yaw) for corner in detail.corners]
            canvas.plane(corners, canvas.mix(detail.colour, detail.material, distance), label)
