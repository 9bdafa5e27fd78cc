"""Ends this command when the `dvc` that started it was killed."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

_POLL_S = 1.0
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
        if not launcher.is_running() or launcher.status() == psutil.STATUS_ZOMBIE:
            os.kill(os.getpid(), signal.SIGTERM)
            return


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
        with suppress(psutil.Error):
            name = Path(next(iter(parent.cmdline()), "")).name
            if name in _SHELLS:
                # DVC's, which waits for us.
                continue
            # In a container the first process may be whatever calls DVC.
            return (parent.pid == 1 or parent.name() == "systemd") and "python" not in name
    return False
