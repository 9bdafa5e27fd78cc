"""What lines the street: houses, walls, fences, hedges, and the skyline at its end."""

from itertools import pairwise

from ecocseg.data.streets import labels
from ecocseg.data.streets.canvas import FACADE, FOLIAGE, GLASS, Canvas
from ecocseg.data.streets.dice import Colour, Dice, blend, scale
from ecocseg.data.streets.furniture import draw_tree
from ecocseg.data.streets.plan import Lot, Side, Street
from ecocseg.data.streets.style import Style

_NEAR = 2.0
_STOREY = 3.1


def draw_backdrop(canvas: Canvas, dice: Dice, style: Style, street: Street) -> None:
    """The skyline where the street ends: houses and trees, or one row of houses across it."""
    z = street.far + 12
    x, end = -95.0, 95.0
    low, high = style.storeys
    while x < end:
        width = dice.between(8, 26)
        if dice.chance(0.75 if street.closed else 0.5):
            height = _STOREY * dice.between(low, high) + 2
            if not street.closed:
                height *= dice.between(0.5, 1.0)
            front = (x, x + width, z)
            blank = dice.chance(0.3)
            _draw_front(canvas, dice, style, front, height, dice.colour(style.facades), blank=blank)
        else:
            tone = dice.colour(style.foliage)
            for _ in range(7):
                u = dice.between(x, x + width)
                radius = dice.between(2, 5)
                paint = canvas.mix(scale(tone, dice.between(0.8, 1.15)), FOLIAGE, z)
                point = canvas.view.point(u, radius * 0.7, z)
                reach = radius * canvas.view.focal / z
                canvas.disc(point, reach, reach, paint, labels.VEGETATION)
        x += width


def draw_side(canvas: Canvas, dice: Dice, style: Style, side: Side, light: float) -> None:
    """All lots of one side, the farthest first; what encloses them comes after what they hold.

    `light` brightens the fronts along the street: one side lies in the sun.
    """
    lots = list(side.lots)
    for i in range(len(lots) - 1, -1, -1):
        lot = lots[i]
        exposed = i == 0 or lots[i - 1].kind != "building"
        if lot.kind == "building":
            inner = side.outer + dice.between(0, 0.4)
            _draw_house(canvas, dice, style, side, lot, inner, exposed, light)
        elif lot.kind == "yard":
            if dice.chance(0.55):
                inner = side.outer + dice.between(3.5, 8)
                _draw_house(canvas, dice, style, side, lot, inner, True, light)
            _plant(canvas, dice, style, side, lot, dice.whole(0, 3))
        elif lot.kind == "park":
            _plant(canvas, dice, style, side, lot, dice.whole(3, 7))
        if lot.front:
            draw_enclosure(canvas, dice, style, side, lot)


def _plant(canvas: Canvas, dice: Dice, style: Style, side: Side, lot: Lot, count: int) -> None:
    places = [(dice.between(lot.near, lot.far), dice.between(1.5, 9)) for _ in range(count)]
    for z, depth in sorted(places, reverse=True):
        if z > 3.5:
            draw_tree(canvas, dice, style, side.sign * (side.outer + depth), z)


def _draw_house(
    canvas: Canvas,
    dice: Dice,
    style: Style,
    side: Side,
    lot: Lot,
    inner: float,
    exposed: bool,
    light: float,
) -> None:
    storeys = dice.whole(*style.storeys)
    if lot.kind == "yard":
        storeys = min(storeys, dice.whole(1, 4))
    height = _STOREY * storeys + dice.between(1.0, 2.0)
    colour = dice.colour(style.facades, 0.14)
    x = side.sign * inner
    near, far = max(lot.near, _NEAR), lot.far
    if far - near < 1:
        return
    pitched = dice.chance(style.pitched_roofs)
    depth = dice.between(9, 14)
    end, ridge = x + side.sign * depth, x + side.sign * depth / 2
    top = height + 0.35 * depth
    if pitched:
        roof = canvas.mix(dice.colour(style.roofs, 0.15), FACADE, near)
        corners = [(x, height, near), (x, height, far), (ridge, top, far), (ridge, top, near)]
        canvas.plane(corners, roof, labels.BUILDING)
    # The end wall also closes the view to the sky past a lower neighbour.
    shaded = scale(colour, 0.92)
    if pitched:
        gable = [(x, height, near), (ridge, top, near), (end, height, near)]
        canvas.plane(gable, canvas.mix(shaded, FACADE, near), labels.BUILDING)
    front = (min(x, end), max(x, end), near)
    _draw_front(canvas, dice, style, front, height, shaded, blank=not exposed or dice.chance(0.3))
    _draw_street_front(canvas, dice, style, (x, near, far), height, scale(colour, light))


