"""Error-correcting output codes: a channel per bit, classes as codewords (ECOCSeg)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from ecocseg.codes.build import BUILDERS
from ecocseg.codes.codebook import Codebook
from ecocseg.codes.decode import decode, soft_hamming_distance
from ecocseg.codes.losses import Denominator, ECOCLoss, check_loss
from ecocseg.codes.mining import check_mining, code_bits, denoise, mine_reliable_bits
from ecocseg.codes.pixels import compute_dtype
from ecocseg.codes.statistics import THRESHOLDS, label_statistics
from ecocseg.codes.temperature import Temperature, auto_temperature, class_probabilities
from ecocseg.encodings.base import Encoding, Quality, check_quality_fields
from ecocseg.errors import ConfigError
from ecocseg.types import IGNORE, PseudoLabel, Terms

Labels = Literal["hybrid", "code", "bit"]
Confidence = Literal["bits", "class"]


@dataclass(frozen=True, kw_only=True)
class ECOCConfig:
    """Options of the ECOC encoding; symbols are the paper's."""

    codebook: str = "text"
    """Builder of the codebook, as in `Codebook.build`."""
    length: int = 40
    """K, bits per codeword (one-hot: always N)."""
    codebook_seed: int = 0
    """Seed of the random builders."""
    codebook_path: str | None = None
    """A saved codebook to use instead of building one; `embeddings.py` says how the released one
    gets there."""
    embeddings: str | None = None
    """word2vec (as the paper) or GloVe file for the text codebooks instead of the shipped table."""
    threshold: float = 0.95
    """T of reliable bit mining, 0..1: 0.5 gives code-wise labels, 1 bit-wise ones (but for a bit
    that is the same in all codewords, which no candidate can change)."""
    max_candidates: int | None = None
    """Largest candidate set of the mining (the released code: 8); none: no limit."""
    labels: Labels = "hybrid"
    """Pseudo-labels: hybrid (Eq. 7), code-wise or bit-wise."""
    quality: Quality = "image"
    """Weight of pseudo-labels: share of confident pixels, of each image or of the batch (released
    UDA code), or confident or not (pixel)."""
    quality_threshold: float = 0.968
    """tau' of the quality weight, 0..1."""
    confidence: Confidence = "bits"
    """Confidence of a pixel: bits, the mean of its bits' (the paper), or class, the probability of
    its class as in `class_probabilities`, which means the same as one-hot's."""
    distance_weight: float = 5.0
    """lambda1, 0 or more."""
    contrast_weight: float = 2.0
    """lambda2, 0 or more."""
    temperature: Temperature = 0.5
    """tau of the contrast, above 0; auto: `auto_temperature` of the codebook."""
    denominator: Denominator = "paper"
    """Denominator of the contrast, as in `ECOCLoss`."""

    def __post_init__(self) -> None:
        if self.codebook not in BUILDERS:
            raise ConfigError(f"codebook: got {self.codebook!r}, allowed {', '.join(BUILDERS)}")
        if self.length < 1:
            raise ConfigError(f"length: got {self.length}, allowed 1 or more; the paper has 40")
        if self.labels not in get_args(Labels):
            raise ConfigError(f"labels: got {self.labels!r}, allowed {', '.join(get_args(Labels))}")
        if self.confidence not in get_args(Confidence):
            raise ConfigError(
                f"confidence: got {self.confidence!r}, allowed {', '.join(get_args(Confidence))}"
            )
        check_mining(self.threshold, self.max_candidates)
        check_quality_fields(self.quality, self.quality_threshold)
        check_loss(self.distance_weight, self.contrast_weight, self.temperature, self.denominator)


