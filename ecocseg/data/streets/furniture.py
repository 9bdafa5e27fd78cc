"""What stands on the ground and does not move: trees, poles, traffic lights, signs, clutter.

Poles, lights and signs are half as large again as real ones: in a picture of 96 rows they would
else be a pixel wide.
"""

import math

from ecocseg.data.streets import labels
from ecocseg.data.streets.canvas import CLOTH, FOLIAGE, METAL, Canvas, Point, Sprite
from ecocseg.data.streets.dice import Colour, Dice, scale
from ecocseg.data.streets.style import Style

_LAMPS: tuple[Colour, ...] = ((235, 50, 40), (245, 190, 50), (60, 220, 110))


def draw_tree(canvas: Canvas, dice: Dice, style: Style, x: float, z: float) -> None:
    """A tree or, one in five, a bush."""
    tree = Sprite(canvas, x, z)
    tone = dice.colour(style.foliage, 0.2)
    if dice.chance(0.2):
        middle, wide, tall = dice.between(0.4, 0.8), dice.between(0.6, 1.2), dice.between(0.5, 0.9)
    else:
        middle = dice.between(3.2, 6.5)
        wide, tall = dice.between(1.2, 2.8), dice.between(1.3, 2.8)
        trunk = tree.mix(scale((96, 78, 62), dice.between(0.7, 1.1)), FOLIAGE)
        thick = dice.between(0.2, 0.4)
        tree.limb((0, 0), (dice.between(-0.2, 0.2), middle), thick, trunk, labels.VEGETATION)
    shades = [tree.mix(scale(tone, factor), FOLIAGE) for factor in (0.68, 0.85, 1.0, 1.2)]
    tree.disc(0, middle, wide * 0.85, tall * 0.85, shades[1], labels.VEGETATION)
    for _ in range(22):
        angle = dice.between(0, 2 * math.pi)
        reach = math.sqrt(dice.unit())
        u, v = math.cos(angle) * reach * wide, math.sin(angle) * reach * tall
        # Lit from above: low clumps are dark, high ones light.
        light = min(3, max(0, round(1.5 + 1.6 * v / tall + dice.between(-0.8, 0.8))))
        size = dice.between(0.16, 0.4) * wide
        tree.disc(u, middle + v, size, size * 0.8, shades[light], labels.VEGETATION)


def draw_lamp_post(canvas: Canvas, dice: Dice, style: Style, x: float, z: float) -> None:
    """A street lamp whose arm reaches over the road."""
    post = Sprite(canvas, x, z)
    paint = post.mix(dice.colour(style.metal, 0.2), METAL)
    height = dice.between(5.0, 8.5)
    post.limb((0, 0), (0, height), 0.3, paint, labels.POLE)
    inward = -1.4 if x > 0 else 1.4
    post.limb((0, height), (inward, height + 0.3), 0.18, paint, labels.POLE)
    post.box(inward - 0.3, height + 0.2, inward + 0.3, height + 0.42, paint, labels.POLE)


def draw_bollard(canvas: Canvas, dice: Dice, style: Style, x: float, z: float) -> None:
    """A knee-high post."""
    post = Sprite(canvas, x, z)
    paint = post.mix(dice.colour(style.metal, 0.2), METAL)
    post.limb((0, 0), (0, dice.between(0.8, 1.1)), 0.2, paint, labels.POLE)


def _signal(sprite: Sprite, dice: Dice, centre: Point, housing: Colour, scale_: float) -> None:
    u, v = centre
    wide, tall = 0.2 * scale_, 0.56 * scale_
    body = sprite.mix(housing, METAL)
    sprite.box(u - wide, v - tall, u + wide, v + tall, body, labels.TRAFFIC_LIGHT)
    if dice.chance(0.2):  # seen from behind
        return
    lit = dice.whole(0, 2)
    for i, lamp in enumerate(_LAMPS):
        paint = sprite.mix(lamp if i == lit else scale(lamp, 0.28), METAL)
        middle = v + tall * (0.62 - 0.62 * i)
        sprite.disc(u, middle, wide * 0.72, tall * 0.27, paint, labels.TRAFFIC_LIGHT)


