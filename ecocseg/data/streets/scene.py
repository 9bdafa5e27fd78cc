"""One street scene: plan it, draw it from far to near, photograph it."""

from dataclasses import dataclass

import numpy as np

from ecocseg.data.streets import labels
from ecocseg.data.streets.canvas import METAL, Canvas
from ecocseg.data.streets.dice import Dice, scale
from ecocseg.data.streets.facades import draw_backdrop, draw_side
from ecocseg.data.streets.ground import cast_shadows, draw_ground, draw_sky
from ecocseg.data.streets.plan import choose_view, plan_street
from ecocseg.data.streets.populate import Population
from ecocseg.data.streets.sensor import develop
from ecocseg.data.streets.style import STYLES, Domain
from ecocseg.errors import ConfigError

_TRACK = 0.34  # share of streets with a tram


@dataclass(frozen=True)
class Scene:
    """A picture and what is on it.

    image: uint8 [H, W, 3] RGB. label_ids: uint8 [H, W], Cityscapes label ids (33 = bicycle).
    """

    image: np.ndarray
    label_ids: np.ndarray

    @property
    def labels(self) -> np.ndarray:
        """Train ids, uint8 [H, W]: 0..18, 255 where Cityscapes does not train."""
        return labels.train_id_table()[self.label_ids]


def render_scene(seed: int, domain: Domain, height: int, width: int) -> Scene:
    """Render the scene that belongs to a seed (>= 0); the same arguments give the same bytes.

    The layout depends on seed and domain only, so a larger size shows the same street.
    Raises ConfigError (a ValueError) for an unknown domain, a negative seed or a size below 32.
    """
    if domain not in STYLES:
        raise ConfigError(f"domain: got {domain!r}, allowed {sorted(STYLES)}; choose one of them")
    if seed < 0:
        raise ConfigError(f"seed: got {seed}, allowed 0 or more; give a whole number")
    if min(height, width) < 32:
        raise ConfigError(
            f"height, width: got {height}, {width}, allowed 32 or more; render larger"
        )
    style = STYLES[domain]
    dice = Dice(seed, sorted(STYLES).index(domain))
    canvas = Canvas(choose_view(dice, style, height, width))
    track = dice.chance(_TRACK)
    street = plan_street(dice, style, track=track)
    draw_sky(canvas, dice, style)
    draw_ground(canvas, dice, style, street)
    cast_shadows(canvas, dice, style, street)
    draw_backdrop(canvas, dice, style, street)
    for side in street.sides:
        light = 1 - style.relief if side.sign == street.sun else 1 + style.relief * 0.6
        draw_side(canvas, dice, style, side, light)
    Population(canvas, dice, style, street).draw()
    if style.hood:
        _draw_hood(canvas, dice)
    return Scene(develop(canvas, dice, style, seed), canvas.labels())


def _draw_hood(canvas: Canvas, dice: Dice) -> None:
    """The own car's bonnet, which Cityscapes labels `ego vehicle` and does not train."""
    view = canvas.view
    top = view.height * (1 - dice.between(0.05, 0.1))
    sag = view.height * dice.between(0.02, 0.05)
    colour = dice.pick(((40, 42, 46), (70, 74, 80), (96, 100, 104)))
    for share, factor in ((0.0, 1.0), (0.35, 0.8), (0.7, 0.6)):
        level = top + (view.height - top) * share
        arc = [
            (view.width * i / 12, level + sag * ((i - 6) / 6) ** 2 * (1 - share)) for i in range(13)
        ]
        paint = canvas.mix(scale(colour, factor), METAL, 0.0)
        corners = [*arc, (view.width, view.height), (0, view.height)]
        canvas.fill(corners, paint, labels.EGO_VEHICLE)
