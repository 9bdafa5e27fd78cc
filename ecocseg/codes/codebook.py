"""A codebook gives each class a codeword of K bits (Sec. 3.2; distances: Alg. 2, App. B)."""

import json
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ecocseg.errors import ConfigError, DataError
from ecocseg.files import atomic_write

_SCHEMA = 1


class Codebook:
    """N codewords of K bits, all different.

    `bits`: [N,K] of 0/1 (tensor, array or nested lists); `class_names`: N different names, or None.
    Raises ConfigError (a ValueError) when the shape is not [N,K] with N >= 2 and K >= 1, when a
    value is neither 0 nor 1, when two rows are equal, or when the names do not fit.
    """

    def __init__(self, bits: Any, class_names: Sequence[str] | None = None) -> None:
        table = torch.as_tensor(bits).detach().cpu()
        if table.ndim != 2 or table.shape[0] < 2 or table.shape[1] < 1:
            raise ConfigError(
                f"bits: got shape {tuple(table.shape)}, allowed [N,K] with N >= 2 classes and "
                "K >= 1 bits; give one row of bits per class"
            )
        if not bool(((table == 0) | (table == 1)).all()):
            raise ConfigError("bits: got values other than 0 and 1; give 0/1 or booleans")
        # Out of inference mode, whose tensors no later training could use.
        with torch.inference_mode(False):
            self.bits: Tensor = (table == 1).clone()
            """Codewords, bool [N,K], on the CPU."""
            self.signed: Tensor = self.bits.float() * 2 - 1
            """Codewords as -1/+1, float32 [N,K], on the CPU."""
        self.class_names: tuple[str, ...] | None = None
        """Name of each row, or None."""
        # Made here and not on first use, which torch.compile could not look into.
        self.words: tuple[int, ...] = _words(self.bits) if self.length <= 64 else ()
        """Codewords as signed integers of 64 bits, bit k being bit k; empty where K exceeds 64."""
        self._placed: dict[tuple[torch.device, torch.dtype], Tensor] = {}
        self._check_rows()
        if class_names is not None:
            self.class_names = self._checked_names(class_names)

    def _check_rows(self) -> None:
        equal = (self.row_distances == 0).triu(1).nonzero()
        if len(equal):
            first, second = equal[0].tolist()
            raise ConfigError(
                f"bits: rows {first} and {second} are equal ({len(equal)} such pairs), but each "
                "class needs a codeword of its own; change a row or use more bits"
            )

    def _checked_names(self, class_names: Sequence[str]) -> tuple[str, ...]:
        names = tuple(str(name) for name in class_names)
        if len(names) != self.num_classes or len(set(names)) != len(names):
            raise ConfigError(
                f"class_names: got {len(names)} names ({len(set(names))} different ones), allowed "
                f"{self.num_classes} different ones; give one per row of bits"
            )
        return names

    @classmethod
    def build(
        cls,
        builder: str,
        *,
        class_names: Sequence[str] | None = None,
        num_classes: int | None = None,
        length: int = 40,
        seed: int = 0,
        embeddings: str | Path | None = None,
        draws: int = 100_000,
    ) -> "Codebook":
        """Make a codebook (App. B, C, E; `optimised` and the like are ours, Theorem 4.2).

        `builder`: "text" (Alg. 3), "mmd" (max-min distance, Alg. 2), "hadamard" (from Hadamard
        matrices), "optimised" (the best of these and a local search: largest d_min_r), "text-
        optimised" (a large d_min_r, and distances that follow the meaning of the names),
        "exhaustive" (Dietterich & Bakiri 1995: every column there is, 2^(N-1) - 1, for up to 10
        classes; of fewer bits the best of them, of more repeated in turn), "one-hot".
        `class_names`: N names; all but the text builders also accept `num_classes` alone.
        `length`: K bits (one-hot always has N). `seed`: of the builders that draw or search.
        `embeddings`: for the text builders, a word2vec or GloVe file instead of the table that
        comes with the package (MiniLM; the paper has word2vec, its released code CLIP). `draws`:
        random matrices that "mmd" looks at. Rows are distinct and
        no two columns equal or opposite; a one-hot code of two classes is the exception, and an
        exhaustive one with more than all columns. Raises ConfigError for an unknown builder, a
        length that allows no valid code, or names without embedding.
        """
        from ecocseg.codes.build import build_bits

        bits = build_bits(
            builder,
            class_names=class_names,
            num_classes=num_classes,
            length=length,
            seed=seed,
            embeddings=embeddings,
            draws=draws,
        )
        return cls(bits, class_names)

    @property
    def num_classes(self) -> int:
        """N."""
        return self.bits.shape[0]

    @property
    def length(self) -> int:
        """K, bits per codeword."""
        return self.bits.shape[1]

    @cached_property
    def row_distances(self) -> Tensor:
        """Hamming distance of every pair of codewords, int64 [N,N]."""
        return ((self.length - self.signed @ self.signed.T) / 2).long()

    @cached_property
    def column_distances(self) -> Tensor:
        """Hamming distance of every pair of columns (classifiers), int64 [K,K]."""
        return ((self.num_classes - self.signed.T @ self.signed) / 2).long()

    @property
    def min_row_distance(self) -> int:
        """d_min_r: the smallest distance of two codewords."""
        return int(_pairs(self.row_distances).min())

    @property
    def min_column_distance(self) -> int:
        """d_min_c: the smallest distance of two columns; N when there is only one column."""
        return int(_pairs(self.column_distances).min()) if self.length > 1 else self.num_classes

    @property
    def max_column_distance(self) -> int:
        """d_max_c: the largest distance of two columns; 0 when there is only one column."""
        return int(_pairs(self.column_distances).max()) if self.length > 1 else 0

    def place(self, device: torch.device, dtype: torch.dtype) -> Tensor:
        """Signed codewords [N,K] on a device; kept, so that training copies them there once."""
        key = (device, dtype)
        if key in self._placed:
            return self._placed[key]
        with torch.inference_mode(False):
            placed = self.signed.to(device=device, dtype=dtype)
        # What torch.export and the like trace with is no tensor to compute with later.
        if type(placed) is Tensor:
            self._placed[key] = placed
        return placed

    def save(self, path: str | Path) -> None:
        """Write the codebook as JSON: schema, class names, one string of 0 and 1 per class."""
        rows = ["".join("1" if bit else "0" for bit in row) for row in self.bits.tolist()]
        content = {"schema": _SCHEMA, "class_names": self.class_names, "bits": rows}
        atomic_write(Path(path), json.dumps(content, indent=1) + "\n")

    @classmethod
    def load(cls, path: str | Path) -> "Codebook":
        """Read what `save` wrote; DataError when the file is absent or is no codebook."""
        remedy = "give a file written by Codebook.save"
        try:
            content = json.loads(Path(path).read_text(encoding="utf-8"))
            if content["schema"] != _SCHEMA:
                raise ValueError(f"schema {content['schema']!r}, known is {_SCHEMA}")
            rows = [[{"0": 0, "1": 1}[bit] for bit in row] for row in content["bits"]]
            return cls(rows, content["class_names"])
        except OSError as error:
            raise DataError(f"{path}: cannot be read ({error.strerror}); {remedy}") from error
        except KeyError as error:
            raise DataError(f"{path}: no codebook (at {error}); {remedy}") from error
        except (ValueError, TypeError) as error:
            raise DataError(f"{path}: no codebook ({error}); {remedy}") from error

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_placed": {}}

    def __repr__(self) -> str:
        return (
            f"Codebook({self.num_classes} classes, {self.length} bits, "
            f"min_row_distance={self.min_row_distance}, "
            f"columns {self.min_column_distance}..{self.max_column_distance})"
        )


def _words(bits: Tensor) -> tuple[int, ...]:
    whole = (sum(bit << k for k, bit in enumerate(row)) for row in bits.tolist())
    return tuple(word - (word >> 63 << 64) for word in whole)


def _pairs(distances: Tensor) -> Tensor:
    size = len(distances)
    first, second = torch.triu_indices(size, size, offset=1)
    return distances[first, second]
