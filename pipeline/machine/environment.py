"""Where results come from: code revision, versions, machine."""

import os
import platform
import re
import resource
from importlib.metadata import version
from typing import Any

import torch

from ecocseg.engine.distributed import current_group
from ecocseg.errors import UserError
from pipeline.machine.cards import holders_of

_PACKAGES = ("torch", "torchvision", "segmentation-models-pytorch", "timm", "ray", "mlflow")


def describe(device: torch.device, git: str) -> dict[str, Any]:
    """The `environment` of a record."""
    processes = current_group().size
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor()
    return {
        "git": git,
        "versions": {"python": platform.python_version()} | {p: version(p) for p in _PACKAGES},
        "host": platform.node(),
        "device": str(device),
        "device_name": name or platform.machine(),
        "threads": torch.get_num_threads(),
        "processes": processes,
        "gpus": processes if device.type == "cuda" else 0,
    }


def peak_memory_mb(device: torch.device) -> float:
    """Largest memory so far in MB: of the GPU's allocator, or of this process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e6
    # Linux counts in KiB.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6


def used_memory(device: torch.device) -> dict[str, Any]:
    """Peak memory in MB of 10^6 bytes: what PyTorch had allocated and reserved, what the GPU has.

    On a CPU allocated is the process's, and the others are None.
    """
    found = {"device": str(device), "allocated_mb": peak_memory_mb(device)}
    if device.type != "cuda":
        return found | {"reserved_mb": None, "device_mb": None}
    total = torch.cuda.get_device_properties(device).total_memory
    reserved = torch.cuda.max_memory_reserved(device)
    return found | {"reserved_mb": reserved / 1e6, "device_mb": total / 1e6}


def memory_holders(device: torch.device) -> list[str]:
    """Other processes that hold memory of a GPU, in words; empty where nobody can say."""
    try:
        uuid = str(torch.cuda.get_device_properties(device).uuid)
    # No GPU of that kind.
    except (RuntimeError, AssertionError, AttributeError):
        return []
    return [text for pid, text in holders_of(uuid).items() if pid != os.getpid()]


def pick_device(name: str) -> torch.device:
    """The device that `name` asks for: auto, cpu, cuda or cuda:N.

    Raises UserError when it is not there.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if not re.fullmatch(r"cpu|cuda(:\d+)?", name):
        raise UserError(f"device: got {name!r}, allowed are auto, cpu, cuda or cuda:N")
    device = torch.device(name)
    if device.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if (device.index or 0) >= count:
            raise UserError(
                f"device: got {name!r}, but torch sees {count} GPU"
                f"{'' if count == 1 else 's'} here; take auto or cpu, or mend the driver "
                "(`nvidia-smi` must list the card)"
            )
    return device
