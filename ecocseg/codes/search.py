"""Local search for codes: tabu search over single bits, several walks at once.

Every step looks at every bit of the codebook. Flipping bit k of row i moves that row by one from
each other row, nearer or farther as the two agree in bit k or not, and so with columns. With u and
v the changes of a pair's cost when its distance grows or shrinks by one, the change of the total
is sum_j (u_ij + v_ij)/2 + s_ik sum_j s_jk (u_ij - v_ij)/2 with signed bits s: a matrix product
gives it for all N K bits. Costs are whole numbers below 2^24, exact in float32, so that a seed
gives the same code on every machine.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Bits = NDArray[np.bool_]
Floats = NDArray[np.float32]

# Dearer than any sum of the costs that it must outweigh.
HARD = 2000.0

_SHORTEST_TABU = 3


@dataclass(frozen=True, order=True)
class Quality:
    """How good a code is; the larger is better, field by field."""

    min_row_distance: int
    separation: int
    pairs_at_minimum: int
    """Minus their number."""

    @property
    def valid(self) -> bool:
        """Whether rows are distinct and no two columns equal or opposite."""
        return self.min_row_distance > 0 and self.separation > 0


def row_distances(bits: Bits) -> Floats:
    """Hamming distance of every two rows of bits [N,K], [N,N]; whole numbers."""
    signed = bits.astype(np.float32) * 2 - 1
    return (bits.shape[1] - signed @ signed.T) / 2


def quality(bits: Bits) -> Quality:
    """Distances of a code, [N,K]; the separation is N when there is one column only."""
    words, length = bits.shape
    rows = row_distances(bits)[np.triu_indices(words, k=1)]
    columns = row_distances(bits.T)[np.triu_indices(length, k=1)]
    apart = min(columns.min(), words - columns.max()) if length > 1 else words
    return Quality(int(rows.min()), int(apart), -int((rows == rows.min()).sum()))


@dataclass(frozen=True, kw_only=True)
class Costs:
    """What a code is charged for: whole numbers by distance.

    `rows`: cost of two rows at distance 0..K, [K+1], or [N,N,K+1] for each pair of classes;
    `columns`: of two columns at distance 0..N, [N+1]; `weights`: of a column with 0..N ones.
    """

    rows: NDArray[np.float64]
    columns: NDArray[np.float64]
    weights: NDArray[np.float64]


def distance_costs(
    bits: Bits, *, row_floor: int, separation: int, spare_minimum: bool = False
) -> Costs:
    """Costs that are 0 just when d_min_r >= `row_floor` and min(d_min_c, N - d_max_c) is enough.

    `bits`: [N,K], for its shape. `separation`: of the columns; 1 demands no more than validity.
    No column may be constant. `spare_minimum`: rows at `row_floor` cost 1 a pair and everything
    else at least HARD times as much: fewest pairs at the minimum.
    """
    words, length = bits.shape
    unit = HARD if spare_minimum else 1.0
    distances, agreements = np.arange(length + 1), np.arange(words + 1)
    apart = np.minimum(agreements, words - agreements)
    rows = unit * np.maximum(0, row_floor - distances) ** 2.0
    if spare_minimum:
        rows[row_floor] = 1.0
    return Costs(
        rows=rows,
        columns=unit * np.maximum(0, separation - apart) ** 2.0,
        weights=unit * 4.0 * (apart == 0),
    )


def search_bits(
    start: Bits, costs: Costs, *, steps: int, walks: int, generator: np.random.Generator
) -> tuple[Bits, float]:
    """The cheapest code, bool [N,K], that tabu search meets, and its cost.

    `start`: [N,K], where each of the `walks` begins, or [W,N,K] for as many beginnings; stops
    after `steps` steps of all walks, or at cost 0. Two walks from one start part ways because
    equally good steps are chosen between by lot.
    """
    walk = _Walks(np.broadcast_to(start, (walks, *start.shape[-2:])), costs)
    best, lowest = walk.bits(), walk.total.copy()
    size = walk.words * walk.length
    allowed = np.zeros((walks, size), dtype=np.int64)
    every = np.arange(walks)
    for step in range(steps):
        if not lowest.all():
            break
        change = walk.changes().reshape(walks, size)
        aspired = walk.total[:, None] + change < lowest[:, None]
        chance = generator.random((walks, size), dtype=np.float32)
        score = np.where((allowed <= step) | aspired, change + 0.5 * chance, np.inf)
        chosen = score.argmin(axis=1)
        walk.flip(chosen, change[every, chosen])
        tenure = generator.integers(_SHORTEST_TABU, _SHORTEST_TABU + 2 + size // 20, walks)
        allowed[every, chosen] = step + 1 + np.minimum(tenure, size // 2)
        better = walk.total < lowest
        if better.any():
            lowest[better] = walk.total[better]
            best[better] = walk.bits()[better]
    first = int(lowest.argmin())
    return best[first], float(lowest[first])


def total_costs(bits: Bits, costs: Costs) -> Floats:
    """What each of several codes [W,N,K] costs, [W]."""
    return _Walks(bits, costs).total


class _Walks:
    """W codes on their way, with their distances, [W,N,N] and [W,K,K], kept up to date."""

    def __init__(self, bits: Bits, costs: Costs) -> None:
        self.walks, self.words, self.length = bits.shape
        self.signed = bits.astype(np.float32) * 2 - 1
        turned = self.signed.transpose(0, 2, 1)
        self._row_costs, self._column_costs = _Pairs(costs.rows), _Pairs(costs.columns)
        self.rows = ((self.length - self.signed @ turned) / 2).astype(np.intp)
        self.columns = ((self.words - turned @ self.signed) / 2).astype(np.intp)
        self.weights = np.count_nonzero(bits, axis=1)
        self.total = (
            self._row_costs.total(self.rows)
            + self._column_costs.total(self.columns)
            + costs.weights[self.weights].sum(axis=1).astype(np.float32)
        )
        padded = np.concatenate([costs.weights[:1], costs.weights, costs.weights[-1:]])
        self._weight_changes = np.stack([padded[2:] - padded[1:-1], padded[:-2] - padded[1:-1]])

    def bits(self) -> Bits:
        """[W,N,K]."""
        return self.signed > 0

    def changes(self) -> Floats:
        """Change of the total cost by each bit's flip, [W,N,K]."""
        row_mean, row_slope = self._row_costs.slopes(self.rows)
        column_mean, column_slope = self._column_costs.slopes(self.columns)
        change = row_slope @ self.signed
        change += self.signed @ column_slope
        change *= self.signed
        change += row_mean[:, :, None]
        change += column_mean[:, None, :]
        grows, shrinks = self._weight_changes.astype(np.float32)[:, self.weights]
        change += np.where(self.signed > 0, shrinks[:, None], grows[:, None])
        return change

    def flip(self, chosen: NDArray[np.intp], change: Floats) -> None:
        """Flip one bit of each walk, given as i K + k, [W], at these changes of the cost, [W]."""
        every = np.arange(self.walks)
        i, k = np.divmod(chosen, self.length)
        # +1 where a distance grows: where the two agree in the bit; the pair with itself stays.
        row = self.signed[every, :, k] * self.signed[every, i, k][:, None]
        column = self.signed[every, i, :] * self.signed[every, i, k][:, None]
        row[every, i] = 0
        column[every, k] = 0
        self.rows[every, i] += row.astype(np.intp)
        self.rows[every, :, i] = self.rows[every, i]
        self.columns[every, k] += column.astype(np.intp)
        self.columns[every, :, k] = self.columns[every, k]
        self.signed[every, i, k] *= -1
        self.weights[every, k] += self.signed[every, i, k].astype(np.intp)
        self.total += change


