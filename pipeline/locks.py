"""One process at a time in a run directory, over all drivers and their left-over workers.

After a driver was killed its workers live on for some seconds and may still write a checkpoint;
the next worker of the same run waits here until they are gone. The lock is the kernel's (`flock`),
so it falls with its holder however that died: no stale lock file ever has to be removed by hand.
On NFS, Linux passes `flock` on to the server, so that it holds between hosts as well.
"""

import fcntl
import json
import os
import socket
import time
import weakref
from pathlib import Path
from types import TracebackType
from typing import Self

from ecocseg.errors import UserError

_HELD: "weakref.WeakSet[RunLock]" = weakref.WeakSet()
_POLL_S = 0.2


class RunLock:
    """Context manager that holds `path` (a file beside what it guards) for this process.

    Waits up to `wait_s` seconds for another holder to go, then raises UserError naming it.
    """

    def __init__(self, path: Path, wait_s: float = 60.0) -> None:
        self.path = Path(path)
        self.wait_s = wait_s
        self._descriptor: int | None = None

    def __enter__(self) -> Self:
        """Take the lock, or raise UserError with the holder's host and process id."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            self._wait(descriptor)
            holder = {"host": socket.gethostname(), "pid": os.getpid(), "since": time.time()}
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, json.dumps(holder).encode(), 0)
        except BaseException:
            os.close(descriptor)
            raise
        self._descriptor = descriptor
        _HELD.add(self)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Let go. The file stays: removing it would let two waiting processes hold two files."""
        self._close()

    def _wait(self, descriptor: int) -> None:
        deadline = time.monotonic() + self.wait_s
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    raise UserError(self._refusal()) from None
                time.sleep(_POLL_S)

    def _refusal(self) -> str:
        return (
            f"{self.path.parent}: in use by {holder_of(self.path)}, which did not let go within "
            f"{self.wait_s:g} s; wait for it, or stop that process and start the same command again"
        )

    def _close(self) -> None:
        _HELD.discard(self)
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def holder_of(path: Path) -> str:
    """Who wrote itself into the lock file last, in words."""
    try:
        holder = json.loads(Path(path).read_text())
        since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(holder["since"]))
        return f"process {holder['pid']} on {holder['host']} (since {since})"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"


def _close_in_child() -> None:
    # A forked child (a data loader's worker) shares the open file and with it the lock; without
    # this it would keep the run locked after its parent was killed.
    for lock in list(_HELD):
        lock._close()


os.register_at_fork(after_in_child=_close_in_child)
