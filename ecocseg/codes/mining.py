"""Reliable bit mining (Alg. 1), hybrid labels (Eq. 7) and the quality weight (App. H)."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ecocseg.codes import kernels
from ecocseg.codes.candidates import mine
from ecocseg.codes.codebook import Codebook
from ecocseg.codes.pixels import check_logits, compute_dtype
from ecocseg.errors import ConfigError


class MinedBits(NamedTuple):
    """What mining finds in a batch of logits."""

    labels: Tensor
    """Class of the nearest codeword, int64 [B,H,W]."""
    mask: Tensor
    """M: bits on which the code-wise label is taken, bool [B,K,H,W]."""
    candidates: Tensor
    """Number of nearest classes in the candidate set at the end, int64 [B,H,W]."""
    confidence: Tensor
    """Mean over the K bits of max(p, 1 - p), in 0.5..1, [B,H,W] in the type computed in."""


@torch.no_grad()
def mine_reliable_bits(
    logits: Tensor, book: Codebook, threshold: float = 0.95, max_candidates: int | None = None
) -> MinedBits:
    """Reliable bit mining, Algorithm 1, for logits [B,K,H,W].

    Per pixel, classes join a candidate set from the nearest codeword on (ties: lower index
    first). S are the bits on which all candidates agree; it is accepted as soon as the mean of
    max(p, 1 - p) over S exceeds `threshold`, S is empty, or all classes are in.
    `max_candidates` (the released code: 8) gives an empty mask to a pixel that would need more;
    a value of N or more changes nothing. Raises ConfigError (a ValueError) for a threshold
    outside 0..1 or a limit below 1, ValueError when the logits do not fit the codebook.
    """
    check_logits(logits, book)
    return MinedBits(*_mine(logits, *_rules(logits, book, threshold, max_candidates)))


def _rules(
    logits: Tensor, book: Codebook, threshold: float, max_candidates: int | None
) -> tuple[Tensor, Sequence[int], float, int]:
    """Signed codewords, their words, least mean of |2p - 1|, most candidates."""
    check_mining(threshold, max_candidates)
    # max(p, 1 - p) = (1 + |s|) / 2 with s = tanh(z / 2), so its mean exceeds T when the mean of
    # |s| exceeds 2T - 1; rounded, because 2 * 0.95 - 1 falls short of 0.9 and ties would pass.
    least = round(2 * threshold - 1, 12)
    limit = min(max_candidates or book.num_classes, book.num_classes)
    return book.place(logits.device, compute_dtype(logits)), book.words, least, limit


# An operator of our own: torch.compile takes it as a whole, and leaves the choice of kernel to it.
@torch.library.custom_op("ecocseg::mine", mutates_args=())
def _mine(
    logits: Tensor, signed: Tensor, words: Sequence[int], least: float, limit: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    if kernels.usable(logits, words):
        from ecocseg.codes.kernels import mining as kernel

        return kernel.mine(logits, words, least, limit)
    return mine(logits, signed, least, limit)


@_mine.register_fake
def _(
    logits: Tensor, signed: Tensor, words: Sequence[int], least: float, limit: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return _mined_like(logits)


def _mined_like(logits: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    labels = logits.new_empty((logits.shape[0], *logits.shape[2:]), dtype=torch.int64)
    mask = logits.new_empty(logits.shape, dtype=torch.bool)
    confidence = torch.empty_like(labels, dtype=compute_dtype(logits))
    return labels, mask, torch.empty_like(labels), confidence


def check_mining(threshold: float, max_candidates: int | None) -> None:
    """Raise ConfigError when an option of the mining is out of range."""
    if not 0 <= threshold <= 1:
        raise ConfigError(
            f"threshold: got {threshold}, allowed 0..1; 0.5 gives code-wise labels, 1 bit-wise ones"
        )
    if max_candidates is not None and max_candidates < 1:
        raise ConfigError(
            f"max_candidates: got {max_candidates}, allowed 1 or more, or none for no limit"
        )


class Denoised(NamedTuple):
    """Hybrid pseudo-labels (Eq. 7) of a batch of logits, and what made them."""

    bits: Tensor
    """Code-wise bits inside M, bit-wise ones outside, bool [B,K,H,W]."""
    labels: Tensor
    """Class of the nearest codeword, int64 [B,H,W]."""
    candidates: Tensor
    """As in `MinedBits`, int64 [B,H,W]."""
    confidence: Tensor
    """As in `MinedBits`, [B,H,W]."""
    counts: Tensor
    """Bits of the batch on which code-wise and bit-wise labels differ, those of them inside M,
    and all inside M: int64 [3]."""


@torch.no_grad()
def denoise(
    logits: Tensor, book: Codebook, threshold: float = 0.95, max_candidates: int | None = None
) -> Denoised:
    """`hybrid_labels` of `mine_reliable_bits` in one go, for logits [B,K,H,W].

    The mask M itself is not given, and on a GPU not even made. Raises as `mine_reliable_bits`.
    """
    check_logits(logits, book)
    return Denoised(*_denoise(logits, *_rules(logits, book, threshold, max_candidates)))


@torch.library.custom_op("ecocseg::denoise", mutates_args=())
def _denoise(
    logits: Tensor, signed: Tensor, words: Sequence[int], least: float, limit: int
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    if kernels.usable(logits, words):
        from ecocseg.codes.kernels import mining as kernel

        return kernel.pseudo(logits, words, least, limit)
    labels, mask, candidates, confidence = mine(logits, signed, least, limit)
    bits = _codewords(labels, signed > 0)
    counts = torch.zeros(3, dtype=torch.int64, device=logits.device)
    for image in range(len(logits)):
        signs, inside = logits[image] >= 0, mask[image]
        differ = bits[image].logical_xor_(signs)
        found = [differ.count_nonzero()]
        differ.logical_and_(inside)
        counts += torch.stack([*found, differ.count_nonzero(), inside.count_nonzero()])
        differ.logical_xor_(signs)
    return bits, labels, candidates, confidence, counts


@_denoise.register_fake
def _(
    logits: Tensor, signed: Tensor, words: Sequence[int], least: float, limit: int
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    labels, bits, candidates, confidence = _mined_like(logits)
    return bits, labels, candidates, confidence, labels.new_empty(3)


@torch.no_grad()
def hybrid_labels(logits: Tensor, mined: MinedBits, book: Codebook) -> Tensor:
    """Code-wise bits where `mined.mask`, bit-wise bits [z >= 0] elsewhere (Eq. 7).

    `logits` [B,K,H,W] -> bool [B,K,H,W]. Raises ValueError when the logits do not fit the
    codebook.
    """
    check_logits(logits, book)
    labels = code_bits(mined.labels, book)
    for label, image, mask in zip(labels, logits, mined.mask, strict=True):
        bits = image >= 0
        # `where` on booleans takes three times as long.
        label.logical_xor_(bits).logical_and_(mask).logical_xor_(bits)
    return labels


def code_bits(labels: Tensor, book: Codebook) -> Tensor:
    """Codeword of each pixel's class: labels [B,H,W] in 0..N-1 -> bool [B,K,H,W]."""
    # The copy that lies on the device: to copy the bits there would make a GPU wait.
    return _codewords(labels, book.place(labels.device, torch.float32) > 0)


