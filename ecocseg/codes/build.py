"""Builders of codebooks (App. B, C, E). Each gives bits, bool [N,K], that meet the validity rules.

The rules: no two rows equal; no two columns equal or opposite, which would be one classifier
twice. They allow at most 2^(N-1) columns and need at least log2 N. Of `exhaustive` codes that are
longer only the rows keep them.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ecocseg.codes.embeddings import embed
from ecocseg.errors import ConfigError

Bits = NDArray[np.bool_]

MOST_LISTED = 10
"""So many classes that all their columns can be listed and paired."""
# Bounds the memory of the random search: 500 products of [40,19] by [19,40] are 3 MB.
_BATCH = 500


def build_bits(
    builder: str,
    *,
    class_names: Sequence[str] | None,
    num_classes: int | None,
    length: int,
    seed: int,
    embeddings: str | Path | None,
    draws: int,
) -> Bits:
    """Bits of the codebook that `Codebook.build` describes; raises ConfigError as it says."""
    if builder not in BUILDERS:
        raise ConfigError(f"codebook: got {builder!r}, allowed {', '.join(BUILDERS)}")
    if class_names is not None:
        if num_classes not in (None, len(class_names)):
            raise ConfigError(
                f"num_classes: got {num_classes} with {len(class_names)} class_names; leave it out"
            )
        num_classes = len(class_names)
    if num_classes is None or num_classes < 2:
        given = f"{num_classes} classes" if num_classes is not None else "none"
        raise ConfigError(f"class_names: got {given}, allowed 2 or more names, or num_classes >= 2")
    if builder == "one-hot":
        return np.eye(num_classes, dtype=bool)
    if builder == "exhaustive":
        _check_exhaustive(num_classes, length)
        from ecocseg.codes.optimise import exhaustive_bits

        return exhaustive_bits(num_classes, length)
    _check_length(num_classes, length)
    if builder in NEED_NAMES:
        if class_names is None:
            raise ConfigError(
                f"class_names: got none, but the {builder} codebook is made of the names"
            )
        vectors = embed(class_names, embeddings)
        if builder == "text":
            return text_bits(vectors, length)
        # Here and below not at the top: they need parts of scipy that take a second to import.
        from ecocseg.codes.semantic import text_optimised_bits

        return text_optimised_bits(vectors, length, seed)
    if builder == "mmd":
        return mmd_bits(num_classes, length, seed, draws)
    from ecocseg.codes.optimise import hadamard_bits, optimised_bits

    make = hadamard_bits if builder == "hadamard" else optimised_bits
    return make(num_classes, length, seed)


def _check_exhaustive(num_classes: int, length: int) -> None:
    fewest = (num_classes - 1).bit_length()
    if num_classes > MOST_LISTED:
        raise ConfigError(
            f"codebook: got exhaustive for {num_classes} classes, allowed 2..{MOST_LISTED}: more "
            "have too many columns; use optimised"
        )
    if length < fewest:
        raise ConfigError(
            f"length: got {length}, allowed {fewest} or more for {num_classes} classes: fewer bits "
            "cannot tell the classes apart"
        )


def _check_length(num_classes: int, length: int) -> None:
    fewest = max((num_classes - 1).bit_length(), 1)
    # Beyond 63 classes the upper limit is larger than any length.
    most = 2 ** (min(num_classes, 63) - 1)
    if not fewest <= length <= most:
        raise ConfigError(
            f"length: got {length}, allowed {fewest}..{most} for {num_classes} classes: fewer bits "
            "cannot tell the classes apart, more cannot all differ from each other (the exhaustive "
            "codebook repeats them)"
        )


def mmd_bits(num_classes: int, length: int, seed: int = 0, draws: int = 100_000) -> Bits:
    """Max-min distance (Alg. 2): the best of `draws` random matrices.

    Matrices that break the validity rules are skipped; of the others the first with the largest
    d_min_r + d_min_c + N - d_max_c wins. The same seed gives the same codebook. Raises ConfigError
    when no draw was valid.
    """
    if draws < 1:
        raise ConfigError(f"draws: got {draws}, allowed 1 or more; the paper has 100,000")
    size = num_classes * length
    generator = np.random.Generator(np.random.PCG64(seed))
    best, best_score = None, -1
    for start in range(0, draws, _BATCH):
        count = min(_BATCH, draws - start)
        # Whole 32-bit words per matrix, as the generator makes them: the batch size does not show.
        raw = generator.bytes(count * 4 * -(-size // 32))
        packed = np.frombuffer(raw, dtype=np.uint8).reshape(count, -1)
        bits = np.unpackbits(packed, axis=1, count=size).reshape(count, num_classes, length)
        scores = _scores(bits)
        index = int(scores.argmax())
        if scores[index] > best_score:
            best, best_score = bits[index].astype(bool), int(scores[index])
    if best is None:
        raise ConfigError(
            f"codebook: none of {draws:,} random matrices of {num_classes} classes and {length} "
            "bits was valid; change length"
        )
    return best


def _scores(bits: NDArray[np.uint8]) -> NDArray[np.int64]:
    """d_min_r + d_min_c + N - d_max_c of each matrix [L,N,K]; -1 for an invalid one."""
    _, classes, length = bits.shape
    # numpy, not torch: on small products several threads gain nothing, and on a machine that is
    # busy they wait for each other.
    signed = bits.astype(np.float32) * 2 - 1
    turned = signed.transpose(0, 2, 1)
    rows = _off_diagonal(signed @ turned)
    min_rows = (length - rows.max((1, 2))) / 2
    valid, columns_score = min_rows > 0, np.float32(classes)
    if length > 1:
        columns = _off_diagonal(turned @ signed)
        min_columns = (classes - columns.max((1, 2))) / 2
        max_columns = (classes - columns.min((1, 2))) / 2
        valid &= (min_columns > 0) & (max_columns < classes)
        columns_score = min_columns + classes - max_columns
    return np.where(valid, min_rows + columns_score, -1).astype(np.int64)


def _off_diagonal(square: NDArray[np.float32]) -> NDArray[np.float32]:
    """[L,M,M] -> [L,M-1,M] without the diagonal, which is every (M+1)-th value, as a view."""
    count, size, _ = square.shape
    return square.reshape(count, -1)[:, 1:].reshape(count, size - 1, size + 1)[:, :, :-1]


def text_bits(embeddings: NDArray[np.float64], length: int) -> Bits:
    """Text codebook (Alg. 3) from embeddings [N,D] of the class names.

    Rows are brought to unit length, channels ranked by their variance over the classes, each made
    binary at its own mean, and taken in order unless equal or opposite to one taken before.
    Raises ConfigError when there are too few such channels or two classes end up equal.
    """
    rows = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True).clip(1e-12)
    order = np.argsort(-rows.var(axis=0), kind="stable")
    binary = (rows > rows.mean(axis=0))[:, order]
    seen: set[bytes] = set()
    taken: list[int] = []
    for channel in range(binary.shape[1]):
        column = binary[:, channel]
        # Equal and opposite columns share a key; one that is the same for all classes is no use.
        key = (column ^ column[0]).tobytes()
        if key not in seen and any(key):
            seen.add(key)
            taken.append(channel)
    if len(taken) < length:
        raise ConfigError(
            f"length: got {length}, allowed up to {len(taken)} for these class names: their "
            "embeddings have no more channels that differ"
        )
    bits = binary[:, taken[:length]]
    if len(np.unique(bits, axis=0)) < len(bits):
        raise ConfigError(
            f"length: {length} bits of the embeddings do not tell all class names apart; use more"
        )
    return bits


BUILDERS = ("text", "mmd", "exhaustive", "hadamard", "optimised", "text-optimised", "one-hot")
"""Names that `Codebook.build` knows."""
NEED_NAMES = ("text", "text-optimised")
"""Those of them that need class names."""
