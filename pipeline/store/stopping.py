"""Stopping a run from another terminal: a file in its folder asks, the run looks at its events.

Only files are exchanged, so it works for a run on any machine that sees the results folder. The
checkpoint of before is kept, and the next `ecocseg grid` or `train` withdraws the request.
"""

import getpass
import os
import socket
import time
from pathlib import Path

from ecocseg.errors import UserError
from ecocseg.files import atomic_write

FILE_NAME = "stop"
_LOOK_EVERY_S = 1.0


class Stopped(UserError):
    """Somebody asked this run to stop; it is no failure, and its last checkpoint is kept."""

    kind = "stopped"


def request_stop(run_dir: Path) -> None:
    """Ask the run in `run_dir` to stop, or not to start."""
    try:
        user = getpass.getuser()
    except (OSError, KeyError):
        user = str(os.getuid())
    when = time.strftime("%Y-%m-%d %H:%M:%S")
    atomic_write(Path(run_dir) / FILE_NAME, f"by {user} on {socket.gethostname()}, {when}\n")


def stop_requested(run_dir: Path) -> bool:
    """Whether the run is asked to stop."""
    return (Path(run_dir) / FILE_NAME).exists()


def request(run_dir: Path) -> str:
    """Who asked and when, in words; empty where that cannot be read."""
    try:
        return (Path(run_dir) / FILE_NAME).read_text().strip()
    except OSError:
        return ""


def clear_stop(run_dir: Path) -> None:
    """Withdraw the request, if there is one."""
    (Path(run_dir) / FILE_NAME).unlink(missing_ok=True)


class StopWatch:
    """Looks for the request on behalf of a run, at most once a second."""

    def __init__(self, run_dir: Path) -> None:
        self.run_dir = Path(run_dir)
        self._looked_at = float("-inf")

    def check(self) -> None:
        """Raise Stopped when there is a request."""
        now = time.monotonic()
        if now - self._looked_at < _LOOK_EVERY_S:
            return
        self._looked_at = now
        if stop_requested(self.run_dir):
            asked = request(self.run_dir)
            raise Stopped(f"stopped {asked}; the next `ecocseg grid` or `train` goes on")
