"""Schedules in epochs become schedules in steps, from the published number of images.

Not from the prepared data: a plan without data has the same runs, and an image that is missing
somewhere does not change the length of a run. Preparation says when the numbers differ.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from ecocseg.config import from_mapping
from ecocseg.data.benchmark import SourceConfig, expected_images
from ecocseg.data.config import DatasetConfig
from ecocseg.errors import ConfigError
from ecocseg.methods import build_method
from pipeline.config.compose import load_yaml

_EPOCHS = "schedule.epochs"


def with_steps(config: Mapping[str, Any], overrides: Sequence[str] = ()) -> dict[str, Any]:
    """The components with `schedule.steps`, where only `schedule.epochs` was given.

    Steps that are given win over epochs of a schedule's file. Raises ConfigError when neither is
    given, when the last of both among `overrides` are epochs that the steps would hide, and when a
    data set does not say how many images it has.
    """
    schedule = dict(config["schedule"])
    if schedule["steps"] is not None:
        typed = [o for o in overrides if o.partition("=")[0] in ("schedule.steps", _EPOCHS)]
        if typed and typed[-1].startswith(_EPOCHS) and schedule["epochs"] is not None:
            raise ConfigError(
                f"{_EPOCHS}: got {schedule['epochs']}, but the schedule counts steps and has "
                f"{schedule['steps']} of them, so that no epochs would be looked at; add "
                "schedule.steps=null behind it, or give schedule.steps instead"
            )
        schedule["epochs"] = None
        return {**config, "schedule": schedule}
    epochs = schedule["epochs"]
    if isinstance(epochs, bool) or not isinstance(epochs, int) or epochs < 1:
        raise ConfigError(
            f"schedule.epochs: got {epochs!r} with schedule.steps null; give one of them, 1 or more"
        )
    options = dict(config["method"])
    method = build_method(options.pop("name"), options)
    images: dict[str, int] = {}
    batches: dict[str, int] = {}
    for name in ("labelled", "unlabelled"):
        if name not in method.streams:
            continue
        if config["benchmark"].get(name) is None:
            raise ConfigError(
                f"benchmark.{name}: the method {method.name!r} reads {name} images and benchmark "
                f"{config['benchmark']['name']!r} has none; name some"
            )
        images[name] = _images(config["benchmark"][name], f"benchmark.{name}")
        size = schedule[f"{name}_batch"]
        if isinstance(size, bool) or not isinstance(size, int) or size < 1:
            raise ConfigError(
                f"schedule.{name}_batch: got {size!r}, allowed is 1 or more: the method "
                f"{method.name!r} reads {name} images"
            )
        batches[name] = size
    schedule["steps"] = steps = epochs * int(method.epoch(images, batches))
    if steps < 1:
        raise ConfigError(
            f"schedule: an epoch over {images} images has no full batch of {batches}; make the "
            "batches smaller, or give schedule.steps"
        )
    return {**config, "schedule": schedule}


def _images(values: Mapping[str, Any], where: str) -> int:
    """Published number of images of a source."""
    source = from_mapping(SourceConfig, values, where)
    dataset = DatasetConfig.from_mapping(load_yaml("dataset", source.dataset))
    count = expected_images(source, dataset)
    if count is None and source.partition.list_file is not None and source.part != "all":
        raise ConfigError(
            f"schedule.epochs: how many images {where} has is not published for a list of your "
            "own; give schedule.steps instead"
        )
    if count is None:
        raise ConfigError(
            f"schedule.epochs: pipeline/conf/dataset/{source.dataset}.yaml does not say how many "
            f"images {where} has; add `images: {{{source.split}: ...}}` there (and `images` to a "
            "published partition), or give schedule.steps"
        )
    return count