def _draw_street_front(
    canvas: Canvas,
    dice: Dice,
    style: Style,
    place: tuple[float, float, float],
    height: float,
    colour: Colour,
) -> None:
    """The facade along the street at x = place[0], between two forward distances."""
    x, near, far = place
    # Short pieces, so that the facade follows the street's bend and fades with distance.
    edges = [near + (far - near) * i / 3 for i in range(4)]
    for z0, z1 in pairwise(edges):
        wall = canvas.mix(colour, FACADE, (z0 + z1) / 2)
        canvas.plane(
            [(x, 0, z0), (x, 0, z1), (x, height, z1), (x, height, z0)], wall, labels.BUILDING
        )
    band = canvas.mix(scale(colour, dice.pick((0.8, 1.15))), FACADE, near)
    _on_side(canvas, x, near, far, height - 0.5, height, band)
    shop = dice.chance(0.5)
    if shop:
        base = canvas.mix(scale(dice.colour(style.coaches), 0.8), FACADE, near)
        _on_side(canvas, x, near, far, 2.9, 3.5, base)
    pitch = dice.between(2.2, 3.6)
    wide, tall = pitch * dice.between(0.4, 0.65), dice.between(1.3, 2.0)
    frame = canvas.mix(scale(colour, 1.25), FACADE, near)
    framed = dice.chance(0.5)
    tones = [canvas.mix(dice.colour(style.glass, 0.2), GLASS, near) for _ in range(4)]
    count = int((far - near) / pitch)
    for column in range(count):
        z0 = near + (column + 0.5) * (far - near) / count - wide / 2
        z1 = z0 + wide
        # Windows narrower than a pixel would only alias.
        # (Measured against the picture, so that the scene is the same at every size.)
        shown = abs(canvas.view.point(x, 0, z0)[0] - canvas.view.point(x, 0, z1)[0])
        if shown < canvas.view.width / 400:
            continue
        level = 3.9
        while level + tall < height - 0.6:
            if framed:
                _on_side(canvas, x, z0 - 0.15, z1 + 0.15, level - 0.15, level + tall + 0.15, frame)
            _on_side(canvas, x, z0, z1, level, level + tall, dice.pick(tones))
            level += _STOREY
        if shop:
            _on_side(canvas, x, z0 - 0.5, z1 + 0.5, 0.5, 2.7, dice.pick(tones))
        elif dice.chance(0.75):
            _on_side(canvas, x, z0, z1, 1.0, 2.6, dice.pick(tones))
        else:
            door = canvas.mix(scale(dice.colour(style.fences), 0.8), FACADE, near)
            _on_side(canvas, x, z0, z1, 0.0, 2.4, door)


def _on_side(
    canvas: Canvas, x: float, z0: float, z1: float, y0: float, y1: float, paint: int
) -> None:
    canvas.plane([(x, y0, z0), (x, y0, z1), (x, y1, z1), (x, y1, z0)], paint, labels.BUILDING)


def _draw_front(
    canvas: Canvas,
    dice: Dice,
    style: Style,
    front: tuple[float, float, float],
    height: float,
    colour: Colour,
    *,
    blank: bool,
) -> None:
    """A facade that faces the camera, from x0 to x1 at distance z."""
    x0, x1, z = front
    wall = canvas.mix(colour, FACADE, z)
    canvas.plane([(x0, 0, z), (x1, 0, z), (x1, height, z), (x0, height, z)], wall, labels.BUILDING)
    if blank:
        return
    tones = [canvas.mix(dice.colour(style.glass, 0.2), GLASS, z) for _ in range(3)]
    pitch, wide, tall = dice.between(2.4, 3.6), dice.between(1.0, 1.6), dice.between(1.3, 1.9)
    if wide * canvas.view.focal / z < canvas.view.width / 400:
        return
    level = 1.0
    while level + tall < height - 0.4:
        x = x0 + 0.8
        while x + wide < x1 - 0.5:
            corners = [(x, level, z), (x + wide, level, z)]
            corners += [(x + wide, level + tall, z), (x, level + tall, z)]
            canvas.plane(corners, dice.pick(tones), labels.BUILDING)
            x += pitch
        level += _STOREY


