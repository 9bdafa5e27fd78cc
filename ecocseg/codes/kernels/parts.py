# Triton knows tuples only as (a, b) and a + b, whose types change.
# ruff: noqa: RUF005, SIM108
# mypy: disallow-untyped-defs=False, disable-error-code=assignment
"""What the kernels share: one pixel per lane, its K logits and N sums in registers.

The codebook is a compile-time constant `ROWS`, one integer per codeword, so a sum of logits with
the signs of a codeword is additions and subtractions only, and those that codewords have in common
are taken once: of each four bits all eight sums up to sign, then one addition per class (the method
of four Russians). At N = 81, K = 60 that is 1,425 additions instead of 4,860 multiply-adds in
float32, fewer than the tensor cores of a consumer card would need at the same precision.
"""

import triton
import triton.language as tl

from ecocseg.codes.kernels.dialect import jit

# Bits that are summed together: more would double the sums per group for few additions saved.
GROUP = tl.constexpr(4)


@triton.constexpr_function
def group_size(start, total):
    """Members of the group that starts at `start`."""
    return min(4, total - start)


@triton.constexpr_function
def row_pattern(rows, n, start, size):
    """`size` bits of codeword n from bit `start` on, as an integer."""
    return (rows[n] >> start) & ((1 << size) - 1)


@triton.constexpr_function
def column_pattern(rows, k, start, size):
    """Bit k of `size` codewords from class `start` on, as an integer."""
    return sum(((rows[start + i] >> k) & 1) << i for i in range(size))


@triton.constexpr_function
def is_positive(pattern):
    """Whether the first member of a group is added; if not, the negative of the sum is."""
    return pattern & 1


@triton.constexpr_function
def sum_index(pattern, size):
    """Place in `signed_sums` of the sum with these signs, up to the sign of all."""
    return (pattern if pattern & 1 else ~pattern & ((1 << size) - 1)) >> 1


@jit
def signed_sums(values, START: tl.constexpr, SIZE: tl.constexpr):
    """All sums v0 +- v1 +- v2 .. of `SIZE` members; bit i-1 of the place is the sign of v_i."""
    sums = (values[START],)
    for i in tl.static_range(1, SIZE):
        value = values[START + i]
        minus = ()
        plus = ()
        for j in tl.static_range(1 << (i - 1)):
            minus = minus + (sums[j] - value,)
            plus = plus + (sums[j] + value,)
        sums = minus + plus
    return sums


@jit
def take(sums, PATTERN: tl.constexpr, SIZE: tl.constexpr):
    """The sum with the signs of `PATTERN`; exactly odd: opposite signs, opposite sum."""
    if is_positive(PATTERN):
        result = sums[sum_index(PATTERN, SIZE)]
    else:
        result = -sums[sum_index(PATTERN, SIZE)]
    return result


@jit
def by_class(
    totals, values, ROWS: tl.constexpr, N: tl.constexpr, START: tl.constexpr, SIZE: tl.constexpr
):
    """Add c^_n . v over the bits START.. of `values` (SIZE of them) to the N `totals`."""
    sums = signed_sums(values, 0, SIZE)
    result = ()
    for n in tl.static_range(N):
        result = result + (totals[n] + take(sums, row_pattern(ROWS, n, START, SIZE), SIZE),)
    return result


@jit
def by_bit(values, ROWS: tl.constexpr, N: tl.constexpr, K: tl.constexpr):
    """sum_n v_n c^_nk of N `values`, for each bit: K sums."""
    SIZE: tl.constexpr = group_size(0, N)
    sums = signed_sums(values, 0, SIZE)
    result = ()
    for k in tl.static_range(K):
        result = result + (take(sums, column_pattern(ROWS, k, 0, SIZE), SIZE),)
    for start in tl.static_range(GROUP, N, GROUP):
        result = _add_by_bit(result, values, ROWS, K, start, group_size(start, N))
    return result


