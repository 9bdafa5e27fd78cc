"""Small things that several tests of this folder need."""

import time
from collections.abc import Callable
from contextlib import suppress

import psutil


def wait_for(condition: Callable[[], object], seconds: float = 90.0) -> None:
    """Poll until `condition` holds; the limit is there only so that a fault ends the test."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.05)


def descendants(pid: int) -> list[psutil.Process]:
    return psutil.Process(pid).children(recursive=True)


def all_gone(processes: list[psutil.Process]) -> bool:
    return not any(p.is_running() and p.status() != psutil.STATUS_ZOMBIE for p in processes)


def kill(processes: list[psutil.Process]) -> None:
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.kill()
