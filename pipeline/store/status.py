"""`status.json` of a run directory: what a run is doing now, for the live table and for people.

It is a courtesy, never the truth: whether a run is finished is decided by its record alone. A
process that was killed leaves its last status behind, so a reader that needs to know whether the
run moves compares two readings.
"""

import json
import os
import socket
import time
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from ecocseg.files import atomic_write

STATES = ("queued", "running", "finished", "failed", "stopped")
FILE_NAME = "status.json"
CHECKPOINT = "last.pt"
"""A run's last checkpoint, in its directory."""


@dataclass(frozen=True, kw_only=True)
class RunStatus:
    """One reading of a run: `step` of `steps` done, `eta_s` seconds to go, `updated` Unix time.

    `node` and `device` are names for people (a Ray node's host, `cpu`, `cuda:0`); `attempt` counts
    the times the run was started (0: it never was); `message` says why it failed or who stopped it,
    `activity` what a method with stages does between two of them.
    """

    state: str = "queued"
    step: int = 0
    steps: int = 0
    loss: float | None = None
    steps_per_second: float | None = None
    eta_s: float | None = None
    host: str = field(default_factory=socket.gethostname)
    node: str = ""
    device: str = ""
    pid: int = field(default_factory=os.getpid)
    attempt: int = 1
    message: str = ""
    activity: str = ""
    updated: float = field(default_factory=time.time)

    def __post_init__(self) -> None:
        if self.state not in STATES:
            raise ValueError(f"state: got {self.state!r}, allowed {', '.join(STATES)}")


def write_status(run_dir: Path, status: RunStatus) -> None:
    """Replace the status of `run_dir` by `status`, atomically."""
    atomic_write(Path(run_dir) / FILE_NAME, json.dumps(asdict(status), indent=1) + "\n")


def read_status(run_dir: Path) -> RunStatus | None:
    """The last written status, or None when there is none that can be read.

    Fields of another version of this file are passed over: an old folder must stay viewable.
    """
    try:
        values: Any = json.loads((Path(run_dir) / FILE_NAME).read_text())
        names = {entry.name for entry in fields(RunStatus)}
        return RunStatus(**{name: value for name, value in values.items() if name in names})
    except (OSError, ValueError, AttributeError, TypeError):
        return None


def mark_failed(run_dir: Path, message: str) -> None:
    """Set the state to `failed` with its cause, keeping step, node and the rest as last written."""
    _mark(run_dir, "failed", message)


def mark_stopped(run_dir: Path, message: str) -> None:
    """Set the state to `stopped` with who asked for it, keeping the rest as last written."""
    _mark(run_dir, "stopped", message)


def _mark(run_dir: Path, state: str, message: str) -> None:
    last = read_status(run_dir) or RunStatus(attempt=0)
    now = replace(last, state=state, message=message, eta_s=None, activity="", updated=time.time())
    write_status(run_dir, now)
