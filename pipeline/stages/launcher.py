"""Ends this command when the `dvc` that started it was killed."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

_POLL_S, _AGAIN_S = 1.0, 20.0
_SHELLS = ("sh", "bash", "dash", "zsh", "ksh", "ash")


def watch_launcher(stop: threading.Event) -> None:
    """Start a thread that sends this process SIGTERM as soon as its `dvc` is gone, until `stop`.

    Otherwise it would go on unseen, and the next `dvc repro` would meet its locks. Only where DVC
    says that it started us: a terminal that closes must not end a command under nohup. When `dvc`
    was killed before this is called, SIGTERM comes at once.
    """
    if "DVC_STAGE" not in os.environ:
        return
    launcher = _launcher()
    if launcher is not None:
        threading.Thread(target=_watch, args=(launcher, stop), daemon=True).start()
    elif _orphaned():
        os.kill(os.getpid(), signal.SIGTERM)


@contextmanager
def ended_with_launcher() -> Iterator[None]:
    """Watch for the length of a `with` block, or of a function that this decorates."""
    stop = threading.Event()
    watch_launcher(stop)
    try:
        yield
    finally:
        stop.set()


def _watch(launcher: psutil.Process, stop: threading.Event) -> None:
    while not stop.wait(_POLL_S):
        if _gone(launcher):
            os.kill(os.getpid(), signal.SIGTERM)
            # An exception of a signal's handler that falls into a callback of Python's own is lost.
            stop.wait(_AGAIN_S)


def _gone(launcher: psutil.Process) -> bool:
    try:
        return not launcher.is_running() or launcher.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def _launcher() -> psutil.Process | None:
    for parent in psutil.Process().parents():
        with suppress(psutil.Error):
            # `dvc repro`, `python /path/to/dvc repro`, `python -m dvc repro`
            if "dvc" in {Path(word).name for word in parent.cmdline()[:3]}:
                return parent
    return None


def _orphaned() -> bool:
    """Whether we were handed on to the system's first process, as who has lost his parent is."""
    for parent in psutil.Process().parents():
        try:
            name = Path(next(iter(parent.cmdline()), "")).name
            # DVC's shell waits for us; in a container the first process may be what calls DVC.
            if name not in _SHELLS:
                return (parent.pid == 1 or parent.name() == "systemd") and "python" not in name
        except psutil.ZombieProcess:
            # Killed, and its own parent has not noticed yet.
            return True
        except psutil.Error:
            continue
    return False
