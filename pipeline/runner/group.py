"""A run in several processes: the first one is the run as always, the others train with it.

Lock, status, checkpoints, tracking and record are the first one's. The others get from it where
the run stands, so that they need not see its files.
"""

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch

from ecocseg.engine.distributed import Group
from ecocseg.engine.events import Diverged
from pipeline.config.run_spec import RunSpec
from pipeline.machine.environment import pick_device
from pipeline.runner.build import Prepared
from pipeline.runner.exhausted import out_of_memory_explained


def device_of(settings: Mapping[str, Any], group: Group) -> torch.device:
    """Where this process computes; raises UserError when there is no such device."""
    return pick_device(settings["device"]) if group.size == 1 else group.device


def begin(group: Group, state: Mapping[str, Any] | None) -> None:
    """Let the others begin from the trainer's `state`, or from the start."""
    group.broadcast({"trainer": state})


def call_off(group: Group) -> None:
    """Tell the others that there is nothing to do."""
    nothing: dict[str, Any] | None = None
    group.broadcast(nothing)


def follow(row: Mapping[str, Any], settings: Mapping[str, Any], folder: Path, group: Group) -> None:
    """Train as one of the others, with `folder` for what stages leave to each other."""
    spec = RunSpec.from_dict(row["spec"])
    device = device_of(settings, group)
    with out_of_memory_explained(spec, device):
        run = Prepared(spec, Path(settings["data_root"]), device)
        trainer = run.trainer(folder)
        nothing: dict[str, Any] | None = None
        told = group.broadcast(nothing)
        if told is None:
            return
        if told["trainer"] is not None:
            trainer.restore(told["trainer"])
        if trainer.step < trainer.config.steps:
            # All find at once that the run diverged; the first one keeps the batch and says it.
            with suppress(Diverged):
                for _ in run.events(trainer):
                    pass


@contextmanager
def scratch(results: Path, group: Group) -> Iterator[Path]:
    """A folder that is gone afterwards; one for all processes, where they all see `results`."""
    if group.size == 1:
        with tempfile.TemporaryDirectory() as name:
            yield Path(name)
        return
    if group.first:
        results.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=results, prefix=".smoke_") as name:
            yield Path(group.broadcast(name))
            group.broadcast("")
    else:
        yield Path(group.broadcast(""))
        group.broadcast("")
