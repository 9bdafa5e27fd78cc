"""How far apart codewords can be at all: upper bounds on d_min_r, the smallest row distance.

A(K,d) is the largest number of words of K bits any two of which differ in d bits or more. Adding a
parity bit shows A(K,d) = A(K+1,d+1) for odd d, so that every bound is taken at an even distance.
Sources: MacWilliams and Sloane, The Theory of Error-Correcting Codes (1977): Plotkin chapter 2
section 2, sphere packing chapter 1 section 5, linear programme (Delsarte, 1973) chapter 17
section 4.
"""

from functools import lru_cache
from math import comb, sqrt

import numpy as np
from scipy.optimize import linprog

# Beyond it the programme's coefficients differ by more than floating point can tell apart.
_LONGEST_PROGRAMME = 80
# The programme is solved in floating point: only a clear verdict counts.
_MARGIN = 1e-3


@lru_cache(maxsize=1024)
def row_distance_bound(num_classes: int, length: int, *, valid: bool = False) -> int:
    """Largest d_min_r that N = `num_classes` words of K = `length` bits can have at most.

    The smallest of the bounds of Plotkin, Hamming (sphere packing) and Delsarte (linear
    programme). With `valid` the columns must also be distinct up to complement, as the validity
    rules of codebooks demand; that lowers the bound where K is a good part of 2^(N-1).
    """
    most = length if num_classes <= 2 else _average(num_classes, length)
    if valid:
        most = min(most, _distinct_columns(num_classes, length))
    while most > 1 and not _may_exist(num_classes, length, most):
        most -= 1
    return most


def separation_bound(num_classes: int, length: int) -> int:
    """Largest min(d_min_c, N - d_max_c) that K columns over N classes can have at most.

    The K columns with their complements are 2K words of N bits, of this smallest distance; and as
    K signed vectors in N dimensions they cannot all be nearly orthogonal (Welch, 1974).
    """
    if length == 1:
        return num_classes
    most = min(row_distance_bound(2 * length, num_classes), num_classes // 2)
    if length > num_classes:
        product = num_classes * sqrt((length - num_classes) / (num_classes * (length - 1)))
        most = min(most, int((num_classes - product) / 2 + _MARGIN))
    return most


def _may_exist(words: int, length: int, distance: int) -> bool:
    """Whether no bound rules out that many words at that distance."""
    if distance % 2:
        length, distance = length + 1, distance + 1
    if _plotkin(length, distance) < words or _sphere_packing(length, distance) < words:
        return False
    # Where Plotkin's bound holds, Levenshtein's codes reach it: the programme could add nothing.
    if 2 * distance > length or length > _LONGEST_PROGRAMME:
        return True
    return _delsarte(length, distance) >= words - _MARGIN


def _plotkin(length: int, distance: int) -> int:
    """Bound on A(K,d), d even; shortening, A(K,d) <= 2 A(K-1,d), leads to where it holds."""
    if 2 * distance > length:
        return 2 * (distance // (2 * distance - length))
    return 4 * distance * 2 ** (length - 2 * distance)


def _sphere_packing(length: int, distance: int) -> int:
    """Balls of radius (d-2)/2 around words of K - 1 bits, d - 1 apart, cannot overlap."""
    radius = (distance - 2) // 2
    return int(2 ** (length - 1) // sum(comb(length - 1, i) for i in range(radius + 1)))


def _delsarte(length: int, distance: int) -> float:
    """Bound on A(K,d), d even, where words of even weight suffice."""
    weights = list(range(distance, length + 1, 2))
    # Krawtchouk polynomials as shares of their value at 0, which keeps all of them in -1..1.
    orders = range(1, length // 2 + 1)
    table = np.array([[_krawtchouk(length, k, w) / comb(length, k) for w in weights]
                      for k in orders])  # fmt: skip
    solved = linprog(-np.ones(len(weights)), A_ub=-table, b_ub=np.ones(len(table)))
    return 1.0 - solved.fun if solved.status == 0 else float("inf")


@lru_cache(maxsize=100_000)
def _krawtchouk(length: int, order: int, weight: int) -> int:
    return sum(
        (-1) ** j * comb(weight, j) * comb(length - weight, order - j) for j in range(order + 1)
    )


def _average(words: int, length: int) -> int:
    """Plotkin's count: a column separates at most floor(N/2) ceil(N/2) of the N(N-1)/2 pairs."""
    return length * (words // 2) * (words - words // 2) // (words * (words - 1) // 2)


def _distinct_columns(words: int, length: int) -> int:
    """The same count where each column, up to complement, is there once only."""
    total, left = 0, length
    for ones in range(words // 2, -1, -1):
        columns = comb(words, ones) // (2 if 2 * ones == words else 1)
        total += min(left, columns) * ones * (words - ones)
        left -= min(left, columns)
    return total // (words * (words - 1) // 2)