def draw_signal(canvas: Canvas, dice: Dice, style: Style, x: float, z: float) -> None:
    """Traffic lights on a post, and in some streets on an arm over the road too."""
    post = Sprite(canvas, x, z)
    metal = dice.colour(style.metal, 0.2)
    paint = post.mix(metal, METAL)
    housing = dice.pick(((38, 40, 42), (38, 40, 42), scale(style.metal[0], 0.6)))
    size = dice.between(1.5, 1.9)
    if dice.chance(0.4):
        height = dice.between(5.0, 6.0)
        inward = (-1 if x > 0 else 1) * dice.between(2.5, 4.5)
        post.limb((0, 0), (0, height), 0.3, paint, labels.POLE)
        post.limb((0, height), (inward, height + 0.2), 0.2, paint, labels.POLE)
        _signal(post, dice, (inward, height - 0.3), housing, size)
    else:
        post.limb((0, 0), (0, 3.0), 0.24, paint, labels.POLE)
    _signal(post, dice, (0.0, 2.7), housing, size)


def draw_sign(canvas: Canvas, dice: Dice, style: Style, x: float, z: float) -> None:
    """A traffic sign on its pole."""
    post = Sprite(canvas, x, z)
    pole = post.mix(dice.colour(style.metal, 0.2), METAL)
    height = dice.between(2.2, 3.1)
    post.limb((0, 0), (0, height), 0.2, pole, labels.POLE)
    vivid = 1.0 if style.texture < 1 else 0.85
    red, blue = scale((210, 40, 40), vivid), scale((40, 90, 190), vivid)
    white, yellow = scale((240, 240, 238), vivid), scale((245, 200, 50), vivid)
    for level in range(dice.pick((1, 1, 2))):
        v = height - level * 1.2
        _plate(post, dice, v, (red, blue, white, yellow, scale(style.metal[0], 1.1)))


def _plate(post: Sprite, dice: Dice, v: float, colours: tuple[Colour, ...]) -> None:
    label = labels.TRAFFIC_SIGN
    red, blue, white, yellow, grey = (post.mix(colour, METAL) for colour in colours)
    size = dice.between(0.48, 0.62)
    kind = dice.whole(0, 6)
    if kind <= 1:  # prohibition
        post.disc(0, v, size, size, red, label)
        post.disc(0, v, size * 0.62, size * 0.62, white, label)
    elif kind == 2:  # warning
        _triangle(post, v, size * 1.15, red)
        _triangle(post, v - size * 0.06, size * 0.62, white)
    elif kind == 3:
        post.disc(0, v, size, size, blue, label)
        post.box(-size * 0.12, v - size * 0.5, size * 0.12, v + size * 0.5, white, label)
    elif kind == 4:
        diamond = [(0, v - size * 1.2), (size * 1.2, v), (0, v + size * 1.2), (-size * 1.2, v)]
        post.fill(diamond, yellow, label)
    elif kind == 5:
        wide = dice.between(0.6, 1.2)
        post.box(-wide, v - 0.3, wide, v + 0.3, dice.pick((blue, white, yellow)), label)
        post.box(-wide * 0.7, v - 0.08, wide * 0.7, v + 0.08, dice.pick((white, red)), label)
    else:  # seen from behind
        post.disc(0, v, size, size, grey, label)


def _triangle(post: Sprite, v: float, size: float, paint: int) -> None:
    corners = [(-size, v - size * 0.8), (size, v - size * 0.8), (0, v + size)]
    post.fill(corners, paint, labels.TRAFFIC_SIGN)


def draw_clutter(canvas: Canvas, dice: Dice, style: Style, x: float, z: float) -> None:
    """A bin or box: static, and so ignored in training."""
    thing = Sprite(canvas, x, z)
    wide, tall = dice.between(0.25, 0.6), dice.between(0.7, 1.3)
    body = thing.mix(scale(dice.colour(style.clothes), 0.8), CLOTH)
    thing.box(-wide, 0, wide, tall, body, labels.STATIC)
    lid = thing.mix(dice.colour(style.metal), METAL)
    thing.box(-wide, tall - 0.12, wide, tall, lid, labels.STATIC)
