"""One attempt at a run whose files are kept in a store as well as in its folder.

Every attempt uploads below its own number, a file under a new key whenever it has changed, and
then names the complete set in one small object, `latest.json`: a torn upload is never read, and
an attempt that was given up as lost can overwrite nothing of a later one, which it sees and ends.
The highest attempt that has a `latest.json` is where the next one goes on from.
"""

import json
import os
import platform
import secrets
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from ecocseg.errors import UserError
from ecocseg.files import atomic_write, sha256_file
from pipeline.store.record import record_path
from pipeline.store.remote import Store, persistent
from pipeline.store.status import CHECKPOINT as LAST
from pipeline.store.status import FILE_NAME as STATUS
from pipeline.store.stopping import FILE_NAME as STOP

MARKER, OWNER, LOCAL_STATE, LOG = "latest.json", "owner.json", "storage.json", "storage.log"
_OWN = frozenset({"lock", "tracking.lock", LOCAL_STATE, LOG, STOP})
"""Files of a run's folder that mean something on this machine only."""
_EVERY_S = 15.0
_LATER_S = (2.0, 5.0, 15.0, 30.0)
_LEAVING_S, _INTERRUPTED_S = 30.0, 5.0


class Superseded(UserError):
    """A later attempt at the run has begun: this one was given up as lost."""


class NotStored:
    """What a run does about a store when there is none."""

    def push(self, step: int) -> None:
        """There is a checkpoint of `step`."""

    def check(self) -> None:
        """May this attempt go on?"""

    def finish(self) -> None:
        """The record is written."""


@contextmanager
def stored_run(
    uri: str | None, run_dir: Path, records: Path, run_id: str
) -> Iterator["NotStored | StoredRun"]:
    """Bring a run's folder and record up to what the store has, and keep the store up to date.

    Raises UserError when the store does not answer for PATIENCE_S seconds.
    """
    if uri is None:
        yield NotStored()
        return
    with StoredRun(uri, run_dir, records, run_id) as run:
        yield run


