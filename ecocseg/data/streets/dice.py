"""Random choices of a scene, drawn one scalar at a time from a buffered numpy generator."""

from collections.abc import Sequence
from typing import TypeVar

import numpy as np

Item = TypeVar("Item")
Span = tuple[float, float]
Colour = tuple[float, float, float]

_BUFFER = 2048


class Dice:
    """Scalars from one numpy Generator.

    A scene takes thousands of them; fetching them in blocks is ten times as fast as one call each.
    """

    def __init__(self, *key: int) -> None:
        self._rng = np.random.default_rng(key)
        self._values: list[float] = []

    def unit(self) -> float:
        """One number from [0, 1)."""
        if not self._values:
            self._values = self._rng.random(_BUFFER).tolist()
        return self._values.pop()

    def span(self, limits: Span) -> float:
        """One number between the two limits, uniformly."""
        return limits[0] + (limits[1] - limits[0]) * self.unit()

    def between(self, low: float, high: float) -> float:
        """One number from [low, high), uniformly."""
        return low + (high - low) * self.unit()

    def whole(self, low: int, high: int) -> int:
        """One whole number from low..high, both included."""
        return low + int((high - low + 1) * self.unit())

    def chance(self, probability: float) -> bool:
        """True with the given probability."""
        return self.unit() < probability

    def sign(self) -> int:
        """-1 or 1."""
        return -1 if self.unit() < 0.5 else 1

    def pick(self, items: Sequence[Item]) -> Item:
        """One of the items."""
        return items[int(len(items) * self.unit())]

    def colour(self, palette: Sequence[Colour], spread: float = 0.08) -> Colour:
        """A palette colour, made lighter or darker by up to `spread` (a share)."""
        return scale(self.pick(palette), 1.0 + self.between(-spread, spread))


def scale(colour: Colour, factor: float) -> Colour:
    """A colour made darker (factor < 1) or lighter (> 1)."""
    return colour[0] * factor, colour[1] * factor, colour[2] * factor


def blend(a: Colour, b: Colour, share: float) -> Colour:
    """The colour that lies `share` of the way from a to b."""
    return (
        a[0] + (b[0] - a[0]) * share,
        a[1] + (b[1] - a[1]) * share,
        a[2] + (b[2] - a[2]) * share,
    )
