"""Which images a step sees, as a pure function of the step."""

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from ecocseg.config import require
from ecocseg.data.manifest import Row
from ecocseg.engine.seed import generator

log = logging.getLogger(__name__)


class EpochSampler:
    """Reshuffled passes over `length` items, cut into batches that hold no item twice.

    A pass ends with its last full batch, as with the public code's loaders (drop_last): what is
    left over is not read, and is other items in the next pass. Where a batch takes more than all
    items, passes follow each other without a gap instead, so that it repeats whole passes.
    The order of a pass depends on the seed and its number only, so `indices(step)` needs no
    history: that is the whole sampler state of a checkpoint.
    """

    def __init__(self, length: int, batch_size: int, seed: int) -> None:
        require(length > 0, "length", length, "1 or more images")
        require(batch_size > 0, "batch_size", batch_size, "1 or more")
        self.length, self.batch_size, self.seed = length, batch_size, seed
        self._used = length - length % batch_size if length >= batch_size else length
        self._pass_number = -1
        self._order: list[int] = []

    def indices(self, step: int) -> list[int]:
        """Indices of the batch of 0-based `step`."""
        start = step * self.batch_size
        return [self._item(position) for position in range(start, start + self.batch_size)]

    def _item(self, position: int) -> int:
        number, place = divmod(position, self._used)
        if number != self._pass_number:
            order = torch.randperm(self.length, generator=generator(self.seed, "pass", number))
            self._order, self._pass_number = order.tolist(), number
        return self._order[place]


@dataclass(frozen=True, kw_only=True)
class RareClasses:
    """Rare class sampling (Hoyer et al., CVPR 2022, Sec. 3.2): images by the classes they hold."""

    temperature: float = 0.01
    """T of P(c) = softmax((1 - f_c) / T), f_c the class' share of the labelled pixels."""
    min_pixels: int = 3000
    """Pixels of the class that an image must have more of, at its original size."""
    min_crop_ratio: float = 0.5
    """The crop must have more than this share of `min_pixels`, at the size it is trained on; at 0
    the first crop is taken."""
    tries: int = 10
    """How often a crop with too few is drawn again; the last one is taken."""

    def __post_init__(self) -> None:
        require(0 < self.temperature < math.inf, "temperature", self.temperature, "above 0")
        ratio = self.min_crop_ratio
        require(0 <= ratio < math.inf, "min_crop_ratio", ratio, "0 or more")
        require(self.min_pixels >= 0, "min_pixels", self.min_pixels, "0 or more")
        require(self.tries >= 0, "tries", self.tries, "0 or more")

    @property
    def crop_pixels(self) -> float:
        """Pixels of the class that a crop must have more of."""
        return self.min_pixels * self.min_crop_ratio


class RareClassSampler:
    """Batches of (class, image): a class by P(c), then uniformly an image with enough of it.

    Classes that occur nowhere have no part in P. One that occurs but has no image with more than
    `min_pixels` is left out, and the others' probabilities are scaled up: a warning names it.
    What is drawn depends on the seed and the step only.
    """

    def __init__(
        self,
        rows: Sequence[Row],
        batch_size: int,
        seed: int,
        config: RareClasses,
        names: Sequence[str] = (),
    ) -> None:
        """Raises ConfigError when no class is left; `names` of the classes are for messages."""
        require(len(rows) > 0, "length", len(rows), "1 or more images")
        require(batch_size > 0, "batch_size", batch_size, "1 or more")
        self.batch_size, self.seed = batch_size, seed
        # Counts [R,N] of R images, as if the labels had not been resized.
        counts = np.array([row.pixels for row in rows], dtype=np.float64)
        counts *= np.array([[_raw_pixels(row)] for row in rows])
        totals = counts.sum(0)
        require(
            bool(totals.any()), "benchmark.labelled.dataset", "no labelled pixel", "images with one"
        )
        found = counts > config.min_pixels
        images = [np.flatnonzero(column) for column in found.T]
        usable = np.array([len(part) > 0 for part in images])
        largest = counts.max(0)
        poor = [int(c) for c in np.flatnonzero(totals) if not usable[c]]
        named = [f"{names[c] if names else c} ({largest[c]:,.0f})" for c in poor]
        require(
            bool(usable.any()),
            "method.rare_class_min_pixels",
            config.min_pixels,
            f"below {largest.max():,.0f}: no image has more pixels of any class. Largest count of "
            f"each class: {', '.join(named)}",
        )
        if poor:
            log.warning(
                "rare class sampling draws no image for %s: none has more than %d pixels of it "
                "(largest count in brackets; method.rare_class_min_pixels)",
                ", ".join(named),
                config.min_pixels,
            )
        self.classes: NDArray[np.int64] = np.flatnonzero(usable)
        """Train ids that are drawn."""
        logits = (1 - totals / totals.sum())[self.classes] / config.temperature
        weights = np.exp(logits - logits.max())
        self.probabilities: NDArray[np.float64] = weights / weights.sum()
        """P(c) of each of `classes`."""
        self._images = [images[c].astype(np.int32) for c in self.classes]
        self._bounds = np.cumsum(self.probabilities)[:-1]

    def draws(self, step: int) -> list[tuple[int, int]]:
        """Class and index of the image for each place in the batch of 0-based `step`."""
        random = generator(self.seed, "rare", step)
        return [self._draw(random) for _ in range(self.batch_size)]

    def _draw(self, random: torch.Generator) -> tuple[int, int]:
        share = float(torch.rand((), generator=random, dtype=torch.float64))
        place = int(np.searchsorted(self._bounds, share, side="right"))
        images = self._images[place]
        image = images[int(torch.randint(len(images), (), generator=random))]
        return int(self.classes[place]), int(image)


def _raw_pixels(row: Row) -> float:
    """How many original pixels a stored one stands for."""
    (high, wide), (height, width) = row.raw_size, row.label_size
    return high * wide / (height * width)