def _codewords(labels: Tensor, rows: Tensor) -> Tensor:
    batch, height, width = labels.shape
    columns = rows.T.expand(batch, -1, -1).contiguous()
    # `gather` with an expanded index: six times as fast as indexing on a CPU.
    index = labels.flatten(1).unsqueeze(1).expand(-1, rows.shape[1], -1)
    return columns.gather(2, index).view(batch, rows.shape[1], height, width)


@torch.no_grad()
def quality_weight(
    confidence: Tensor, threshold: float = 0.968, valid: Tensor | None = None
) -> Tensor:
    """Share of each image's pixels whose confidence exceeds `threshold` (Eq. 47).

    `confidence` [B,H,W] -> [B]. `valid` bool [B,H,W]: pixels to count (padding left out); an
    image without any has share 0. Raises ConfigError for a threshold outside 0..1.
    """
    check_quality(threshold)
    above = confidence > threshold
    if valid is None:
        return above.to(confidence.dtype).mean((1, 2))
    counted = (above & valid).to(confidence.dtype).sum((1, 2))
    return counted / valid.sum((1, 2)).clamp_(min=1)


def check_quality(threshold: float) -> None:
    """Raise ConfigError when a confidence threshold is outside 0..1."""
    if not 0 <= threshold <= 1:
        raise ConfigError(
            f"quality_threshold: got {threshold}, allowed 0..1; the paper has 0.968 or 0.95"
        )
