"""What a run costs: multiply-accumulates, GPU hours, GPU memory; derived, without a GPU."""

import logging
from dataclasses import replace
from typing import Any

from ecocseg.engine.memory import CONTEXT, MemoryEstimate, Pass, training_memory, training_passes
from ecocseg.errors import ConfigError, UserError
from ecocseg.models.config import ModelConfig
from pipeline.config.run_spec import Components

TERA = 1e12
# The paper's Table 15: DAFormer one-hot, 40,000 steps in 13.7 h on an RTX 3090. A step is 8 passes
# (source and mixed images forward and backward 3 each, teacher and ImageNet features 1 each) over
# 2 images at 0.11664 x 10^12 multiply-accumulates.
TERA_MACS_PER_HOUR = 40_000 * 8 * 2 * 0.11664 / 13.7
LIMIT_GB = 24
"""Of the GPU that the recipes are meant for, an RTX 3090."""
POOLED = ("deeplabv3", "deeplabv3plus", "deeplabv3plus_dense", "pan", "pspnet_siamese")
"""Decoders with batch statistics over one value an image."""
SAVERS = {
    "schedule.activation_checkpointing=true": "the same numbers, about a third slower",
    "schedule.precision=bf16": "not paper-exact",
    "schedule.micro_batches=2": "not paper-exact",
}
"""Settings that lower the memory, and what they cost."""

_log = logging.getLogger(__name__)


def run_cost(components: Components, config: Any) -> float:
    """10^12 multiply-accumulates of all training passes of a run, by `network_cost`'s rule.

    A pass forward and backward counts 3, one without gradient 1.
    """
    passes = training_passes(**_settings(components, config))
    step = sum((3 if each.gradient else 1) * _macs(components.model, each) for each in passes)
    return components.schedule.steps * step / TERA


def check_batches(components: Components, config: Any) -> None:
    """Raise ConfigError when the network would train on one image and has no statistics of it.

    GPUs share their batch statistics: what counts is a step's part of the whole batch.
    """
    schedule, decoder = components.schedule, components.model.decoder
    parts = {
        name: getattr(schedule, name) // schedule.micro_batches
        for name in ("labelled_batch", "unlabelled_batch")
    }
    if decoder not in POOLED or 1 not in parts.values():
        return
    whole = replace(schedule, gpus=1)
    settings = _settings(replace(components, schedule=whole), config)
    # Micro-batches are passes like any other: here they are what the batch is.
    settings["schedule"] = replace(whole, micro_batches=1, **parts)
    if any(each.gradient and each.images[0] == 1 for each in training_passes(**settings)):
        single = [name for name, size in parts.items() if size == 1]
        raise ConfigError(
            f"schedule.{single[0]}: got {getattr(schedule, single[0])} with schedule.micro_batches "
            f"{schedule.micro_batches}, so that a pass has one image; model.decoder {decoder!r} "
            "pools each image to one value, and batch statistics want two: make the batch larger, "
            "micro_batches smaller, or take another decoder"
        )


def run_memory(components: Components, config: Any) -> MemoryEstimate | None:
    """GPU memory of a run; None when it cannot be derived."""
    try:
        return training_memory(**_settings(components, config))
    except UserError:
        raise
    # A method of one's own may do what no tensor without values can.
    except Exception as error:
        _log.warning("no memory figure for %s: %s", config["method"]["name"], error)
        return None


def card_gb(estimate: MemoryEstimate) -> float:
    """What the card must have for it in GB (10^9 bytes), CUDA's own share included."""
    return (estimate.total + CONTEXT) / 1e9


def class_names(components: Components) -> tuple[str, ...]:
    """Classes of the evaluated data set, as its YAML declares them."""
    from pipeline.config.datasets import load_dataset

    return tuple(load_dataset(components.benchmark.evaluated.dataset).table.names)


def _settings(components: Components, config: Any) -> dict[str, Any]:
    benchmark = components.benchmark
    return {
        "model": components.model,
        "encoding": config["encoding"],
        "method": config["method"],
        "schedule": components.schedule,
        "class_names": class_names(components),
        "labelled_crop": benchmark.labelled_transform.crop,
        "unlabelled_crop": benchmark.unlabelled_transform and benchmark.unlabelled_transform.crop,
    }


def _macs(model: ModelConfig, each: Pass) -> float:
    """Multiply-accumulates of a pass forward."""
    if model.decoder != "hrda" or each.call == "outputs":
        return each.macs
    # What is learnt from has the context and one detail crop, a prediction every detail window.
    from ecocseg.models.hrda import SCALE, window_places

    _, height, width = each.images
    crop = model.hr_crop or (512, 512)
    windows = len(window_places(max(height, crop[0]), max(width, crop[1]), crop))
    context, window = height * width / SCALE**2, crop[0] * crop[1]
    details = 0 if each.call == "features" else windows
    return each.macs * (context + details * window) / (context + window)
