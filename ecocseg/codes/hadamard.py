"""Codes from Hadamard matrices: orthogonal rows of +1 and -1 differ in exactly half of their bits.

Sources: MacWilliams and Sloane, The Theory of Error-Correcting Codes (1977), chapter 2 section 3:
Sylvester's and Paley's matrices, the codes that they give, and Levenshtein's juxtaposition, which
reaches Plotkin's bound.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from math import isqrt

import numpy as np
from numpy.typing import NDArray

from ecocseg.codes.bounds import separation_bound
from ecocseg.codes.search import distance_costs, quality, total_costs

Signs = NDArray[np.int8]
Bits = NDArray[np.bool_]

# Rearrangements looked at in one go, and how many times; about half a second on one core.
_PROPOSALS = 16
_WORK = 400_000


@lru_cache(maxsize=64)
def hadamard_matrix(order: int) -> Signs | None:
    """A matrix of +1 and -1, [n,n], with orthogonal rows, first row and column +1, or None.

    Orders: 1, 2, q + 1 (Paley I: q = 3 mod 4) and 2q + 2 (Paley II: q = 1 mod 4) for q a prime or
    a prime's square, and products of these: all up to 88 that can be.
    """
    found = _make(order)
    if found is not None:
        found = found * found[:1]
        found = found * found[:, :1]
        found.flags.writeable = False
    return found


def _make(order: int) -> Signs | None:
    if order in (1, 2):
        return np.array([[1, 1], [1, -1]], dtype=np.int8)[:order, :order]
    if order < 1 or order % 4:
        return None
    if order % 8 == 0 and (half := hadamard_matrix(order // 2)) is not None:
        return np.kron(np.array([[1, 1], [1, -1]], dtype=np.int8), half)
    if (order - 1) % 4 == 3 and (residues := _residues(order - 1)) is not None:
        skew = np.zeros((order, order), dtype=np.int8)
        skew[0, 1:], skew[1:, 0], skew[1:, 1:] = 1, -1, residues
        return skew + np.eye(order, dtype=np.int8)
    if (order // 2 - 1) % 4 == 1 and (residues := _residues(order // 2 - 1)) is not None:
        border = np.ones((order // 2, order // 2), dtype=np.int8)
        border[0, 0], border[1:, 1:] = 0, residues
        on, off = np.array([[1, 1], [1, -1]]), np.array([[1, -1], [-1, -1]])
        return (np.kron(border, on) + np.kron(np.eye(order // 2), off)).astype(np.int8)
    return None


def _residues(size: int) -> Signs | None:
    """[q,q] of whether a - b is a square (1), none (-1) or zero (0) in the field of q elements.

    None when q is neither an odd prime nor the square of one.
    """
    root = isqrt(size)
    prime = root if root * root == size else size
    if prime < 3 or any(prime % factor == 0 for factor in range(2, isqrt(prime) + 1)):
        return None
    sign = np.full(prime, -1, dtype=np.int8)
    sign[np.arange(1, prime) ** 2 % prime] = 1
    sign[0] = 0
    if prime == size:
        elements = np.arange(prime)
        return sign[(elements[:, None] - elements) % prime]
    # a + b sqrt(r), r no square: its norm a^2 - r b^2 is a square just when the element is one.
    real, imaginary = np.divmod(np.arange(size), prime)
    not_square = int(np.flatnonzero(sign == -1)[0])
    across, along = real[:, None] - real, imaginary[:, None] - imaginary
    return sign[(across**2 - not_square * along**2) % prime]


@dataclass(frozen=True)
class Part:
    """A code of `table` words, bool [M,L], any two of which differ in `distance` bits or more."""

    table: Bits
    distance: int

    @property
    def length(self) -> int:
        """L."""
        return self.table.shape[1]


@lru_cache(maxsize=256)
def parts(words: int, longest: int) -> tuple[Part, ...]:
    """Codes of at least N = `words` words and at most `longest` bits, one Hadamard matrix each.

    Of order n: the rows without their constant first bit (n words, n-1 bits, distance n/2), those
    of them that agree in a further bit without it (n/2 words, n-2 bits, n/2), and the rows with
    their complements (biorthogonal: 2n words, n bits, n/2).
    """
    return tuple(_parts(words, longest))


def _parts(words: int, longest: int) -> Iterator[Part]:
    for order in (2, *range(4, longest + 3, 4)):
        # A code of many more words than wanted is no better than that of a smaller matrix.
        matrix = hadamard_matrix(order) if 2 * order >= words else None
        if matrix is None:
            continue
        table = matrix < 0
        if words <= order // 2 and order - 2 <= longest:
            yield Part(table[~table[:, 1]][:, 2:], order // 2)
        if words <= order and order - 1 <= longest:
            yield Part(table[:, 1:], order // 2)
        if words > order and order <= longest:
            yield Part(np.concatenate([table, ~table]), order // 2)


def recipes(words: int, length: int, most: int = 4) -> list[tuple[int, tuple[Part, ...]]]:
    """The best ways to put N = `words` words of K = `length` bits together: distance and parts.

    Parts stand beside each other and their distances add up (Levenshtein). Missing bits are free,
    each bit too many costs 1 of the distance. At most `most` ways, all of the largest distance
    found; fewest parts first; none when no part has that many words.
    """
    # A part longer than twice the code would lose half of its distance and more; one with many
    # more words than wanted has a smaller share of distance in its bits.
    available = parts(words, min(max(2 * length, 4), max(4 * words, 64)))
    longest = max((part.length for part in available), default=0)
    best: list[tuple[int, tuple[Part, ...]]] = [(0, ())]
    found: list[tuple[int, tuple[Part, ...]]] = []
    for total in range(1, length + longest):
        options = [best[total - 1]] + [
            (best[total - part.length][0] + part.distance, (*best[total - part.length][1], part))
            for part in available
            if part.length <= total
        ]
        best.append(max(options, key=lambda option: (option[0], -len(option[1]))))
        found += [
            (distance - max(total - length, 0), chosen)
            for distance, chosen in options
            if total >= length and chosen
        ]
    top = max((distance for distance, _ in found), default=0)
    unique = {
        tuple(sorted(part.table.shape for part in chosen)): chosen
        for distance, chosen in found
        if distance == top > 0
    }
    return [(top, chosen) for chosen in sorted(unique.values(), key=len)[:most]]


def constructed_bits(words: int, length: int, seed: int = 0) -> Bits | None:
    """The best code, [N,K], of `recipes` whose columns are valid; None where there is none.

    Of the constructions that reach the largest d_min_r, the words of each part, the columns and
    the missing bits are chosen for the best separation of the columns.
    """
    generator = np.random.Generator(np.random.PCG64(seed))
    found = [
        _arranged(chosen, words, length, distance, generator)
        for distance, chosen in recipes(words, length)
    ]
    valid = [bits for bits in found if quality(bits).valid]
    return max(valid, key=quality) if valid else None


def _arranged(
    chosen: tuple[Part, ...], words: int, length: int, distance: int, generator: np.random.Generator
) -> Bits:
    """Parts beside each other, with rows, columns and missing bits chosen to separate columns."""
    arrangement = _Arrangement(chosen, words, length, generator)
    bits = arrangement.bits()
    rounds = min(400, _WORK // max(length, words) ** 2)
    for separation in range(1, separation_bound(words, length) + 1):
        if quality(bits).separation >= separation and quality(bits).min_row_distance >= distance:
            continue
        costs = distance_costs(bits, row_floor=distance, separation=separation)
        lowest = float(total_costs(bits[None], costs)[0])
        for _ in range(rounds):
            others = [arrangement.changed(generator) for _ in range(_PROPOSALS)]
            totals = total_costs(np.stack([other.bits() for other in others]), costs)
            index = int(totals.argmin())
            if totals[index] <= lowest:
                arrangement, lowest = others[index], float(totals[index])
            if lowest == 0:
                break
        if lowest:
            break
        bits = arrangement.bits()
    return bits


class _Arrangement:
    """Which words of each part, which of all their columns, and the bits that are missing."""

    def __init__(
        self, chosen: tuple[Part, ...], words: int, length: int, generator: np.random.Generator
    ) -> None:
        self._parts = chosen
        self._rows = [generator.permutation(len(part.table)) for part in chosen]
        total = sum(part.length for part in chosen)
        self._order = generator.permutation(total)
        self._free = generator.random((words, max(length - total, 0))) < 0.5
        self._words, self._length = words, length

    def bits(self) -> Bits:
        """[N,K]."""
        tables = [
            part.table[rows[: self._words]]
            for part, rows in zip(self._parts, self._rows, strict=True)
        ]
        kept = np.concatenate(tables, axis=1)[:, self._order[: self._length]]
        return np.concatenate([kept, self._free], axis=1)

    def changed(self, generator: np.random.Generator) -> "_Arrangement":
        """Like this one but for two words, or two columns (of too many), or a free bit."""
        other = object.__new__(_Arrangement)
        other.__dict__.update(self.__dict__)
        kind = int(generator.integers(3))
        if kind == 0 and self._free.size:
            other._free = self._free.copy()
            other._free.flat[generator.integers(self._free.size)] ^= True
        elif kind == 1 and len(self._order) > self._length:
            other._order = self._order.copy()
            _exchange(other._order, self._length, generator)
        else:
            index = int(generator.integers(len(self._rows)))
            other._rows = list(self._rows)
            other._rows[index] = self._rows[index].copy()
            _exchange(other._rows[index], self._words, generator)
        return other


def _exchange(order: NDArray[np.intp], used: int, generator: np.random.Generator) -> None:
    """Exchange one of the first `used` entries for any other one."""
    first, second = generator.integers(used), generator.integers(len(order))
    order[[first, second]] = order[[second, first]]
