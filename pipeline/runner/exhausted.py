"""Memory of a GPU and room on a disk that ran out, told as what it is and what helps."""

import math
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import torch

from ecocseg.engine.schedule import FitConfig
from ecocseg.errors import DiskFull, UserError
from ecocseg.files import disk_full
from pipeline.config.run_spec import RunSpec, validate
from pipeline.machine.environment import memory_holders
from pipeline.planning.cost import SAVERS, card_gb, run_memory

_SIGNS = ("CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED", "CUDA error: out of memory")


class OutOfMemory(UserError):
    """The GPU has too little memory for a run; to try again without a change does not help."""

    kind = "out of memory"


@contextmanager
def out_of_memory_explained(spec: RunSpec, device: torch.device) -> Iterator[None]:
    """Turn CUDA's out of memory inside the block into an `OutOfMemory` that says what helps."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise OutOfMemory(_explanation(spec, device, error)) from error
    except RuntimeError as error:
        if not any(sign in str(error) for sign in _SIGNS):
            raise
        raise OutOfMemory(_explanation(spec, device, error)) from error


@contextmanager
def full_disk_explained(folder: Path) -> Iterator[None]:
    """Turn the refusal of a full disk inside the block into a DiskFull that names `folder`."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        if (cause := disk_full(error)) is None:
            raise
        raise DiskFull(
            f"{folder}: the disk is full, or a quota is reached ({cause}); free some space and "
            "start the same command again: the run goes on from its last checkpoint"
        ) from error


def _explanation(spec: RunSpec, device: torch.device, error: Exception) -> str:
    components = validate(spec.config)
    # Whatever the recipe is meant for, this process had the whole batch.
    alone = replace(components, schedule=replace(components.schedule, gpus=1))
    text = f"the GPU ran out of memory ({str(error).splitlines()[0].partition('. ')[0]})"
    with suppress(Exception):
        if (estimate := run_memory(alone, spec.config)) is not None:
            text += f"; the run needs about {card_gb(estimate):.1f} GB"
    if device.type == "cuda":
        with suppress(RuntimeError, AssertionError):
            total = torch.cuda.get_device_properties(device).total_memory
            text += f", {torch.cuda.get_device_name(device)} has {total / 1e9:.1f} GB"
    if holders := memory_holders(device):
        text += f"; others hold memory of it: {', '.join(holders)}"
    return f"{text}. These lower it: {savers(components.schedule)}"


def savers(schedule: FitConfig) -> str:
    """Settings that would lower the memory of a schedule, each with what it costs."""
    # They must divide both batches.
    common = math.gcd(schedule.labelled_batch, schedule.unlabelled_batch)
    finer = range(schedule.micro_batches + 1, common + 1)
    parts = next((parts for parts in finer if common % parts == 0), None)
    used = {
        "schedule.activation_checkpointing": schedule.activation_checkpointing,
        "schedule.precision": schedule.precision == "bf16",
        "schedule.micro_batches": parts is None,
    }
    more = {"schedule.micro_batches=2": f"schedule.micro_batches={parts}"}
    left = [
        (more.get(name, name), cost)
        for name, cost in SAVERS.items()
        if not used[name.partition("=")[0]]
    ]
    if not left:
        return "a smaller crop or batch (not paper-exact)"
    return ", ".join(f"{name} ({cost})" for name, cost in left)
