"""Calibration, ranks and corrected bits out of counts: count first, divide last. NumPy only.

Everything is in percent. Bins are of width 0.1 over confidence 0..1, the lower bound included.
"""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

BINS = 10
"""Bins of 0.1, as in the paper's Fig. 8."""


class Reliability(NamedTuple):
    """Points of a reliability diagram in percent, [...,bins]; NaN where a bin is empty."""

    confidence: NDArray[np.float64]
    accuracy: NDArray[np.float64]
    share: NDArray[np.float64]
    """Share of all decisions that fall into the bin."""


def reliability(count: ArrayLike, confidence: ArrayLike, correct: ArrayLike) -> Reliability:
    """Mean confidence, accuracy and share of each bin (Fig. 8).

    `count` [...,bins] decisions in a bin, `confidence` [...,bins] the sum of their confidences
    (0..1 each), `correct` [...,bins] how many of them are right.
    """
    counts, confidences, rights = _arrays(count, confidence, correct)
    total = counts.sum(-1, keepdims=True)
    return Reliability(
        confidence=_percent(confidences, counts),
        accuracy=_percent(rights, counts),
        share=_percent(counts, np.broadcast_to(total, counts.shape)),
    )


def ece(count: ArrayLike, confidence: ArrayLike, correct: ArrayLike) -> NDArray[np.float64]:
    """Expected calibration error in percent, [...]: mean gap of accuracy and confidence.

    The arguments are those of `reliability`; each bin weighs as many decisions as it holds, and
    NaN stands where there is none at all.
    """
    counts, confidences, rights = _arrays(count, confidence, correct)
    return _percent(np.abs(rights - confidences).sum(-1), counts.sum(-1))


def pooled_ece(table: Mapping[str, ArrayLike]) -> float:
    """ECE in percent of all rows of a `count`, `confidence`, `correct` table [rows,bins] at once.

    A bin holds the decisions of every bit (or class), as one reliability diagram shows them.
    """
    columns = {name: np.asarray(table[name], dtype=np.float64).sum(0) for name in _COLUMNS}
    return float(ece(**columns))


def rank_accuracy(ranks: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Accuracy in percent of the C-th nearest class and of the C nearest, each [N] (Fig. 7).

    `ranks` [N]: pixels whose true class is the first, second, ... nearest. NaN without a pixel.
    """
    counts = np.asarray(ranks, dtype=np.float64)
    exact = _percent(counts, np.full_like(counts, counts.sum()))
    return exact, np.cumsum(exact)


def summary(network: Mapping[str, Any]) -> dict[str, float]:
    """The scalars of one network's diagnostics, in percent; those that do not exist are left out.

    ece_bits, ece_classes and of ECOC ece_mean_bits (pooled), top1_accuracy to top3_accuracy, and,
    where the encoding corrects bits, right_corrections: the share of corrected bits that became
    right.
    """
    _, top = rank_accuracy(network["rank"])
    kinds = [kind for kind in ("bits", "classes", "mean_bits") if kind in network]
    found = {f"ece_{kind}": pooled_ece(network[kind]) for kind in kinds}
    found |= {f"top{c + 1}_accuracy": float(value) for c, value in enumerate(top[:3])}
    labels = network["labels"]
    if labels:
        found["right_corrections"] = float(
            _percent(np.array(labels["right_correction"]), np.array(labels["correction"]))
        )
    return {name: value for name, value in found.items() if not math.isnan(value)}


_COLUMNS = ("count", "confidence", "correct")


def _arrays(*values: ArrayLike) -> tuple[NDArray[np.float64], ...]:
    return tuple(np.asarray(value, dtype=np.float64) for value in values)


def _percent(part: NDArray[Any], whole: NDArray[Any]) -> NDArray[np.float64]:
    """100 * part / whole, NaN where `whole` is 0."""
    empty = np.full(np.shape(part), np.nan)
    return np.asarray(np.divide(100.0 * part, whole, out=empty, where=np.asarray(whole) > 0))
