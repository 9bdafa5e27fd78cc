"""Labelled and unlabelled parts of a split for semi-supervised learning."""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import torch

from ecocseg.config import require
from ecocseg.engine.seed import generator
from ecocseg.errors import ConfigError, DataError


@dataclass(frozen=True, kw_only=True)
class PartitionConfig:
    """The labelled share of a split: a fraction drawn by seed, a published list or your own."""

    fraction: str = "1"
    """Share of labelled images, as a fraction such as "1/8"; "1" labels all of them."""
    seed: int = 0
    """Seed of the draw; the same for every run of an experiment, so that runs compare."""
    published: str | None = None
    """Name of a list among the `partitions` of the data set's YAML, instead of a fraction."""
    list_file: str | None = None
    """File with one labelled image a line (key, or a path whose stem is the key)."""

    def __post_init__(self) -> None:
        if self.published is not None and self.list_file is not None:
            raise ConfigError("published and list_file exclude each other: leave one of them null")
        try:
            share = Fraction(self.fraction)
        except (ValueError, ZeroDivisionError):
            share = Fraction(0)
        require(0 < share <= 1, "fraction", self.fraction, 'a fraction above 0 up to 1, as "1/8"')


def split_keys(
    keys: Sequence[str], config: PartitionConfig, published: Sequence[str] | None = None
) -> tuple[list[str], list[str]]:
    """Labelled and unlabelled keys, both in the order of `keys`.

    `published` holds the keys of the list that `config.published` names. Raises DataError when a
    list file is absent or names an image that is not in `keys`, ConfigError when the fraction
    labels no image.
    """
    if config.published is not None:
        chosen = set(published or ())
    elif config.list_file is not None:
        chosen = _from_list(keys, Path(config.list_file))
    else:
        count = round(len(keys) * Fraction(config.fraction))
        if count == 0:
            raise ConfigError(
                f"partition.fraction: {config.fraction} of {len(keys)} images is less than one; "
                "take a larger fraction"
            )
        ranked = sorted(keys)
        order = torch.randperm(len(ranked), generator=generator(config.seed, "partition")).tolist()
        chosen = {ranked[i] for i in order[:count]}
    return [k for k in keys if k in chosen], [k for k in keys if k not in chosen]


def _from_list(keys: Sequence[str], path: Path) -> set[str]:
    if not path.is_file():
        raise DataError(
            f"{path}: the list of labelled images is not there; run the fetch stage, or give the "
            "path of your own list in partition.list_file"
        )
    known = set(keys)
    chosen, strange = set(), []
    for line in path.read_text().splitlines():
        if not line.strip():
            continue
        first = line.split()[0]
        name = Path(first).stem
        spellings = (line.strip(), first, name, name.removesuffix("_leftImg8bit"))
        key = next((k for k in spellings if k in known), None)
        if key is None:
            strange.append(line.strip())
        else:
            chosen.add(key)
    if strange or not chosen:
        raise DataError(
            f"{path}: {len(strange)} of its lines name no image of the split, the first is "
            f"{strange[0] if strange else '(none: the file is empty)'!r}; one image a line, by "
            "file name or key"
        )
    return chosen
