"""One process at a time in a run directory, over all drivers and their left-over workers.

After a driver was killed its workers live on for some seconds and may still write a checkpoint;
the next worker of the same run waits here until they are gone. The lock is the kernel's (`flock`),
so it falls with its holder however that died: no stale lock file ever has to be removed by hand.
On NFS, Linux passes `flock` on to the server, so that it holds between hosts as well.
"""

import fcntl
import getpass
import json
import os
import socket
import time
import weakref
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil

from ecocseg.errors import UserError

_HELD: "weakref.WeakSet[RunLock]" = weakref.WeakSet()
_POLL_S = 0.2
_LONGEST_COMMAND = 120


@dataclass(frozen=True, kw_only=True)
class Holder:
    """Who has a lock: a process of `user` on `host`, since Unix time `since`, started as typed."""

    host: str
    pid: int
    since: float
    user: str = ""
    command: str = ""

    def __str__(self) -> str:
        since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(self.since))
        parts = [f"user {self.user}"] if self.user else []
        parts += [f"since {since}"] + ([f"`{self.command}`"] if self.command else [])
        return f"process {self.pid} on {self.host} ({', '.join(parts)})"


class RunLock:
    """Context manager that holds `path` (a file beside what it guards) for this process.

    Waits up to `wait_s` seconds for another holder to go, then raises UserError naming it and
    saying the `remedy`. `announce` is told at once, in a sentence, when there is somebody to wait
    for.
    """

    def __init__(
        self,
        path: Path,
        wait_s: float = 60.0,
        *,
        announce: Callable[[str], object] | None = None,
        remedy: str = "wait for it, or stop that process and start the same command again",
    ) -> None:
        self.path = Path(path)
        self.wait_s = wait_s
        self._announce = announce
        self._remedy = remedy
        self._descriptor: int | None = None

    def __enter__(self) -> Self:
        """Take the lock, or raise UserError with the holder's host and process id."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            self._wait(descriptor)
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, json.dumps(asdict(_ourselves())).encode(), 0)
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
        announce = self._announce
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    raise UserError(self._refusal()) from None
                if announce is not None:
                    announce(self._waiting())
                    announce = None
                time.sleep(_POLL_S)

    def _waiting(self) -> str:
        return (
            f"{self.path.parent}: in use by {holder_of(self.path)}; waiting up to "
            f"{self.wait_s:g} s, in case it is what a killed command left"
        )

    def _refusal(self) -> str:
        return (
            f"{self.path.parent}: in use by {holder_of(self.path)}, which did not let go within "
            f"{self.wait_s:g} s; {self._remedy}"
        )

    def _close(self) -> None:
        _HELD.discard(self)
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def read_holder(path: Path) -> Holder | None:
    """Who wrote itself into the lock file last; None when that cannot be read.

    It need not hold the lock any more: ask `is_held`.
    """
    try:
        return Holder(**json.loads(Path(path).read_text()))
    except (OSError, ValueError, TypeError):
        return None


def holder_of(path: Path) -> str:
    """Who wrote itself into the lock file last, in words."""
    return str(read_holder(path) or "another process")


def is_held(path: Path) -> bool:
    """Whether a process, of this machine or another, has the lock at this moment.

    Asked by a shared lock, which two askers may have at once and which is let go at once.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def _ourselves() -> Holder:
    try:
        user = getpass.getuser()
    except (OSError, KeyError):
        # A container's user need not have a name.
        user = str(os.getuid())
    return Holder(
        host=socket.gethostname(),
        pid=os.getpid(),
        since=time.time(),
        user=user,
        command=command_line(psutil.Process().cmdline()),
    )


def command_line(words: list[str]) -> str:
    """A process's command as people typed it: without the interpreter and without folders."""
    if words and Path(words[0]).name.startswith("python") and len(words) > 1:
        words = words[1:]
    text = " ".join([Path(words[0]).name, *words[1:]]) if words else ""
    # Ray renames its workers in place and leaves the rest of the old line blank.
    text = " ".join(text.split())
    return text if len(text) <= _LONGEST_COMMAND else text[: _LONGEST_COMMAND - 1] + "…"


def _close_in_child() -> None:
    # A forked child (a data loader's worker) shares the open file and with it the lock; without
    # this it would keep the run locked after its parent was killed.
    for lock in list(_HELD):
        lock._close()


os.register_at_fork(after_in_child=_close_in_child)
