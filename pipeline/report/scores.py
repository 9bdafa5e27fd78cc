"""Scores from confusion matrices, and their statistics over seeds. NumPy only: no torch here."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ecocseg.errors import ConfigError, DataError

SELECTIONS = {
    "last.student": "last checkpoint, student",
    "last.teacher": "last checkpoint, EMA teacher",
    "best.student": "checkpoint with the student's best validation score, student",
    "best.teacher": "checkpoint with the student's best validation score, EMA teacher",
}


@dataclass(frozen=True, kw_only=True)
class Statistic:
    """A mean over seeds in percent (a difference: in points; a cost: in the column's unit).

    `std` is the sample standard deviation (None when n is 1); `low`, `high` bound the 95 %
    interval where one was asked for and n allows it.
    """

    mean: float
    std: float | None
    n: int
    low: float | None = None
    high: float | None = None


def mean_over(
    scores: NDArray[np.float64], classes: Sequence[str], subset: Sequence[str] | None
) -> float:
    """Mean of `scores` [N] over the present classes of `subset` (None: all); NaN when none is.

    Raises ConfigError when `subset` names a class that `classes` does not have.
    """
    unknown = [name for name in subset or () if name not in classes]
    if unknown:
        raise ConfigError(f"means: got class {unknown[0]!r}, allowed {', '.join(classes)}")
    chosen = scores if subset is None else scores[[list(classes).index(name) for name in subset]]
    present = chosen[~np.isnan(chosen)]
    return float(present.mean()) if present.size else math.nan


def chosen_confusion(record: Mapping[str, Any], selection: str) -> NDArray[np.int64]:
    """Confusion matrix [N,N] of the checkpoint and network that `selection` names.

    A run that is scored per folder has one for each of V folders: [V,N,N].

    Raises ConfigError for an unknown selection, DataError for a record without that network.
    """
    if selection not in SELECTIONS:
        raise ConfigError(f"selection: got {selection!r}, allowed {', '.join(SELECTIONS)}")
    checkpoint, network = selection.split(".")
    result = record["results"][checkpoint][network]
    if result is None:
        raise DataError(
            f"run {record['run_id']} ({record['cell']}, seed {record['seed']}) keeps no {network}, "
            f"so selection {selection!r} has nothing to score; use {checkpoint}.student"
        )
    return np.asarray(result["confusion"], dtype=np.int64)


def statistic(values: Sequence[float]) -> Statistic | None:
    """Mean, sample standard deviation and n of the values that are there (not NaN)."""
    there = [value for value in values if not math.isnan(value)]
    if not there:
        return None
    std = float(np.std(there, ddof=1)) if len(there) > 1 else None
    return Statistic(mean=float(np.mean(there)), std=std, n=len(there))


def paired_difference(ours: Mapping[int, float], base: Mapping[int, float]) -> Statistic | None:
    """Mean of ours - base over the seeds that both have, with its paired 95 % t interval (n > 1).

    Pairing by seed takes out what a seed does to both; None without a common seed.
    """
    seeds = sorted(ours.keys() & base.keys())
    result = statistic([ours[seed] - base[seed] for seed in seeds])
    if result is None or result.std is None:
        return result
    from scipy.special import stdtrit

    half = float(stdtrit(result.n - 1, 0.975)) * result.std / math.sqrt(result.n)
    return Statistic(
        mean=result.mean,
        std=result.std,
        n=result.n,
        low=result.mean - half,
        high=result.mean + half,
    )


def paired_ratio(ours: Mapping[int, float], base: Mapping[int, float]) -> Statistic | None:
    """Mean of ours / base over the seeds that both have, where base is not 0."""
    seeds = sorted(ours.keys() & base.keys())
    return statistic([ours[seed] / base[seed] for seed in seeds if base[seed]])


def ranks(values: Sequence[float | None]) -> list[int]:
    """1 for the largest value, 2 for the next, 0 for all others and for None; equals share a rank.

    On unrounded values. All 0 when fewer than two different values are there: no contest.
    """
    there = sorted({value for value in values if value is not None}, reverse=True)
    if len(there) < 2:
        return [0] * len(values)
    place = {value: i + 1 for i, value in enumerate(there[:2])}
    return [0 if value is None else place.get(value, 0) for value in values]