def draw_enclosure(canvas: Canvas, dice: Dice, style: Style, side: Side, lot: Lot) -> None:
    """Wall, fence or hedge along the front of a lot."""
    near, far = max(lot.near, _NEAR), lot.far
    if far - near < 1:
        return
    x = side.sign * side.outer
    if lot.front == "wall":
        _draw_wall(canvas, dice, style, (x, near, far))
    elif lot.front == "fence":
        _draw_fence(canvas, dice, style, (x, near, far))
    else:
        _draw_hedge(canvas, dice, style, (x, near, far))


def _draw_wall(canvas: Canvas, dice: Dice, style: Style, place: tuple[float, float, float]) -> None:
    x, near, far = place
    height = dice.between(2.0, 3.6)
    colour = dice.colour(style.masonry, 0.12)
    steps = 3
    for i in range(steps):
        z0, z1 = near + (far - near) * i / steps, near + (far - near) * (i + 1) / steps
        corners = [(x, 0, z0), (x, 0, z1), (x, height, z1), (x, height, z0)]
        canvas.plane(corners, canvas.mix(colour, FACADE, (z0 + z1) / 2), labels.WALL)
    joint = canvas.mix(scale(colour, 0.78), FACADE, near)
    cap = canvas.mix(scale(colour, 1.18), FACADE, near)
    z = near + 1.2
    pitch = dice.between(1.5, 3.0)
    while z < min(far, 30.0):
        corners = [(x, 0, z), (x, 0, z + 0.12), (x, height, z + 0.12), (x, height, z)]
        canvas.plane(corners, joint, labels.WALL)
        z += pitch
    top = [(x, height - 0.15, near), (x, height - 0.15, far), (x, height, far), (x, height, near)]
    canvas.plane(top, cap, labels.WALL)


def _draw_fence(
    canvas: Canvas, dice: Dice, style: Style, place: tuple[float, float, float]
) -> None:
    """Planks, or bars that one sees through: as in Cityscapes the label covers both alike."""
    x, near, far = place
    height = dice.between(2.0, 3.2)
    colour = dice.colour(style.fences, 0.15)
    solid = dice.chance(0.75)
    outline = [(x, 0, near), (x, 0, far), (x, height, far), (x, height, near)]
    board = canvas.mix(colour, FACADE, near)
    canvas.plane(outline, board if solid else None, labels.FENCE)
    pitch, thick = (0.5, 0.06) if solid else (dice.between(0.16, 0.35), 0.06)
    bar = canvas.mix(scale(colour, 0.75), FACADE, near) if solid else board
    z = near
    while z < min(far, 45.0):
        corners = [(x, 0, z), (x, 0, z + thick), (x, height, z + thick), (x, height, z)]
        canvas.plane(corners, bar, labels.FENCE)
        z += pitch * max(1.0, z / 8)  # distant bars merge; drawing every one would only cost time
    for level in (0.15, height - 0.12):
        rail = [(x, level, near), (x, level, far), (x, level + 0.1, far), (x, level + 0.1, near)]
        canvas.plane(rail, bar, labels.FENCE)


def _draw_hedge(
    canvas: Canvas, dice: Dice, style: Style, place: tuple[float, float, float]
) -> None:
    x, near, far = place
    height = dice.between(0.7, 2.2)
    tone = dice.colour(style.foliage, 0.2)
    body = [(x, 0, near), (x, 0, far), (x, height, far), (x, height, near)]
    canvas.plane(body, canvas.mix(tone, FOLIAGE, (near + far) / 2), labels.VEGETATION)
    z = far
    while z > near:
        radius = dice.between(0.25, 0.45)
        paint = canvas.mix(blend(tone, scale(tone, 1.3), dice.unit()), FOLIAGE, z)
        reach = radius * canvas.view.focal / z
        point = canvas.view.point(x, height - dice.between(0.0, 0.3), z)
        canvas.disc(point, reach, reach, paint, labels.VEGETATION)
        z -= max(0.5, z * 0.07)
