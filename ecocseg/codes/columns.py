"""Local search for codes out of given columns: which K of C columns make the best codebook.

Where the columns that there are at all can be listed, choosing among them beats flipping bits: a
codebook that uses a good part of them leaves a flip nowhere to go. It serves few classes, where
all columns are listed, and linear codes, whose columns are the points of a projective space.
"""

import numpy as np
from numpy.typing import NDArray

Bits = NDArray[np.bool_]

_SHORTEST_TABU = 2


def all_columns(num_classes: int) -> Bits:
    """Every column but the constant one, up to complement, bool [2^(N-1)-1,N]; the first bit 0."""
    numbers = np.arange(1, 2 ** (num_classes - 1))
    return (numbers[:, None] >> np.arange(num_classes)[::-1] & 1).astype(bool)


def pairs_separated(columns: Bits) -> Bits:
    """Whether a column tells a pair of classes apart, [C,N(N-1)/2]; columns [C,N]."""
    first, second = np.triu_indices(columns.shape[1], k=1)
    return columns[:, first] != columns[:, second]


def choose_columns(
    separated: Bits,
    count_costs: NDArray[np.float64],
    pair_costs: NDArray[np.float64],
    start: NDArray[np.intp],
    *,
    steps: int,
    generator: np.random.Generator,
) -> tuple[NDArray[np.intp], float]:
    """The cheapest choice of columns that tabu search meets, [K], and its cost.

    `separated`: [C,P], whether a column counts for a pair; `count_costs`: cost of a pair for
    which 0..K columns count, [K+1], or [P,K+1] for each pair; `pair_costs`: of two columns chosen,
    [C,C], zero on the diagonal; whole numbers, so that a seed gives the same code everywhere.
    Each step exchanges one column, after a look at all exchanges.
    """
    share = separated.astype(np.float32)
    together = pair_costs.astype(np.float32)
    chosen = np.zeros(len(share), dtype=bool)
    chosen[start] = True
    costs = np.broadcast_to(count_costs, (share.shape[1], count_costs.shape[-1]))
    padded = np.concatenate([costs[:, :1], costs, costs[:, -1:]], axis=1)
    grows = (padded[:, 2:] - costs).astype(np.float32)
    shrinks = (padded[:, :-2] - costs).astype(np.float32)
    counts = share[chosen].sum(axis=0).astype(np.intp)
    every = np.arange(len(counts))
    load = together[chosen].sum(axis=0)
    total = float(costs[every, counts].sum() + load[chosen].sum() / 2)
    best, lowest = np.flatnonzero(chosen), total
    allowed = np.zeros(len(share), dtype=np.int64)
    if len(best) == len(share):
        return best, lowest
    for step in range(steps):
        if lowest == 0:
            break
        out, into = np.flatnonzero(chosen), np.flatnonzero(~chosen)
        more, fewer = grows[every, counts], shrinks[every, counts]
        # A pair for which both columns count neither gains nor loses by the exchange.
        change = -(share[out] * (more + fewer)) @ share[into].T
        change += (share[out] @ fewer - load[out])[:, None]
        change += share[into] @ more + load[into]
        change -= together[np.ix_(out, into)]
        barred = np.maximum(allowed[out][:, None], allowed[into]) > step
        score = change + 0.5 * generator.random(change.shape, dtype=np.float32)
        score[barred & (total + change >= lowest)] = np.inf
        place = np.unravel_index(score.argmin(), score.shape)
        leaving, coming = out[place[0]], into[place[1]]
        total += float(change[place])
        counts += separated[coming].astype(np.intp) - separated[leaving]
        load += together[coming] - together[leaving]
        chosen[leaving], chosen[coming] = False, True
        tenure = generator.integers(_SHORTEST_TABU, _SHORTEST_TABU + 2 + len(share) // 20)
        allowed[[leaving, coming]] = step + 1 + min(int(tenure), len(out) // 2, len(into) // 2)
        if total < lowest:
            best, lowest = np.flatnonzero(chosen), total
    return best, lowest
