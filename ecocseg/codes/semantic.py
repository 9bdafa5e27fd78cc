"""A code that is far apart and still puts alike classes near each other.

The text codebook (Alg. 3) takes its bits from embeddings of the class names: confusable classes
are neighbours, but some stand so near that few wrong bits confuse them (d_min_r = 8 at N = 19,
K = 40). A code of the largest d_min_r has all pairs at nearly the same distance: it is robust and
knows nothing of meaning. In between, a floor under d_min_r leaves the distances above it free to
follow the meaning.
"""

from fractions import Fraction

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import quadratic_assignment
from scipy.stats import rankdata, spearmanr

from ecocseg.codes.optimise import optimised_bits, searcher, starting_codes
from ecocseg.codes.search import Costs, distance_costs, quality, row_distances

Bits = NDArray[np.bool_]
Floats = NDArray[np.float64]

# Of the largest d_min_r. At N = 19, K = 40 (d_min_r, rank correlation with meaning): 20, 0.5;
# 18, 0.88; 17, 0.92; 16, 0.94; 14, 0.95. From there on distance buys hardly any correlation, and
# five sixths is more than random search reaches on any of the benchmarks.
FLOOR = Fraction(5, 6)
# Following the meaning never ends at cost 0: more steps keep on paying.
_PATIENCE = 4
_ASSIGNMENTS = 5


def semantic_distances(embeddings: Floats) -> Floats:
    """1 - cosine of every two class names' embeddings [N,D], as [N,N]."""
    rows = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True).clip(1e-12)
    return 1 - rows @ rows.T


def meaning_correlation(bits: Bits, embeddings: Floats) -> float:
    """Spearman's rank correlation of code distance and semantic distance over pairs of classes.

    `bits`: [N,K]; `embeddings`: [N,D]. nan where either has a single value, as in an equidistant
    code or with two classes.
    """
    pairs = np.triu_indices(len(bits), k=1)
    code, meaning = row_distances(bits)[pairs], semantic_distances(embeddings)[pairs]
    if code.min() == code.max() or meaning.min() == meaning.max():
        return float("nan")
    return float(spearmanr(code, meaning).statistic)


def text_optimised_bits(embeddings: Floats, length: int, seed: int = 0) -> Bits:
    """Code for N classes and K bits whose distances follow those of the names' embeddings [N,D].

    d_min_r is at least FLOOR times that of the `optimised` code. A random code above that floor
    has a spread of distances; its rows are assigned to classes by quadratic assignment, then
    local search moves each pair towards a distance that grows with the rank of its semantic
    distance, from the floor to as far above the mean distance as the floor is below it.
    """
    words = len(embeddings)
    meaning = semantic_distances(embeddings)
    generator = np.random.Generator(np.random.PCG64(seed))
    best = optimised_bits(words, length, seed)
    floor = max(1, int(FLOOR * quality(best).min_row_distance + Fraction(1, 2)))
    above = distance_costs(best, row_floor=floor, separation=max(1, words // 6))
    start = starting_codes(words, length, seed)[-1]
    bits, cost = searcher(words, length, generator)(start, above)
    if cost:
        # Too tight for a random start; the best code is above the floor in any case.
        bits = best
        above = distance_costs(best, row_floor=floor, separation=quality(best).separation)
    bits = _assigned(bits, meaning, generator)
    targets = _targets(meaning, length, floor)
    # Dearer than what a flip can gain, which moves a row against all others.
    hard = 50.0 * words
    costs = Costs(
        rows=(np.arange(length + 1) - targets[:, :, None]) ** 2 + hard * above.rows,
        columns=hard * above.columns,
        weights=hard * above.weights,
    )
    found, _ = searcher(words, length, generator, _PATIENCE)(bits, costs)
    reached = quality(found)
    return found if reached.valid and reached.min_row_distance >= floor else bits


def _targets(meaning: Floats, length: int, floor: int) -> Floats:
    """Whole distances to aim at, [N,N]: by the rank of the semantic distance; 0 on the diagonal.

    Their mean is K/2 N/(N-1), which is what columns with as many ones as zeros give.
    """
    words = len(meaning)
    pairs = np.triu_indices(words, k=1)
    ranks = rankdata(meaning[pairs])
    share = (ranks - 1) / max(len(ranks) - 1, 1)
    mean = length / 2 * words / (words - 1)
    targets = np.zeros((words, words))
    targets[pairs] = np.round(floor + share * 2 * max(mean - floor, 0))
    return targets + targets.T


def _assigned(bits: Bits, meaning: Floats, generator: np.random.Generator) -> Bits:
    """The same rows, each given to the class that makes code and semantic distances agree best."""
    centred = (meaning - meaning.mean()) * ~np.eye(len(bits), dtype=bool)
    code = row_distances(bits).astype(np.float64)
    # From random beginnings, where rows that are exactly alike in the middle are not.
    options = {"maximize": True, "P0": "randomized", "rng": generator}
    found = [
        quadratic_assignment(centred, code, method="faq", options=options)
        for _ in range(_ASSIGNMENTS)
    ]
    return bits[max(found, key=lambda result: result.fun).col_ind]