class StoredRun:
    """An attempt at a run; it uploads from a thread of its own while the run trains."""

    def __init__(self, uri: str, run_dir: Path, records: Path, run_id: str) -> None:
        self.store = Store(uri)
        self.run_dir, self.run_id = Path(run_dir), run_id
        self.record = record_path(records, run_id)
        self.attempt = ""
        self._folder = f"runs/{run_id}"
        self._step = 0
        self._pushes = 0
        self._marked: dict[str, Any] | None = None
        self._sent: dict[tuple[int, int, int], dict[str, Any]] = {}
        self._superseded: str | None = None
        self._wake = threading.Condition()
        self._asked = self._closing = False
        self._thread = threading.Thread(target=self._work, name="storage", daemon=True)

    def __enter__(self) -> Self:
        """Take the next attempt's number, and the files of the furthest one before."""
        persistent(self.store.uri, self._begin)
        if not self.record.is_file():
            self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Upload what a failure left, and end the thread; it gets a few seconds for that."""
        self._close(_LEAVING_S if isinstance(error, Exception) else _INTERRUPTED_S)

    def push(self, step: int) -> None:
        """Have the folder uploaded with its checkpoint of `step`; returns at once."""
        self.check()
        with self._wake:
            self._step, self._asked = step, True
            self._wake.notify()

    def check(self) -> None:
        """Raise Superseded when a later attempt has begun."""
        if self._superseded is not None:
            raise Superseded(self._superseded)

    def finish(self) -> None:
        """Upload what the folder holds and then the record; it is finished everywhere after that.

        Raises UserError when the store does not take them for PATIENCE_S seconds, Superseded when
        another attempt has begun; the files stay here.
        """
        self._close()
        self.check()
        try:
            persistent(self.store.uri, self._deliver)
        except Superseded:
            raise
        except UserError as error:
            raise UserError(
                f"{self.run_id}: finished, but its record could not be stored and waits in "
                f"{self.record} on {socket.gethostname()}: {error}"
            ) from error

    def _begin(self) -> None:
        kept = self.store.keys(f"records/{self.run_id}")
        if kept and not self.record.is_file():
            self.store.download(max(kept), self.record)
        if kept:
            return
        if self.store.read(f"stop/{self.run_id}") is None:
            # A request that was withdrawn since.
            (self.run_dir / STOP).unlink(missing_ok=True)
        self._claim()
        attempts = [a for a in self._attempts() if a != self.attempt]
        mine = str(_read_json(self.run_dir / LOCAL_STATE).get("attempt", ""))
        # What an attempt had here it has gone beyond since its last upload, never behind it.
        for attempt in sorted(attempts, reverse=True):
            if attempt <= mine:
                break
            if self._pull(attempt):
                break
        atomic_write(self.run_dir / LOCAL_STATE, json.dumps({"attempt": self.attempt}) + "\n")
        if self.record.is_file():
            # Finished here before, by an attempt that could not say so.
            self._deliver()

    def _claim(self) -> None:
        if self.attempt:
            return
        number = max((int(a.partition("-")[0]) for a in self._attempts()), default=0) + 1
        # Two that take one number at the same time still have a folder each.
        attempt = f"{number:06d}-{secrets.token_hex(4)}"
        owner = {"host": platform.node(), "pid": os.getpid(), "time": time.time()}
        self.store.write(f"{self._folder}/{attempt}/{OWNER}", json.dumps(owner).encode())
        self.attempt = attempt

    def _attempts(self) -> list[str]:
        names = [key.rpartition("/")[2] for key in self.store.keys(self._folder, recursive=False)]
        return [name for name in names if name.partition("-")[0].isdecimal()]

    def _pull(self, attempt: str) -> bool:
        """Make the folder what `attempt` uploaded last; False when it completed no upload."""
        marker = self.store.read(f"{self._folder}/{attempt}/{MARKER}")
        if marker is None:
            return False
        files: Mapping[str, Any] = json.loads(marker)["files"]
        arriving = self.run_dir / ".arriving"
        for name, entry in files.items():
            if not _is(self.run_dir / name, entry):
                self.store.download(entry["key"], arriving / name, entry["sha256"])
        # A mixture until LOCAL_STATE names the new attempt; the next one would bring all again.
        for name, path in list(_files(self.run_dir)):
            if name not in files:
                path.unlink()
        for name in files:
            if (arriving / name).is_file():
                (self.run_dir / name).parent.mkdir(parents=True, exist_ok=True)
                os.replace(arriving / name, self.run_dir / name)
        return True

    def _work(self) -> None:
        failures = 0
        while True:
            pause = _LATER_S[min(failures, len(_LATER_S)) - 1] if failures else _EVERY_S
            with self._wake:
                ready = (
                    (lambda: self._closing) if failures else (lambda: self._closing or self._asked)
                )
                self._wake.wait_for(ready, timeout=pause)
                closing, self._asked = self._closing, False
            try:
                self._upload()
                failures = 0
            except Superseded as error:
                self._superseded = str(error)
                return
            except Exception as error:
                failures += 1
                self._log(f"not uploaded, tried again: {error}")
            if closing:
                return

    def _upload(self) -> None:
        """Upload what has changed and mark it as the last complete state."""
        self._fence()
        self._follow_stop()
        files: dict[str, Any] = {}
        sent: dict[tuple[int, int, int], dict[str, Any]] = {}
        self._pushes += 1
        for name, path in _files(self.run_dir):
            # A file may be replaced or removed at any time; an open one stays what it was.
            with suppress(FileNotFoundError), path.open("rb") as file:
                found = os.fstat(file.fileno())
                identity = (found.st_ino, found.st_size, found.st_mtime_ns)
                if identity not in self._sent:
                    key = f"{self._folder}/{self.attempt}/{self._pushes}/{name}"
                    self._sent[identity] = self.store.upload(file, key)
                files[name] = sent[identity] = self._sent[identity]
        if LAST in (self._marked or {}) and LAST not in files:
            raise OSError(f"{LAST} is being replaced")
        self._push_status()
        if files != self._marked:
            self._mark(files)
        for entry in self._sent.values():
            if entry not in sent.values():
                self.store.delete(entry["key"])
        self._sent = sent

    def _mark(self, files: dict[str, Any]) -> None:
        marker = {"attempt": self.attempt, "step": self._step, "files": files}
        key = f"{self._folder}/{self.attempt}/{MARKER}"
        self.store.write(key, json.dumps(marker, indent=1).encode())
        first, self._marked = self._marked is None, files
        if first:
            for attempt in self._attempts():
                if attempt < self.attempt:
                    self.store.delete_folder(f"{self._folder}/{attempt}")

    def _fence(self) -> None:
        later = max((a for a in self._attempts() if a > self.attempt), default=None)
        if later is not None:
            owner = json.loads(self.store.read(f"{self._folder}/{later}/{OWNER}") or b"{}")
            raise Superseded(
                f"{self.run_id}: attempt {int(self.attempt[:6])} on {platform.node()} ends, since "
                f"attempt {int(later[:6])} on {owner.get('host', 'another machine')} has taken over"
            )

    def _follow_stop(self) -> None:
        """A request to stop, given on the driver's machine, is one in the run's folder here."""
        request = self.store.read(f"stop/{self.run_id}")
        if request is not None:
            atomic_write(self.run_dir / STOP, request)

    def _push_status(self) -> None:
        with suppress(FileNotFoundError):
            self.store.write(f"status/{self.run_id}.json", (self.run_dir / STATUS).read_bytes())

    def _deliver(self) -> None:
        self._upload()
        key = f"records/{self.run_id}/{self.attempt}.json"
        self.store.write(key, self.record.read_bytes())

    def _close(self, wait_s: float | None = None) -> None:
        with self._wake:
            self._closing = True
            self._wake.notify()
        if self._thread.is_alive():
            self._thread.join(wait_s)

    def _log(self, text: str) -> None:
        with suppress(OSError), (self.run_dir / LOG).open("a", encoding="utf-8") as file:
            file.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {text}\n")


def _files(run_dir: Path) -> Iterator[tuple[str, Path]]:
    """What makes up a run, the last checkpoint first: all else may be newer than it, not older."""
    paths = [path for path in Path(run_dir).rglob("*") if path.is_file()]
    for path in sorted(paths, key=lambda path: (path.name != LAST, path)):
        name = path.relative_to(run_dir)
        temporary = any(part.startswith(".") for part in name.parts)
        if name.as_posix() not in _OWN and not temporary and path.suffix != ".unreadable":
            yield name.as_posix(), path


def _is(path: Path, entry: Mapping[str, Any]) -> bool:
    """Whether the file at `path` is the one that was uploaded as `entry`."""
    return (
        path.is_file()
        and path.stat().st_size == entry["size"]
        and sha256_file(path) == entry["sha256"]
    )


def _read_json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
