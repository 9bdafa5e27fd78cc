"""Keeps the batch on which a run diverged."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any

from torch import Tensor

from ecocseg.data.transforms import Sample
from ecocseg.engine import checkpoint
from ecocseg.engine.events import Diverged
from pipeline.store.paths import DIVERGED


@contextmanager
def batch_kept(run_dir: Path) -> Iterator[None]:
    """Save the batch of a run that diverges inside the block; the error then says where."""
    try:
        yield
    except Diverged as error:
        raise save_batch(error, run_dir) from error


def save_batch(error: Diverged, run_dir: Path) -> Diverged:
    """Write the batch to `run_dir` and return the error with a message that says where it is.

    A full disk does not hide why the run stopped: the message then says that nothing was written.
    """
    path = run_dir / DIVERGED
    content = {
        "step": error.step,
        "terms": error.terms,
        "batch": {stream: _tensors(sample) for stream, sample in error.batch.items()},
        "images": {stream: list(keys) for stream, keys in error.images.items()},
    }
    try:
        checkpoint.save(path, content)
    except OSError as problem:
        told = f"its batch could not be saved ({problem})"
    else:
        told = f"its batch is in {path}"
    return Diverged(
        f"{error}; {told}",
        step=error.step,
        terms=error.terms,
        batch=error.batch,
        images=error.images,
    )


def _tensors(sample: Sample) -> dict[str, Any]:
    found = {field.name: getattr(sample, field.name) for field in fields(sample)}
    return {name: tensor for name, tensor in found.items() if isinstance(tensor, Tensor)}
