"""Checkpoints: complete or absent, and read without executing anything."""

import os
import pickle
from pathlib import Path
from typing import Any

import torch

from ecocseg.errors import DataError
from ecocseg.files import atomic_path

# What torch.load raises on files that were cut off or overwritten.
_DAMAGE = (RuntimeError, OSError, EOFError, pickle.UnpicklingError, ValueError, LookupError)


def save(path: Path, state: dict[str, Any]) -> None:
    """Write `state` (tensors, numbers, texts, lists, dicts) to `path` atomically."""
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        torch.save(state, file)
        # The old checkpoint goes away with the renaming: the new one has to be on the disk by then.
        file.flush()
        os.fsync(file.fileno())


def load(path: Path, device: torch.device | str = "cpu") -> dict[str, Any]:
    """Read a checkpoint; raises DataError when the file is damaged."""
    try:
        state: dict[str, Any] = torch.load(path, map_location=device, weights_only=True)
    except _DAMAGE as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise DataError(
            f"{path}: the checkpoint cannot be read ({reason}); remove it and start the same "
            "command again: the run begins anew"
        ) from error
    return state
