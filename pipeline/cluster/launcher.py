"""Ends this command when the `dvc` that started it was killed."""

import os
import signal
import threading
from contextlib import suppress
from pathlib import Path

import psutil

_POLL_S = 1.0


def watch_launcher(stop: threading.Event) -> None:
    """Start a thread that sends this process SIGTERM as soon as its `dvc` is gone, until `stop`.

    Otherwise it would go on unseen, and the next `dvc repro` would meet its locks. Only where DVC
    says that it started us: a terminal that closes must not end a command under nohup.
    """
    launcher = _launcher()
    if launcher is not None:
        threading.Thread(target=_watch, args=(launcher, stop), daemon=True).start()


def _watch(launcher: psutil.Process, stop: threading.Event) -> None:
    while not stop.wait(_POLL_S):
        if not launcher.is_running() or launcher.status() == psutil.STATUS_ZOMBIE:
            os.kill(os.getpid(), signal.SIGTERM)
            return


def _launcher() -> psutil.Process | None:
    if "DVC_STAGE" not in os.environ:
        return None
    for parent in psutil.Process().parents():
        with suppress(psutil.Error):
            # `dvc repro`, `python /path/to/dvc repro`, `python -m dvc repro`
            if "dvc" in {Path(word).name for word in parent.cmdline()[:3]}:
                return parent
    return None