class ECOCEncoding(Encoding):
    """A channel per bit of the codebook."""

    def __init__(self, config: ECOCConfig, class_names: Sequence[str]) -> None:
        book = _codebook(config, class_names)
        super().__init__(
            channels=book.length,
            num_classes=book.num_classes,
            quality=config.quality,
            quality_threshold=config.quality_threshold,
        )
        self.config = config
        self.book = book
        self._loss = ECOCLoss(
            book,
            config.distance_weight,
            config.contrast_weight,
            config.temperature,
            config.denominator,
        )
        self.temperature = self._loss.temperature
        """tau of the contrast as a number."""
        # Above it no pixel could be sure of its class.
        self._class_temperature = min(self.temperature, auto_temperature(book))

    def loss(self, logits: Tensor, targets: Tensor, weight: Tensor | None = None) -> Terms:
        """`ECOCLoss`; parts: bce, distance, contrast."""
        total, *parts = self._loss(logits, targets, weight)
        return Terms(
            total=total, parts=dict(zip(("bce", "distance", "contrast"), parts, strict=True))
        )

    def encode(self, labels: Tensor) -> Tensor:
        """Codewords, bool [B,K,H,W]; an ignored pixel gets the codeword of class 0."""
        return code_bits(labels.masked_fill(labels == IGNORE, 0), self.book)

    def decode(self, logits: Tensor) -> Tensor:
        """Class of the nearest codeword."""
        return decode(logits, self.book)

    def class_scores(self, logits: Tensor) -> Tensor:
        """Minus the soft Hamming distance, as a share of the K bits."""
        return soft_hamming_distance(logits, self.book).div(-self.book.length)

    def class_probabilities(self, logits: Tensor) -> Tensor:
        """Probability of each class [B,N,H,W], as the contrast is trained to give it.

        At tau, or at `auto_temperature` where that is smaller: above it no pixel could be sure.
        """
        return class_probabilities(logits, self.book, self._class_temperature)

    def confidence(self, logits: Tensor) -> Tensor:
        """Mean over the K bits of max(p, 1 - p), or the probability of the nearest class."""
        kind = "classes" if self.config.confidence == "class" else "mean_bits"
        return self.confidences(logits)[kind]

    def confidences(self, logits: Tensor) -> Mapping[str, Tensor]:
        """classes: the probability of the nearest class; mean_bits: mean over K of max(p, 1 - p).

        Which of the two `confidence` is, the configuration says.
        """
        ones = self.bit_probabilities(logits)
        return {
            "classes": self.label_confidence(logits, self.decode(logits)),
            "mean_bits": torch.maximum(ones, 1 - ones).mean(1),
        }

    def label_confidence(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Probability of the label's class: single bits tell similar classes hardly apart."""
        return self.class_probabilities(logits).gather(1, labels[:, None])[:, 0]

    def logits_of(self, probabilities: Tensor) -> Tensor:
        """Log odds; of 0 and 1 those of the nearest numbers that have any."""
        # So close to 1 that nothing between is a number: float32 has more room near 0.
        least = torch.finfo(probabilities.dtype).eps / 2
        return torch.logit(probabilities, eps=least)

    def pack(self, targets: Tensor) -> Tensor:
        """Eight bits to a plane, the first one in the lowest place."""
        planes = []
        for first in range(0, self.channels, 8):
            part = targets[:, first : first + 8].to(torch.uint8)
            places = torch.arange(part.shape[1], dtype=torch.uint8, device=part.device)
            planes.append((part << places[:, None, None]).sum(1, dtype=torch.uint8))
        return torch.stack(planes, dim=1)

    def unpack(self, planes: Tensor) -> Tensor:
        """The bits, bool [B,K,H,W]."""
        places = torch.arange(8, dtype=torch.uint8, device=planes.device)[:, None, None]
        bits = (planes[:, :, None] >> places) & 1
        return bits.flatten(1, 2)[:, : self.channels].bool()

    def bit_probabilities(self, logits: Tensor) -> Tensor:
        """Sigmoid of the logits."""
        return torch.sigmoid(logits.to(compute_dtype(logits)))

    def bit_targets(self, labels: Tensor) -> Tensor:
        """Codewords."""
        return self.encode(labels)

    def label_diagnostics(self, logits: Tensor, labels: Tensor) -> Mapping[str, Tensor]:
        """`label_statistics`, for the configured T and for those of the sweep."""
        config = self.config
        return label_statistics(logits, labels, self.book, config.threshold, config.max_candidates)

    @torch.no_grad()
    def label_maps(self, logits: Tensor) -> Mapping[str, Tensor]:
        """Size of the candidate set, and bits on which code-wise and bit-wise labels differ."""
        config = self.config
        mined = mine_reliable_bits(logits, self.book, config.threshold, config.max_candidates)
        differ = code_bits(mined.labels, self.book) ^ (logits >= 0)
        return {"candidates": mined.candidates, "differing bits": differ.sum(1)}

    def facts(self) -> Mapping[str, Any]:
        """The codebook's rows as texts of 0 and 1, the T of the sweep, and tau."""
        rows = ["".join("1" if bit else "0" for bit in row) for row in self.book.bits.tolist()]
        return {
            "codebook": rows,
            "thresholds": list(THRESHOLDS),
            "temperature": self.temperature,
        }

    @torch.no_grad()
    def pseudo_label(self, logits: Tensor, valid: Tensor | None = None) -> PseudoLabel:
        """Hybrid labels (or code-wise, or bit-wise ones) and how sure they are.

        Statistics: confidence, quality, mask_share (mean of M), candidates (mean), difference
        (bits per pixel on which code-wise and bit-wise labels differ), correction (those in M).
        """
        config = self.config
        found = denoise(logits, self.book, config.threshold, config.max_candidates)
        if config.labels == "hybrid":
            targets = found.bits
        else:
            targets = logits >= 0 if config.labels == "bit" else code_bits(found.labels, self.book)
        confidence = found.confidence
        if config.confidence == "class":
            confidence = self.label_confidence(logits, found.labels)
        quality = self.pixel_quality(confidence, valid)
        pixels = max(found.labels.numel(), 1)
        difference, correction, masked = (found.counts / pixels).unbind()
        statistics = {
            "confidence": confidence.mean(),
            "quality": quality.mean(),
            "mask_share": masked / self.book.length,
            "candidates": found.candidates.sum() / pixels,
            "difference": difference,
            "correction": correction,
        }
        return PseudoLabel(
            targets=targets,
            labels=found.labels,
            confidence=confidence,
            quality=quality,
            statistics=statistics,
        )


def _codebook(config: ECOCConfig, class_names: Sequence[str]) -> Codebook:
    if config.codebook_path is None:
        return Codebook.build(
            config.codebook,
            class_names=class_names,
            length=config.length,
            seed=config.codebook_seed,
            embeddings=config.embeddings,
        )
    book = Codebook.load(config.codebook_path)
    if book.num_classes != len(class_names) or (
        book.class_names is not None and book.class_names != tuple(class_names)
    ):
        raise ConfigError(
            f"codebook_path: got {config.codebook_path}, a codebook of {book.num_classes} classes "
            f"{list(book.class_names or ())}, but the data set has {len(class_names)} classes "
            f"{list(class_names)}; build one for these names in this order"
        )
    return book
