"""The temperature of the contrast, and the distribution over classes that it makes of logits.

The contrast is a softmax of cosines, which lie in -1..1: whatever the network, the largest share
that a class can reach is that of a pixel whose logits point exactly at the class's codeword.
"""

import math
from typing import Literal

import torch
from scipy.optimize import brentq
from torch import Tensor

from ecocseg.codes.codebook import Codebook
from ecocseg.codes.pixels import check_logits, compute_dtype, full_precision
from ecocseg.errors import ConfigError

Temperature = float | Literal["auto"]
SHARE = 0.99
"""P of the automatic temperature."""
_SHORTEST = 1e-12


def reachable_shares(book: Codebook, temperature: float) -> Tensor:
    """Share of each class at its own codeword, float64 [N]: 1 / sum_m exp(-2 d_nm / (K tau))."""
    exponents = book.row_distances.double() * (-2 / (book.length * temperature))
    return 1 / exponents.exp().sum(1)


def auto_temperature(book: Codebook, share: float = SHARE) -> float:
    """The largest tau at which every class reaches `share` at its own codeword.

    Raises ConfigError unless `share` lies between 1/N, which every tau gives, and 1.
    """
    if not 1 / book.num_classes < share < 1:
        raise ConfigError(
            f"share: got {share}, allowed between 1/N = {1 / book.num_classes:.3g} and 1, both "
            "excluded"
        )

    def surplus(tau: float) -> float:
        return float(reachable_shares(book, tau).min()) - share

    # All other classes as near as the nearest pair is the worst case, all at K bits the best one;
    # a little further out, where rounding cannot reach.
    odds = math.log((book.num_classes - 1) * share / (1 - share))
    least, most = 2 * book.min_row_distance / book.length / odds, 2 / odds
    return float(brentq(surplus, 0.999 * least, 1.001 * most, xtol=1e-12))


def resolve_temperature(book: Codebook, temperature: Temperature) -> float:
    """`temperature` as a number: `auto_temperature` for "auto"."""
    return auto_temperature(book) if temperature == "auto" else temperature


def check_temperature(temperature: object) -> None:
    """Raise ConfigError unless `temperature` is "auto" or a number above 0."""
    if temperature == "auto":
        return
    if not (
        isinstance(temperature, int | float) and math.isfinite(temperature) and temperature > 0
    ):
        raise ConfigError(
            f"temperature: got {temperature!r}, allowed above 0, or auto: the largest at which "
            f"every codeword reaches a share of {SHARE} of its class; the paper has 0.5"
        )


def class_probabilities(logits: Tensor, book: Codebook, temperature: float) -> Tensor:
    """Softmax over classes of cos(z, c^_n) / tau, the distribution that the contrast trains.

    `logits` [B,K,H,W] -> [B,N,H,W], float32 (float64 for float64 logits). Raises ValueError when
    the logits do not fit the codebook.
    """
    check_logits(logits, book)
    dtype = compute_dtype(logits)
    with full_precision(logits):
        z = logits.to(dtype).flatten(2)
        # So that no square overflows. As short a vector has no direction in the loss either.
        z = z / z.abs().amax(1, keepdim=True).clamp_min(_SHORTEST)
        norm = torch.linalg.vector_norm(z, dim=1, keepdim=True).clamp_min(_SHORTEST)
        similarity = torch.matmul(book.place(logits.device, dtype), z) / norm
        similarity *= 1 / (temperature * math.sqrt(book.length))
        return similarity.softmax(1).unflatten(2, logits.shape[2:])