class _Pairs:
    """Costs of pairs by distance, [D] or [N,N,D], and by how much a step of one changes them."""

    def __init__(self, costs: NDArray[np.float64]) -> None:
        self._costs = costs
        padded = np.concatenate([costs[..., :1], costs, costs[..., -1:]], axis=-1)
        grows, shrinks = padded[..., 2:] - costs, padded[..., :-2] - costs
        tables = np.stack([(grows + shrinks) / 2, (grows - shrinks) / 2]).astype(np.float32)
        # One flat table per kind: taking from it is the fastest look-up that numpy has.
        self._tables = tables.reshape(2, -1)
        self._offset = (
            np.arange(costs.size // costs.shape[-1]).reshape(costs.shape[:-1]) * costs.shape[-1]
            if costs.ndim == 3
            else np.intp(0)
        )

    def total(self, distances: NDArray[np.intp]) -> Floats:
        """Cost of all pairs, [W]; distances [W,M,M]."""
        every = self._costs.reshape(-1)[distances + self._offset]
        here = np.arange(distances.shape[-1])
        every[:, here, here] = 0
        return (every.sum(axis=(1, 2)) / 2).astype(np.float32)

    def slopes(self, distances: NDArray[np.intp]) -> tuple[Floats, Floats]:
        """Sum over partners of (u + v)/2, [W,M], and (u - v)/2 of each pair, [W,M,M]."""
        index = distances + self._offset
        mean, slope = self._tables[0].take(index), self._tables[1].take(index)
        here = np.arange(distances.shape[-1])
        mean[:, here, here] = 0
        slope[:, here, here] = 0
        return mean.sum(axis=2), slope
