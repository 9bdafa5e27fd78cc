"""What decides the memory and the operations of a training step, as a text to look up."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

from ecocseg.codes.codebook import Codebook
from ecocseg.engine.schedule import FitConfig
from ecocseg.models.config import ModelConfig

SIZELESS = frozenset(
    {
        "threshold", "quality_threshold", "distance_weight", "contrast_weight", "temperature",
        "unlabelled_weight", "strong_weight", "feature_weight", "mask_weight", "ohem_threshold",
        "rare_class_temperature", "rare_class_min_crop_ratio", "reliable_share",
    }
)  # fmt: skip
"""Options of encodings and methods that weigh numbers: above 0 they change no size, so that a grid
over them needs one estimate."""


def recipe_text(
    model: ModelConfig,
    encoding: Mapping[str, Any],
    method: Mapping[str, Any],
    sizes: Mapping[str, Any],
    class_names: Sequence[str],
    labelled_crop: tuple[int, int],
    unlabelled_crop: tuple[int, int] | None,
) -> str:
    """All that a step's estimate depends on, as JSON; `sizes` are those of `step_sizes`."""
    values = {
        "model": asdict(replace(model, weights="none", weights_sha256=None)),
        "encoding": _sizing(_without_file(encoding)),
        "method": _sizing(method),
        "sizes": dict(sizes),
        "names": list(class_names),
        "crops": [list(labelled_crop), list(unlabelled_crop or labelled_crop)],
    }
    return json.dumps(values, sort_keys=True, default=list)


def _sizing(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options with one value for all that decide nothing here."""
    return {
        name: _sizing(value)
        if isinstance(value, Mapping)
        else 0.5
        if name in SIZELESS and isinstance(value, int | float) and value > 0
        else value
        for name, value in options.items()
    }


def step_sizes(schedule: FitConfig) -> dict[str, Any]:
    """What of a schedule decides how much memory a step takes: one part of the batch of one GPU."""
    parts = schedule.gpus * schedule.micro_batches
    return {
        "labelled_batch": -(-schedule.labelled_batch // parts),
        "unlabelled_batch": -(-schedule.unlabelled_batch // parts),
        "bf16": schedule.precision == "bf16",
        "recompute": schedule.activation_checkpointing,
        "moments": 2 if schedule.optim.name == "adamw" else int(schedule.optim.momentum > 0),
    }


def _without_file(encoding: Mapping[str, Any]) -> dict[str, Any]:
    """The encoding with the length of its codebook file: another one may get the file's name."""
    options = dict(encoding)
    if options.get("codebook_path") is not None:
        options["length"] = Codebook.load(options.pop("codebook_path")).length
    return options
