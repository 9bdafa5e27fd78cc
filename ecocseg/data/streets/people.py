"""Persons, riders, and the bicycles and motorcycles they ride or leave at the kerb."""

from ecocseg.data.streets import labels
from ecocseg.data.streets.canvas import CLOTH, METAL, Canvas, Sprite
from ecocseg.data.streets.dice import Colour, Dice, scale
from ecocseg.data.streets.style import Style

_RUBBER: Colour = (30, 30, 32)
_HAIR: tuple[Colour, ...] = ((40, 32, 28), (90, 66, 44), (150, 120, 80), (110, 108, 106))


def draw_person(canvas: Canvas, dice: Dice, style: Style, x: float, z: float) -> None:
    """A pedestrian, standing or walking; one in eight is a child."""
    body = Sprite(canvas, x, z, turn=float(dice.sign()))
    tall = dice.between(1.05, 1.3) if dice.chance(0.12) else dice.between(1.58, 1.9)
    k = tall / 1.75
    top = body.mix(dice.colour(style.clothes, 0.2), CLOTH)
    legs = body.mix(scale(dice.colour(style.clothes, 0.2), 0.7), CLOTH)
    skin = body.mix(dice.colour(style.skin), CLOTH)
    stride = dice.between(0.02, 0.28) * k
    label = labels.PERSON
    if dice.chance(0.15):  # a coat or skirt
        body.fill([(-0.26 * k, 0.45 * k), (0.26 * k, 0.45 * k), (0, 1.2 * k)], top, label)
    for s in (-1, 1):
        body.limb((s * 0.08 * k, 0.85 * k), (s * stride, 0.0), 0.17 * k, legs, label)
    wide = dice.between(0.2, 0.26) * k
    shoulders = [(-wide, 1.42 * k), (wide, 1.42 * k), (wide * 0.8, 0.8 * k), (-wide * 0.8, 0.8 * k)]
    body.fill(shoulders, top, label)
    swing = stride * 0.8
    for s in (-1, 1):
        body.limb((s * wide, 1.38 * k), (s * (wide + swing * 0.4), 0.85 * k), 0.1 * k, top, label)
    if dice.chance(0.3):  # a bag
        bag = body.mix(dice.colour(style.clothes, 0.2), CLOTH)
        body.box(-wide * 1.3, 0.95 * k, -wide * 0.4, 1.35 * k, bag, label)
    body.box(-0.06 * k, 1.4 * k, 0.06 * k, 1.52 * k, skin, label)
    body.disc(0, 1.62 * k, 0.11 * k, 0.14 * k, skin, label)
    hair = body.mix(dice.colour(_HAIR), CLOTH)
    body.disc(0, 1.68 * k, 0.12 * k, 0.09 * k, hair, label)


def _rider(
    sprite: Sprite, dice: Dice, style: Style, *, seat: float, lean: float, helmet: bool
) -> None:
    """The person on a two-wheeler, in side view (full turn) or from behind (small turn)."""
    label = labels.RIDER
    top = sprite.mix(dice.colour(style.clothes, 0.2), CLOTH)
    legs = sprite.mix(scale(dice.colour(style.clothes, 0.2), 0.7), CLOTH)
    skin = sprite.mix(dice.colour(style.skin), CLOTH)
    facing = abs(sprite.turn) < 0.5
    shoulder = seat + 0.55
    if facing:
        # Undo the squeeze: seen from behind a rider is as wide as a person.
        wide = 0.22 / abs(sprite.turn)
        for s in (-1, 1):
            knee = (s * wide * 0.75, seat - 0.35)
            sprite.limb((s * wide * 0.4, seat), knee, 0.16, legs, label)
            sprite.limb(knee, (s * wide * 0.5, seat - 0.7), 0.12, legs, label)
            sprite.limb((s * wide, shoulder), (s * wide * 1.3, seat + 0.15), 0.1, top, label)
        torso = [(-wide, shoulder), (wide, shoulder), (wide * 0.75, seat), (-wide * 0.75, seat)]
        sprite.fill(torso, top, label)
        head = (0.0, shoulder + 0.22)
        neck = 0.0
    else:
        hip, neck = (-0.2, seat), -0.2 + lean
        sprite.limb(hip, (0.2, seat - 0.28), 0.17, legs, label)
        sprite.limb((0.2, seat - 0.28), (0.05, seat - 0.72), 0.13, legs, label)
        sprite.limb(hip, (neck, shoulder), 0.3, top, label)
        sprite.limb((neck, shoulder - 0.05), (0.42, seat + 0.15), 0.1, top, label)
        head = (neck + 0.08, shoulder + 0.22)
    radius = 0.14 if helmet else 0.11
    sprite.disc(head[0], head[1], radius / (abs(sprite.turn) if facing else 1), 0.15, skin, label)
    crown = scale(dice.colour(style.cars), 0.9) if helmet else dice.colour(_HAIR)
    shell = radius * 1.05 / (abs(sprite.turn) if facing else 1)
    paint = sprite.mix(crown, METAL if helmet else CLOTH)
    sprite.disc(head[0], head[1] + 0.06, shell, 0.11, paint, label)