@jit
def _add_by_bit(
    totals, values, ROWS: tl.constexpr, K: tl.constexpr, START: tl.constexpr, SIZE: tl.constexpr
):
    sums = signed_sums(values, START, SIZE)
    result = ()
    for k in tl.static_range(K):
        result = result + (totals[k] + take(sums, column_pattern(ROWS, k, START, SIZE), SIZE),)
    return result


@jit
def load_group(source, mask, stride_bit, START: tl.constexpr, SIZE: tl.constexpr):
    """SIZE logits of each pixel from bit START on, in float32; 0 where not `mask`."""
    values = ()
    for i in tl.static_range(SIZE):
        z = tl.load(source + (START + i) * stride_bit, mask=mask, other=0)
        values = values + (z.to(tl.float32),)
    return values


@jit
def repeat(value, COUNT: tl.constexpr):
    """`value`, COUNT times."""
    result = ()
    for _ in tl.static_range(COUNT):
        result = result + (value,)
    return result


@jit
def nearest(totals, N: tl.constexpr):
    """(largest of the N totals, its class int32); ties to the lower class."""
    best = totals[0]
    label = tl.where(best > 0, 0, 0)
    for n in tl.static_range(1, N):
        better = totals[n] > best
        best = tl.where(better, totals[n], best)
        label = tl.where(better, n, label)
    return best, label


@jit
def certainty(z):
    """tanh(|z| / 2) = |2p - 1|, without cancellation near 0."""
    decay = tl.exp(-tl.abs(z))
    return (1 - decay) / (1 + decay)


@jit
def whole_sign(size, z):
    """2p - 1 of size `size` in steps of 2^-24, int32: sums of up to 64 of them are exact.

    A sum in floating point is rounded by the order of its terms, which would break ties.
    """
    whole = (size * 16777216.0 + 0.5).to(tl.int32)
    return tl.where(z < 0, -whole, whole)


@jit
def bit_of(low, high, K: tl.constexpr):
    """Whether bit K is set in the words (bits 0..31, bits 32..63)."""
    if K < 32:
        result = (low & word(1 << K, 0)) != 0
    else:
        result = (high & word(1 << K, 1)) != 0
    return result


@jit
def set_bit(low, high, condition, K: tl.constexpr):
    """The words with bit K set where `condition`."""
    if K < 32:
        low = low | (condition.to(tl.int32) << K)
    else:
        high = high | (condition.to(tl.int32) << (K - 32))
    return low, high


@jit
def count_bits(word):
    """Bits set in an int32; the compiler knows the idiom and takes one instruction."""
    bits = word.to(tl.uint32, bitcast=True)
    bits = bits - ((bits >> 1) & 0x55555555)
    bits = (bits & 0x33333333) + ((bits >> 2) & 0x33333333)
    bits = (bits + (bits >> 4)) & 0x0F0F0F0F
    return ((bits * 0x01010101) >> 24).to(tl.int32)


@jit
def log_1_plus(x):
    """log(1 + x) for x >= 0 with a small relative error near 0 too."""
    small = tl.minimum(x, 0.0625)
    series = small * (1 - small * (0.5 - small * (0.33333334 - small * (0.25 - small * 0.2))))
    return tl.where(x < 0.0625, series, tl.log(1 + x))


@triton.constexpr_function
def word(value, half):
    """Bits 0..31 (half 0) or 32..63 (half 1) as a signed number."""
    bits = (value >> (32 * half)) & 0xFFFFFFFF
    return bits - (1 << 32) if bits >> 31 else bits


@jit
def equals_row(low, high, ROWS: tl.constexpr, N: tl.constexpr, K: tl.constexpr):
    """Whether the word is one of the codewords."""
    result = low != low
    for n in tl.static_range(N):
        same = low == word(ROWS[n], 0)
        if K > 32:
            same = same & (high == word(ROWS[n], 1))
        result = result | same
    return result


@jit
def not_taken(taken_0, taken_1, taken_2, taken_3, n: tl.constexpr):
    """Whether bit n of the four words is 0."""
    if n < 64:
        result = ~bit_of(taken_0, taken_1, n)
    else:
        result = ~bit_of(taken_2, taken_3, n - 64)
    return result
