"""Codebooks beyond the paper's random search: Hadamard codes and local search (Theorem 4.2).

What counts, in this order: the smallest row distance d_min_r, the separation of the columns
min(d_min_c, N - d_max_c), and few pairs of rows at d_min_r. The random choices depend on the seed
alone, and work is counted in steps, not seconds: the same seed gives the same code everywhere.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from ecocseg.codes.bounds import row_distance_bound, separation_bound
from ecocseg.codes.build import MOST_LISTED
from ecocseg.codes.columns import all_columns, choose_columns, pairs_separated
from ecocseg.codes.hadamard import constructed_bits
from ecocseg.codes.search import Costs, distance_costs, quality, search_bits

Bits = NDArray[np.bool_]
Attempt = Callable[[Bits, Costs], tuple[Bits, float]]

# Bits and pairs that the steps of a search may look at: about a quarter of a second on one core.
_WORK = 6_000_000
# Small codes need no more steps than this.
_STEPS = 1500
# Beyond it the columns' distances, K by K, are too large a table for a search.
_LONGEST = 512


def hadamard_bits(num_classes: int, length: int, seed: int = 0) -> Bits:
    """Best code from Hadamard matrices for N classes and K bits; of the search where none fits.

    Of the constructions that reach the largest d_min_r, rows and columns are chosen for the best
    separation of columns. "Fits": a construction with valid columns exists.
    """
    found = constructed_bits(num_classes, length, seed)
    return optimised_bits(num_classes, length, seed) if found is None else found


def optimised_bits(num_classes: int, length: int, seed: int = 0) -> Bits:
    """Best code for N classes and K bits out of constructions and local search from them."""
    generator = np.random.Generator(np.random.PCG64(seed))
    starts = starting_codes(num_classes, length, seed)
    attempt = searcher(num_classes, length, generator)
    bound = row_distance_bound(num_classes, length, valid=True)
    far = max(starts, key=quality)
    for start in starts:
        if quality(far).min_row_distance < bound:
            far = max(far, _farther(start, attempt, bound), key=quality)
    distance = quality(far).min_row_distance
    near = [bits for bits in (far, *starts) if quality(bits).min_row_distance == distance]
    return max((_refined(bits, attempt) for bits in near), key=quality)


def exhaustive_bits(num_classes: int, length: int) -> Bits:
    """Exhaustive code (Dietterich & Bakiri 1995): all C = 2^(N-1) - 1 columns, of up to 10 classes.

    Any two rows then differ in 2^(N-2) bits. `length` above C repeats the columns in turn: each
    further round votes once more on the same questions, with weights of its own in the head. Below
    C it is `optimised_bits`, whose search looks at exactly these columns.
    """
    columns = all_columns(num_classes)
    if length < len(columns):
        return optimised_bits(num_classes, length)
    return columns[np.arange(length) % len(columns)].T


def starting_codes(num_classes: int, length: int, seed: int = 0) -> list[Bits]:
    """Codes [N,K] to search from: random columns last, before it constructions that fit.

    One of them is valid whenever a valid code exists.
    """
    generator = np.random.Generator(np.random.PCG64(seed))
    constructions = [constructed_bits(num_classes, length, seed)]
    if num_classes > MOST_LISTED:
        constructions.append(_linear(num_classes, length, generator))
    return [
        # Without a constant column, which carries nothing.
        *(bits for bits in constructions if bits is not None and not _constant(bits)),
        _random(num_classes, length, generator),
    ]


def _constant(bits: Bits) -> bool:
    return bool((bits.all(axis=0) | ~bits.any(axis=0)).any())


def searcher(
    num_classes: int, length: int, generator: np.random.Generator, patience: int = 1
) -> Attempt:
    """The local search that suits N classes and K bits: from a code and costs to code and cost.

    `patience`: how many times as many steps it takes before it gives up.
    """
    if num_classes <= MOST_LISTED:
        return _listed_searcher(num_classes, length, generator)
    walks = max(1, min(8, 8000 // (num_classes * length)))
    looked_at = num_classes * length + (num_classes**2 + length**2) // 4
    steps = patience * min(_STEPS, _WORK // (walks * looked_at)) if length <= _LONGEST else 0

    def attempt(start: Bits, costs: Costs) -> tuple[Bits, float]:
        return search_bits(start, costs, steps=steps, walks=walks, generator=generator)

    return attempt


def _listed_searcher(words: int, length: int, generator: np.random.Generator) -> Attempt:
    columns = all_columns(words)
    separated = pairs_separated(columns)
    signed = columns.astype(np.int64) * 2 - 1
    distances = (words - signed @ signed.T) // 2
    place = {column.tobytes(): index for index, column in enumerate(columns)}
    looked_at = 20 * len(columns) * max(separated.shape[1], length)
    steps = min(_STEPS, max(200, _WORK // looked_at))
    first, second = np.triu_indices(words, k=1)

    def attempt(start: Bits, costs: Costs) -> tuple[Bits, float]:
        if length > len(columns):
            return start, 0.0 if (costs.rows == 0).all() else 1.0
        pairs = costs.columns[distances]
        np.fill_diagonal(pairs, 0)
        rows = costs.rows if costs.rows.ndim == 1 else costs.rows[first, second]
        chosen = np.array([place[(column ^ column[0]).tobytes()] for column in start.T])
        chosen, cost = choose_columns(
            separated, rows, pairs, chosen, steps=steps, generator=generator
        )
        return columns[chosen].T, cost

    return attempt


def _farther(bits: Bits, attempt: Attempt, bound: int) -> Bits:
    """A code with a larger d_min_r, as large as the attempts get it."""
    while (distance := quality(bits).min_row_distance) < bound:
        found, cost = attempt(bits, distance_costs(bits, row_floor=distance + 1, separation=1))
        if cost:
            break
        bits = found
    return bits


def _refined(bits: Bits, attempt: Attempt) -> Bits:
    """A code of the same d_min_r with better separated columns, then with fewer nearest pairs."""
    distance, bound = quality(bits).min_row_distance, separation_bound(*bits.shape)
    while (separation := quality(bits).separation) < bound:
        costs = distance_costs(bits, row_floor=distance, separation=separation + 1)
        found, cost = attempt(bits, costs)
        if cost:
            break
        bits = found
    costs = distance_costs(
        bits, row_floor=distance, separation=min(separation, bits.shape[0] // 2), spare_minimum=True
    )
    return max(bits, attempt(bits, costs)[0], key=quality)


def _linear(words: int, length: int, generator: np.random.Generator) -> Bits | None:
    """N words of the linear code of K distinct columns, or None when these are too few.

    Columns are points of GF(2)^k, k = ceil(log2 N), unit vectors among them at first, chosen so
    that the smallest weight is largest. Any two columns differ on half of the 2^k words, so that
    no more than half of all words can agree in them: more words make the columns valid.
    """
    dimension = (words - 1).bit_length()
    messages = np.arange(1, 2**dimension)
    if length > len(messages):
        return None
    units = 2 ** np.arange(dimension) - 1
    others = generator.permutation(np.setdiff1d(np.arange(len(messages)), units))
    points = np.concatenate([units, others[: length - dimension]])
    if dimension <= 8:
        odd = np.bitwise_count(messages[:, None] & messages) % 2 == 1
        distance = 1
        none = np.zeros((len(messages), len(messages)))
        while True:
            costs = np.maximum(0, distance + 1 - np.arange(length + 1)) ** 2.0
            found, cost = choose_columns(odd, costs, none, points, steps=150, generator=generator)
            if cost:
                break
            points, distance = found, distance + 1
    chosen = np.sort(generator.permutation(2**dimension)[:words])
    return np.bitwise_count(chosen[:, None] & messages[points]) % 2 == 1


def _random(words: int, length: int, generator: np.random.Generator) -> Bits:
    """Columns that differ up to complement, [N,K]; rows may be equal when K is small.

    None is constant, except where all other columns are too few.
    """
    if words <= 16:
        columns = all_columns(words)
        if length > len(columns):
            columns = np.concatenate([columns, np.zeros((1, words), dtype=bool)])
        return columns[generator.permutation(len(columns))[:length]].T
    drawn: dict[bytes, Bits] = {}
    while len(drawn) < length:
        for column in generator.random((length, words)) < 0.5:
            key = column ^ column[0]
            if key.any() and len(drawn) < length:
                drawn.setdefault(key.tobytes(), column)
    return np.array(list(drawn.values())).T
