"""Reliable bit mining (Alg. 1), hybrid labels (Eq. 7) and the quality weight (App. H)."""

from typing import NamedTuple

import torch
from torch import Tensor

from ecocseg.codes.codebook import Codebook
from ecocseg.codes.decode import soft_signs
from ecocseg.codes.pixels import check_logits, compute_dtype, full_precision, pieces
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


class _Tables(NamedTuple):
    """For the pair of classes a, b in row a * N + b: bits on which their codewords agree."""

    factor: Tensor
    """1 where they agree, else 0, floating point [N*N,K]."""
    bits: Tensor
    """The same as bytes, eight to a word: int64 [N*N,ceil(K/8)]; bits beyond K are 0."""


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
    check_mining(threshold, max_candidates)
    dtype = compute_dtype(logits)
    signed = book.place(logits.device, dtype)
    tables = _agreement_tables(signed)
    limit = min(max_candidates or book.num_classes, book.num_classes)
    # max(p, 1 - p) = (1 + |s|) / 2 with s = tanh(z / 2), so its mean exceeds T when the mean of
    # |s| exceeds 2T - 1; rounded, because 2 * 0.95 - 1 falls short of 0.9 and ties would pass.
    least = round(2 * threshold - 1, 12)
    batch, length, height, width = logits.shape
    size, device = height * width, logits.device
    labels = torch.empty(batch, size, dtype=torch.int64, device=device)
    mask = torch.empty(batch, length, size, dtype=torch.bool, device=device)
    candidates = torch.ones(batch, size, dtype=torch.int64, device=device)
    confidence = torch.empty(batch, size, dtype=dtype, device=device)
    flat = logits.flatten(2)
    with full_precision(logits):
        for image, span in pieces(logits):
            soft = soft_signs(flat[image, :, span].to(dtype))
            agreement = signed @ soft
            labels[image, span] = agreement.max(0).indices
            certainty = soft.abs_()
            mean = certainty.mean(0)
            confidence[image, span] = mean * 0.5 + 0.5
            open_ = (mean <= least).nonzero().squeeze(1)
            mask[image, :, span] = True
            if len(open_):
                rows, counts = _grow(
                    certainty.index_select(1, open_).T.contiguous(),
                    agreement.index_select(1, open_).T.contiguous(),
                    labels[image, span][open_],
                    tables,
                    least,
                    limit,
                )
                mask[image, :, span][:, open_] = rows.T
                candidates[image, span][open_] = counts
    shape = (batch, height, width)
    return MinedBits(
        labels.view(shape), mask.view(logits.shape), candidates.view(shape), confidence.view(shape)
    )


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


def _agreement_tables(signed: Tensor) -> _Tables:
    agree = (signed[:, None] == signed[None]).flatten(0, 1)
    padded = torch.nn.functional.pad(agree.to(torch.uint8), (0, -agree.shape[1] % 8))
    return _Tables(agree.to(signed.dtype), padded.contiguous().view(torch.int64))


def _grow(
    certainty: Tensor, agreement: Tensor, first: Tensor, tables: _Tables, least: float, limit: int
) -> tuple[Tensor, Tensor]:
    """Algorithm 1 from the second candidate on, for U pixels that the first did not settle.

    `certainty` [U,K]: |2p - 1|, its mean over S to exceed `least`. `agreement` [U,N]: larger is
    nearer. Both are overwritten. `first` [U]: nearest class. Returns the mask, bool [U,K], and
    the number of candidates, int64 [U].
    """
    total, length = certainty.shape
    classes = agreement.shape[1]
    mask = torch.zeros(total, tables.bits.shape[1], dtype=torch.int64, device=certainty.device)
    counts = torch.full_like(first, limit)
    pixel = torch.arange(total, device=certainty.device)
    latest = first
    bits = tables.bits.index_select(0, first * (classes + 1))
    for count in range(2, limit + 1):
        agreement.scatter_(1, latest[:, None], -torch.inf)
        latest = agreement.argmax(1)
        pair = first * classes + latest
        bits &= tables.bits.index_select(0, pair)
        certainty *= tables.factor.index_select(0, pair)
        size = _count_bits(bits)
        # An empty S divides 0 by 0, and nan exceeds nothing.
        ended = (certainty.sum(1) / size > least) | (size == 0)
        if count == classes:
            ended.fill_(True)
        done = ended.nonzero().squeeze(1)
        mask[pixel[done]] = bits[done]
        counts[pixel[done]] = count
        if len(done) == len(pixel):
            break
        going = (~ended).nonzero().squeeze(1)
        pixel, first, latest = pixel[going], first[going], latest[going]
        bits = bits.index_select(0, going)
        certainty, agreement = certainty.index_select(0, going), agreement.index_select(0, going)
    return mask.view(torch.bool)[:, :length], counts


def _count_bits(words: Tensor) -> Tensor:
    """Number of bytes that are 1 in int64 [U,V] with V < 256, int64 [U]."""
    lanes = words.sum(1)
    # Add eight lanes of a byte pairwise into four of two bytes, and those by multiplication.
    lanes = (lanes & 0x00FF00FF00FF00FF) + ((lanes >> 8) & 0x00FF00FF00FF00FF)
    return (lanes * 0x0001000100010001 >> 48) & 0xFFFF


@torch.no_grad()
def hybrid_labels(logits: Tensor, mined: MinedBits, book: Codebook) -> Tensor:
    """Code-wise bits where `mined.mask`, bit-wise bits [z >= 0] elsewhere (Eq. 7).

    `logits` [B,K,H,W] -> bool [B,K,H,W]. Raises ValueError when the logits do not fit the
    codebook.
    """
    check_logits(logits, book)
    bits = logits >= 0
    # `where` on booleans takes three times as long.
    return code_bits(mined.labels, book).logical_xor_(bits).logical_and_(mined.mask) ^ bits


def code_bits(labels: Tensor, book: Codebook) -> Tensor:
    """Codeword of each pixel's class: labels [B,H,W] in 0..N-1 -> bool [B,K,H,W]."""
    columns = book.bits.T.contiguous().to(labels.device)
    batch, height, width = labels.shape
    shape = (batch, book.length, height * width)
    result = torch.empty(shape, dtype=torch.bool, device=labels.device)
    for image in range(batch):
        # `gather` with an expanded index: six times as fast as indexing on a CPU.
        index = labels[image].reshape(1, -1).expand(book.length, -1)
        torch.gather(columns, 1, index, out=result[image])
    return result.view(batch, book.length, height, width)


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
