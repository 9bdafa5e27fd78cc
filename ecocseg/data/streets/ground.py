"""What lies flat: sky, terrain, road with its marks, sidewalks, tracks, and shadows."""

from ecocseg.data.streets import labels
from ecocseg.data.streets.canvas import GRASS, MARKING, PAVING, ROAD, SKY, Canvas, Point3
from ecocseg.data.streets.dice import Colour, Dice, blend, scale
from ecocseg.data.streets.plan import Lane, Side, Street
from ecocseg.data.streets.style import Style

_NEAR = 1.0  # ground nearer than this is below every picture
_SKY_BANDS = 48
Paint = tuple[Colour, int, int]  # colour, material, label


def strip(canvas: Canvas, x0: float, x1: float, z0: float, z1: float, paint: Paint) -> None:
    """Fill the ground between two lateral and two forward distances, along the street's bend."""
    z0 = max(z0, _NEAR)
    if z1 <= z0:
        return
    steps = 2 if z1 < z0 * 1.6 else 9
    zs = [z0 * (z1 / z0) ** (i / (steps - 1)) for i in range(steps)]
    corners: list[Point3] = [(x0, 0.0, z) for z in zs]
    corners += [(x1, 0.0, z) for z in reversed(zs)]
    colour, material, label = paint
    canvas.plane(corners, canvas.mix(colour, material, z0), label)


def draw_sky(canvas: Canvas, dice: Dice, style: Style) -> None:
    """Fill the picture above the horizon with a gradient from zenith to horizon."""
    top, low = dice.colour(style.sky[0], 0.05), dice.colour(style.sky[1], 0.03)
    view = canvas.view
    for band in range(_SKY_BANDS):
        y0 = view.horizon * band / _SKY_BANDS
        y1 = view.horizon * (band + 1) / _SKY_BANDS + 2
        paint = canvas.mix(blend(top, low, band / (_SKY_BANDS - 1)), SKY, 0.0)
        canvas.fill([(0, y0), (view.width, y0), (view.width, y1), (0, y1)], paint, labels.SKY)


def draw_ground(canvas: Canvas, dice: Dice, style: Style, street: Street) -> None:
    """Fill everything below the horizon."""
    road: Paint = (dice.colour(style.road, 0.1), ROAD, labels.ROAD)
    paving: Paint = (dice.colour(style.paving, 0.1), PAVING, labels.SIDEWALK)
    grass: Paint = (dice.colour(style.grass, 0.15), GRASS, labels.TERRAIN)
    far = street.far
    strip(canvas, -150.0, 150.0, _NEAR, 400.0, paving)
    for side in street.sides:
        _draw_lots(canvas, dice, side, road, grass)
    left, right = -street.sides[0].curb, street.sides[1].curb
    strip(canvas, left, right, _NEAR, far + 40, road)
    for side in street.sides:
        _draw_side(canvas, dice, side, far, road, paving, grass)
    _draw_patches(canvas, dice, style, street, road)
    _draw_marks(canvas, dice, style, street)
    if street.rails is not None:
        _draw_rails(canvas, dice, style, street, grass)


def _draw_lots(canvas: Canvas, dice: Dice, side: Side, road: Paint, grass: Paint) -> None:
    for lot in side.lots:
        reach = side.sign * 70.0
        inner = side.sign * (side.outer - 0.1)
        if lot.kind == "gap":
            strip(canvas, inner, reach, lot.near, lot.far, road)
        elif lot.kind in ("park", "yard"):
            strip(canvas, inner, reach, lot.near, lot.far, grass)


def _draw_side(
    canvas: Canvas, dice: Dice, side: Side, far: float, road: Paint, paving: Paint, grass: Paint
) -> None:
    """Sidewalk, green strip and curb, interrupted where a street joins."""
    gaps = [(lot.near, lot.far) for lot in side.lots if lot.kind == "gap"]
    stretches, start = [], _NEAR
    for near, end in gaps:
        stretches.append((start, near))
        start = end
    stretches.append((start, far))
    s = side.sign
    edge = scale(paving[0], 1.15), PAVING, labels.SIDEWALK
    for near, end in gaps:
        strip(canvas, s * (side.curb - 0.2), s * (side.outer + 0.2), near, end, road)
    for near, end in stretches:
        strip(canvas, s * side.curb, s * (side.curb + side.strip), near, end, grass)
        strip(canvas, s * (side.curb + side.strip), s * side.outer, near, end, paving)
        strip(canvas, s * side.curb, s * (side.curb + 0.18), near, end, edge)
    joints = scale(paving[0], 0.9), PAVING, labels.SIDEWALK
    step = dice.between(1.5, 3.0)
    for i in range(int(25 / step)):
        z = 3 + i * step
        if any(near <= z < end for near, end in stretches):
            inner = s * (side.curb + side.strip + 0.1)
            strip(canvas, inner, s * side.outer, z, z + 0.07, joints)


