"""Checkpoints: complete or absent, and read without executing anything."""

import pickle
from pathlib import Path
from typing import Any

import torch

from ecocseg.errors import DataError
from ecocseg.files import atomic_path


def save(path: Path, state: dict[str, Any]) -> None:
    """Write `state` (tensors, numbers, texts, lists, dicts) to `path` atomically."""
    with atomic_path(path) as temporary:
        torch.save(state, temporary)


def load(path: Path, device: torch.device | str = "cpu") -> dict[str, Any]:
    """Read a checkpoint; raises DataError when the file is damaged."""
    try:
        state: dict[str, Any] = torch.load(path, map_location=device, weights_only=True)
    except (RuntimeError, OSError, EOFError, pickle.UnpicklingError, ValueError) as error:
        raise DataError(
            f"{path}: the checkpoint cannot be read ({str(error).splitlines()[0][:200]}); remove "
            "it and start the same command again: the run begins anew"
        ) from error
    return state
