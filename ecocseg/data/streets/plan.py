"""The plan of a street before anything is drawn: lanes, sidewalks, lots beside them, rails."""

from dataclasses import dataclass

from ecocseg.data.streets.canvas import OVERSAMPLING, View
from ecocseg.data.streets.dice import Dice
from ecocseg.data.streets.style import Style

PARKING_WIDTH = 2.3
TRACK_WIDTH = 3.2


@dataclass(frozen=True, kw_only=True)
class Lot:
    """What stands beside the sidewalk from `near` to `far` metres ahead.

    `kind`: "building", "yard" (something low in front of a house or trees), "park" or "gap" (a
    street that joins). `front` is what encloses a yard: "wall", "fence" or "hedge".
    """

    kind: str
    near: float
    far: float
    front: str = ""


@dataclass(frozen=True, kw_only=True)
class Side:
    """One side of the street; `sign` is -1 left, 1 right; widths and offsets are positive."""

    sign: int
    curb: float
    strip: float
    walk: float
    parking: bool
    lots: tuple[Lot, ...]

    @property
    def outer(self) -> float:
        """Distance of the lots' front from the camera's axis."""
        return self.curb + self.strip + self.walk


@dataclass(frozen=True, kw_only=True)
class Lane:
    """A lane's centre (m right of the camera) and whether its traffic comes towards us."""

    x: float
    oncoming: bool


@dataclass(frozen=True, kw_only=True)
class Street:
    """Everything that later drawing steps agree on."""

    sides: tuple[Side, Side]
    lanes: tuple[Lane, ...]
    lane_width: float
    lines: tuple[tuple[float, bool], ...]  # lane borders: x, whether it parts the directions
    rails: float | None  # centre of the tram track
    rail_bed: bool  # the track has its own grassy or gravelled bed
    far: float
    closed: bool  # a house across the end, else the view runs out
    sun: int  # the side that casts shadows over the street


def choose_view(dice: Dice, style: Style, height: int, width: int) -> View:
    """Camera of a scene for an image of [height, width]."""
    return View(
        width=width * OVERSAMPLING,
        height=height * OVERSAMPLING,
        focal=dice.span(style.focal) * width * OVERSAMPLING,
        centre=(0.5 + dice.between(-0.1, 0.1)) * width * OVERSAMPLING,
        horizon=dice.span(style.horizon) * height * OVERSAMPLING,
        eye=dice.span(style.eye),
        bend=dice.between(-style.bend, style.bend),
    )


def plan_street(dice: Dice, style: Style, *, track: bool) -> Street:
    """Lay out a street; `track` adds a tram track between the directions."""
    width = dice.span(style.lane_width)
    own = dice.whole(*style.lanes)
    opposite = dice.whole(*style.lanes) if dice.chance(0.85) else 0
    place = dice.whole(0, own - 1)  # lanes to the right of ours
    shift = dice.between(-0.4, 0.4)
    closed = dice.chance(0.25)
    far = dice.between(38, 60) if closed else dice.between(80, 130)

    right = (place + 0.5) * width + shift
    left = -(own - place - 0.5) * width + shift
    lanes = [Lane(x=left + (i + 0.5) * width, oncoming=False) for i in range(own)]
    lines = [(left + i * width, False) for i in range(1, own)]
    rails = None
    bed = track and dice.chance(0.5)
    if track:
        rails = left - TRACK_WIDTH / 2
        lines += [] if bed else [(left, True)]
        left -= TRACK_WIDTH
    if opposite:
        lines += [] if bed else [(left, True)]
        lanes += [Lane(x=left - (i + 0.5) * width, oncoming=True) for i in range(opposite)]
        lines += [(left - i * width, False) for i in range(1, opposite)]
        left -= opposite * width
    sides = []
    for sign, edge in ((-1, -left), (1, right)):
        parking = dice.chance(style.parked)
        sides.append(
            Side(
                sign=sign,
                curb=edge + (PARKING_WIDTH if parking else 0.3),
                strip=dice.between(0.9, 2.6) if dice.chance(style.strip) else 0.0,
                walk=dice.span(style.sidewalk),
                parking=parking,
                lots=_lots(dice, style, far),
            )
        )
    return Street(
        sides=(sides[0], sides[1]),
        lanes=tuple(lanes),
        lane_width=width,
        lines=tuple(lines),
        rails=rails,
        rail_bed=bed,
        far=far,
        closed=closed,
        sun=dice.sign(),
    )


def _lots(dice: Dice, style: Style, far: float) -> tuple[Lot, ...]:
    lots = []
    z = dice.between(1.0, 4.0)
    kind = ""
    while z < far:
        if kind not in ("", "gap") and z > 9 and dice.chance(style.gap * 0.6):
            kind, length, front = "gap", dice.between(6, 11), ""
        # What is nearest fills the edge of the picture: there walls and fences are large.
        elif dice.chance(0.85 if kind == "" else style.setback):
            park = dice.chance(0.3)
            kind, length = ("park" if park else "yard"), dice.between(9, 26)
            front = dice.pick(("", "fence", "hedge") if park else ("wall", "fence", "hedge"))
            front = dice.pick((front, "wall", "wall", "fence", "fence", "fence"))
        else:
            kind, length, front = "building", dice.between(8, 24), ""
        lots.append(Lot(kind=kind, near=z, far=min(z + length, far), front=front))
        z += length
    return tuple(lots)
