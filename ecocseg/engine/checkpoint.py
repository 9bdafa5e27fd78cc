"""Checkpoints: complete or absent, and read without executing anything."""

import os
import pickle
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from ecocseg.errors import DataError
from ecocseg.files import atomic_path, disk_full

PREVIOUS = "previous.pt"
"""Name of the checkpoint before the last one, beside it."""
# What torch.load raises on files that were cut off or overwritten; OSError for some lengths, from
# seeking before the start.
_DAMAGE = (RuntimeError, OSError, EOFError, pickle.UnpicklingError, ValueError, LookupError)
_CHUNK = 1 << 22
# In torch's words for a tensor that there is no memory for: the file is well then.
_NO_MEMORY = ("alloc_cpu", "can't allocate memory", "out of memory")


class Unreadable(DataError):
    """A checkpoint whose content is damaged."""


@dataclass(frozen=True, kw_only=True)
class Found:
    """The newest checkpoint that can be read (None: there is none), and what was met on the way."""

    state: dict[str, Any] | None = None
    messages: list[str] = field(default_factory=list)
    previous: bool = False
    """Whether it is the one before the last."""


def save(path: Path, state: dict[str, Any], *, keep_previous: bool = False) -> None:
    """Write `state` (tensors, numbers, texts, lists, dicts) to `path` atomically.

    `keep_previous` leaves the file that was there as `previous.pt` beside it. Raises OSError when
    the disk is full.
    """
    path = Path(path)
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        try:
            torch.save(state, file)
        except RuntimeError as error:
            # torch hides the refusal of a full disk behind one of its own.
            if (cause := disk_full(error)) is not None:
                raise cause from error
            raise
        # The old checkpoint goes away with the renaming: the new one has to be on the disk by then.
        file.flush()
        os.fsync(file.fileno())
        if keep_previous and path.is_file():
            os.replace(path, path.with_name(PREVIOUS))


def load(path: Path, device: torch.device | str = "cpu") -> dict[str, Any]:
    """Read a checkpoint; raises Unreadable when its content is damaged, DataError when the disk is.

    The checksums in the file are compared, which torch leaves out.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            while file.read(_CHUNK):
                pass
    except OSError as error:
        # The file itself may be well: nothing is to be given up for a disk that does not answer.
        raise DataError(
            f"{path}: the disk does not give it ({error}); mend that, or remove the file and start "
            "the same command again: the run goes on from an earlier checkpoint, or begins anew"
        ) from error
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                if (member := archive.testzip()) is not None:
                    raise ValueError(f"wrong checksum of {member}")
        state: dict[str, Any] = torch.load(path, map_location=device, weights_only=True)
    except (MemoryError, *_DAMAGE, zipfile.BadZipFile) as error:
        if isinstance(error, MemoryError) or any(words in str(error) for words in _NO_MEMORY):
            raise DataError(
                f"{path}: there is too little memory to read the checkpoint; end other programs, "
                "and start the same command again"
            ) from error
        raise Unreadable(
            f"{path}: the checkpoint cannot be read ({_reason(error)}); remove it and start the "
            f"same command again: the run goes on from {PREVIOUS}, or begins anew"
        ) from error
    return state


def newest(path: Path, device: torch.device | str = "cpu") -> Found:
    """The checkpoint at `path`, or where it cannot be read the previous one beside it.

    An unreadable file is set aside as `<name>.unreadable`, with a message. Raises DataError when
    the disk gives no answer.
    """
    path = Path(path)
    messages: list[str] = []
    for candidate in (path, path.with_name(PREVIOUS)):
        if not candidate.is_file():
            continue
        try:
            state = load(candidate, device)
        except Unreadable as error:
            aside = candidate.with_name(f"{candidate.name}.unreadable")
            os.replace(candidate, aside)
            messages.append(
                f"{candidate.name} cannot be read ({_reason(error.__cause__)}) and was set aside "
                f"as {aside.name}"
            )
        else:
            return Found(state=state, messages=messages, previous=candidate != path)
    return Found(messages=messages)


def _reason(error: BaseException | None) -> str:
    """The first sentence of what torch says, which adds advice of its own."""
    text = str(error).partition("\n")[0].partition(". ")[0]
    return text[:200] or type(error).__name__