def _draw_patches(canvas: Canvas, dice: Dice, style: Style, street: Street, road: Paint) -> None:
    """Repaired asphalt and manholes: the clutter of a used road."""
    if not dice.chance(style.clutter):
        return
    left, right = -street.sides[0].curb, street.sides[1].curb
    for _ in range(dice.whole(1, 5)):
        x, z = dice.between(left, right - 1.0), dice.between(4, 30)
        tone = scale(road[0], dice.pick((0.8, 0.86, 1.12)))
        end = z + dice.between(0.6, 9)
        strip(canvas, x, x + dice.between(0.5, 2.0), z, end, (tone, ROAD, labels.ROAD))


def _draw_marks(canvas: Canvas, dice: Dice, style: Style, street: Street) -> None:
    white = style.marking[0]
    centre = dice.pick(style.marking)
    wear = dice.between(0.8, 1.0)
    period, dash = dice.pick(((6.0, 3.0), (9.0, 3.0), (12.0, 6.0)))
    phase = dice.between(0, period)
    for x, parts in street.lines:
        paint: Paint = (scale(centre if parts else white, wear), MARKING, labels.ROAD)
        if parts and dice.chance(0.5):
            strip(canvas, x - 0.08, x + 0.08, _NEAR, street.far, paint)
            if dice.chance(0.5):
                strip(canvas, x + 0.2, x + 0.36, _NEAR, street.far, paint)
        else:
            for i in range(int(70 / period)):
                z = i * period + phase
                strip(canvas, x - 0.07, x + 0.07, z, z + dash, paint)
    paint = scale(white, wear), MARKING, labels.ROAD
    for side in street.sides:
        if side.parking and dice.chance(0.4):
            x = side.sign * (side.curb - 2.3)
            strip(canvas, x - 0.06, x + 0.06, _NEAR, 60, paint)
    if dice.chance(0.35):
        _draw_crossing(canvas, dice, street, paint)
    if dice.chance(0.25):
        _draw_arrow(canvas, dice.pick(street.lanes), dice.between(7, 16), paint)


def _draw_crossing(canvas: Canvas, dice: Dice, street: Street, paint: Paint) -> None:
    left, right = -street.sides[0].curb, street.sides[1].curb
    gaps = [lot.near for side in street.sides for lot in side.lots if lot.kind == "gap"]
    z = max(dice.pick(gaps) - 3.5, 5.0) if gaps else dice.between(7, 25)
    x = left + 0.4
    while x < right - 0.5:
        strip(canvas, x, x + 0.5, z, z + 3.0, paint)
        x += 1.0
    strip(canvas, 0.0, right, z - 1.6, z - 1.2, paint)


def _draw_arrow(canvas: Canvas, lane: Lane, z: float, paint: Paint) -> None:
    strip(canvas, lane.x - 0.1, lane.x + 0.1, z, z + 2.6, paint)
    colour, material, label = paint
    tip = [(lane.x - 0.45, 0.0, z + 2.6), (lane.x + 0.45, 0.0, z + 2.6), (lane.x, 0.0, z + 4.2)]
    canvas.plane(tip, canvas.mix(colour, material, z), label)


def _draw_rails(canvas: Canvas, dice: Dice, style: Style, street: Street, grass: Paint) -> None:
    assert street.rails is not None
    x = street.rails
    if street.rail_bed:
        gravel = scale(style.paving[0], 0.8), GRASS, labels.RAIL_TRACK
        bed = dice.pick((grass, gravel))
        strip(canvas, x - 1.55, x + 1.55, _NEAR, street.far, bed)
    label = labels.RAIL_TRACK if street.rail_bed else labels.ROAD
    rail: Paint = (scale(style.metal[0], 0.75), MARKING, label)
    for offset in (-0.72, 0.72):
        strip(canvas, x + offset - 0.07, x + offset + 0.07, _NEAR, street.far, rail)


def cast_shadows(canvas: Canvas, dice: Dice, style: Style, street: Street) -> None:
    """Shadows of the houses on the sunny side across the street."""
    strength = round(255 * dice.span(style.shadow))
    side = next(s for s in street.sides if s.sign == street.sun)
    reach = dice.between(0.0, 1.1)
    for lot in side.lots:
        if lot.kind == "gap":
            continue
        width = reach * (dice.between(7, 12) if lot.kind == "building" else dice.between(1, 6))
        inner = side.sign * (side.outer - width)
        z0, z1 = max(lot.near, _NEAR), lot.far
        slant = width * 0.4
        outer = side.sign * (side.outer + 30)
        canvas.shadow(
            [(outer, 0, z0), (inner, 0, z0 + slant), (inner, 0, z1 + slant), (outer, 0, z1)],
            strength,
        )