def _bicycle(sprite: Sprite, dice: Dice, style: Style) -> None:
    label = labels.BICYCLE
    rubber = sprite.mix(_RUBBER, CLOTH)
    frame = sprite.mix(scale(dice.colour(style.cars, 0.15), 0.9), METAL)
    if abs(sprite.turn) < 0.5:
        grip = 0.28 / abs(sprite.turn)
        sprite.limb((0, 0.0), (0, 0.68), 0.07, rubber, label)
        sprite.limb((0, 0.5), (0, 1.0), 0.07, frame, label)
        sprite.limb((-grip, 1.02), (grip, 1.02), 0.06, rubber, label)
        saddle = 0.1 / abs(sprite.turn)
        sprite.box(-saddle, 0.88, saddle, 0.98, rubber, label)
        return
    wheel = 0.34
    for u in (-0.52, 0.52):
        sprite.disc(u, wheel, wheel, wheel, None, label)  # spokes: labelled, but seen through
        sprite.ring(u, wheel, wheel, rubber, 0.06)
    pedal, seat, head = (-0.02, 0.32), (-0.2, 0.86), (0.4, 0.84)
    inside = [(-0.52, wheel), seat, head, (0.52, wheel), pedal]
    sprite.fill(inside, None, label)
    rear, front = (-0.52, wheel), (0.52, wheel)
    for a, b in ((rear, seat), (rear, pedal), (pedal, seat), (pedal, head), (seat, head)):
        sprite.limb(a, b, 0.045, frame, label)
    sprite.limb((0.36, 1.0), front, 0.05, frame, label)
    sprite.limb((0.3, 1.02), (0.48, 0.98), 0.05, rubber, label)
    sprite.limb((-0.32, 0.92), (-0.1, 0.9), 0.07, rubber, label)


def _motorcycle(sprite: Sprite, dice: Dice, style: Style) -> None:
    label = labels.MOTORCYCLE
    rubber = sprite.mix(_RUBBER, CLOTH)
    shell = sprite.mix(dice.colour(style.cars, 0.15), METAL)
    engine = sprite.mix((70, 70, 74), METAL)
    if abs(sprite.turn) < 0.5:
        k = 1 / abs(sprite.turn)
        sprite.box(-0.09 * k, 0, 0.09 * k, 0.62, rubber, label)
        sprite.box(-0.22 * k, 0.4, 0.22 * k, 0.95, shell, label)
        sprite.box(-0.3 * k, 0.3, 0.3 * k, 0.5, engine, label)
        tail = sprite.mix((200, 40, 36) if dice.chance(0.5) else (235, 232, 210), METAL)
        sprite.box(-0.1 * k, 0.72, 0.1 * k, 0.86, tail, label)
        sprite.limb((-0.4 * k, 1.06), (0.4 * k, 1.06), 0.07, rubber, label)
        return
    wheel = 0.32
    hull = [(-0.95, 0.75), (-0.5, 0.9), (0.2, 1.0), (0.45, 1.05), (0.7, 0.35), (-0.6, 0.25)]
    sprite.fill(hull, engine, label)
    for u in (-0.68, 0.72):
        sprite.disc(u, wheel, wheel, wheel, rubber, label)
        sprite.disc(u, wheel, wheel * 0.5, wheel * 0.5, engine, label)
    seat = [(-0.98, 0.82), (-0.3, 0.74), (0.0, 0.82), (-0.1, 0.9), (-0.9, 0.94)]
    sprite.fill(seat, rubber, label)
    sprite.fill([(-0.1, 0.7), (0.42, 0.72), (0.4, 1.04), (0.05, 1.02)], shell, label)
    sprite.fill([(-0.9, 0.7), (-0.4, 0.62), (-0.45, 0.84), (-0.98, 0.86)], shell, label)
    sprite.limb((0.34, 1.14), (0.72, wheel), 0.08, engine, label)
    sprite.limb((0.2, 1.16), (0.42, 1.1), 0.06, rubber, label)
    exhaust = sprite.mix((140, 140, 142), METAL)
    sprite.limb((0.0, 0.3), (-0.85, 0.36), 0.09, exhaust, label)


def draw_two_wheeler(
    canvas: Canvas,
    dice: Dice,
    style: Style,
    place: tuple[float, float],
    *,
    motor: bool,
    ridden: bool,
    along: bool,
) -> None:
    """A bicycle or motorcycle; `along` looks at it from the front or behind."""
    turn = dice.between(0.2, 0.35) if along else dice.between(0.75, 1.0)
    sprite = Sprite(canvas, *place, turn=turn * dice.sign())
    machine = _motorcycle if motor else _bicycle
    if ridden and along:
        # Seen from behind, wheel and tail stand before the rider, whose legs show at their sides.
        _rider(sprite, dice, style, seat=0.85 if motor else 0.95, lean=0.0, helmet=motor)
        machine(sprite, dice, style)
        return
    machine(sprite, dice, style)
    if ridden:
        lean = dice.between(0.1, 0.3)
        helmet = motor or dice.chance(0.4)
        _rider(sprite, dice, style, seat=0.88 if motor else 0.95, lean=lean, helmet=helmet)
