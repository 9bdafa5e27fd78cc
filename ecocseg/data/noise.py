"""Wrong training labels on purpose: how much label noise does an encoding survive?

A run with label noise reads its labelled stream's labels through `LabelNoise.applied`; evaluation,
the manifest's class counts (and rare class sampling, which goes by them) are of the true labels.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ecocseg.config import require
from ecocseg.data.classes import most_confusable
from ecocseg.engine.seed import derive
from ecocseg.types import IGNORE


@dataclass(frozen=True, kw_only=True)
class LabelNoise:
    """Which labels of a training stream are wrong: a function of `seed` and the image's key.

    An image has the same wrong labels in every pass, process and run, whatever the run's seed is.
    Ignored pixels (255) stay ignored.
    """

    rate: float
    """Share of the labelled pixels that are wrong, at least 0 and below 1."""
    kind: Literal["uniform", "confusable"] = "uniform"
    """A wrong label is any of the other N - 1 classes alike, or the class that is most easily taken
    for the true one (`ecocseg.data.classes.most_confusable`)."""
    unit: Literal["segment", "pixel"] = "segment"
    """What is wrong as a whole: a segment, which is a set of pixels of one class connected by their
    edges, or each pixel by itself."""
    seed: int = 0

    def __post_init__(self) -> None:
        require(0 <= self.rate < 1, "rate", self.rate, "0 or more and below 1")

    def applied(
        self, label: NDArray[np.uint8], key: str, names: Sequence[str]
    ) -> NDArray[np.uint8]:
        """The label [H,W] of the image `key` as training reads it, a new array.

        `names` are those of the N classes. Every pixel, and so every class, is wrong with
        probability `rate`. Segments are decided about from the largest to the smallest, and the
        smaller ones make up for the larger ones (see `_chosen`).
        """
        random = np.random.default_rng(derive(self.seed, "label noise", key))
        places = label != IGNORE
        if self.unit == "segment":
            segments, classes, sizes = _segments(label)
            wrong = _chosen(sizes, self.rate, random)
        else:
            classes = label[places].astype(np.intp)
            wrong = random.random(classes.size) < self.rate
        # Drawn for all of them: what a wrong label becomes does not depend on the rate.
        shift = random.integers(1, len(names), classes.size)
        if self.kind == "confusable":
            others = np.array(most_confusable(names))[classes]
        else:
            others = (classes + shift) % len(names)
        given = np.where(wrong, others, classes).astype(np.uint8)
        noisy = label.copy()
        noisy[places] = given[segments[places]] if self.unit == "segment" else given
        return noisy


def _segments(
    label: NDArray[np.uint8],
) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.intp]]:
    """Number of each pixel's segment [H,W], and class and pixels of each segment."""
    from scipy import ndimage

    numbers = np.zeros(label.shape, dtype=np.intp)
    classes: list[int] = []
    boxes = ndimage.find_objects(label.astype(np.int32) + 1, IGNORE)
    for train, box in enumerate(boxes):
        if box is None:
            continue
        found, count = ndimage.label(label[box] == train)
        numbers[box][found > 0] = found[found > 0] - 1 + len(classes)
        classes += [train] * count
    sizes = np.bincount(numbers[label != IGNORE], minlength=len(classes))
    return numbers, np.array(classes, dtype=np.intp), sizes


def _chosen(sizes: NDArray[np.intp], rate: float, random: np.random.Generator) -> NDArray[np.bool_]:
    """Which segments are wrong: each with probability `rate`, together about `rate` of the pixels.

    Filling a quota of pixels alone would not do: at 10 % a road that covers a third of the image
    were never wrong, and the small classes nearly always. So the segments are drawn from the
    largest on, all later ones with one probability q that begins at `rate`. One that is chosen
    lowers q for the rest, and one that is not raises it, by as much as keeps the expected share of
    wrong pixels and leaves q between 0 and 1; both in the ratio (1 - q) : q, so that every segment
    is wrong with probability `rate` exactly.
    """
    chosen = np.zeros(len(sizes), dtype=np.bool_)
    rest, q = int(sizes.sum()), rate
    for place, drawn in zip(
        np.argsort(-sizes, kind="stable"), random.random(len(sizes)), strict=True
    ):
        chosen[place] = drawn < q
        rest -= int(sizes[place])
        if rest and 0 < q < 1:
            step = min(sizes[place] / rest, q / (1 - q), (1 - q) / q)
            q += -(1 - q) * step if chosen[place] else q * step
    return chosen
