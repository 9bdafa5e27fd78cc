"""The event log of a run: one JSON line per step, evaluation or sample, kept in the run's folder.

It is what learning curves are made of, and the spool from which tracking sends: a point is on
disk before any server hears of it.
"""

import errno
import json
import math
import os
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

EVENTS_NAME = "events.jsonl"
KINDS = ("step", "eval", "system", "final")


@dataclass(frozen=True, kw_only=True)
class Event:
    """One line of the log: what was measured (`metrics`) at which step, when (ms since epoch)."""

    kind: str
    step: int
    time: int
    metrics: dict[str, float]


class EventLog:
    """Append-only log of metrics that survives a kill at any moment.

    Opening it cuts off what a killed writer left half written at the end. An event whose step is
    not beyond the last one of its kind is dropped: a run resumed from an older checkpoint repeats
    steps that are logged already. Safe for several threads; one process writes at a time.
    """

    def __init__(self, path: Path):
        """Open or create the log at `path`, with the folders above it.

        Raises:
            OSError: the file cannot be read or written.
        """
        self.path = Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._last: dict[str, int] = {}
        self._lock = threading.Lock()
        self._file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        complete = 0
        for event, end in _events_with_ends(self.path, 0):
            self._last[event.kind] = max(event.step, self._last.get(event.kind, event.step))
            complete = end
        if complete < os.fstat(self._file).st_size:
            os.ftruncate(self._file, complete)

    def append(self, kind: str, step: int, metrics: Mapping[str, float]) -> bool:
        """Write one event with the present time; False when that step is logged already.

        The line is with the operating system when this returns, so it outlives the process.

        Raises:
            ValueError: `kind` is not one of KINDS, or a metric is not a number.
            OSError: the disk refuses the line (full).
        """
        if kind not in KINDS:
            raise ValueError(f"kind: got {kind!r}, allowed {', '.join(KINDS)}")
        line = {
            "kind": kind,
            "step": int(step),
            "time": time.time_ns() // 1_000_000,
            "metrics": {str(name): _to_json(float(value)) for name, value in metrics.items()},
        }
        with self._lock:
            if step <= self._last.get(kind, -1):
                return False
            # One write of a whole line: a reader or a kill meets it entire or not at all.
            data = (json.dumps(line, allow_nan=False) + "\n").encode()
            written = os.write(self._file, data)
            if written < len(data):
                # The disk was full within the line: what is there of it would spoil the next one.
                os.ftruncate(self._file, os.fstat(self._file).st_size - written)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.path))
            self._last[kind] = int(step)
        return True

    def last_step(self, kind: str) -> int:
        """The last logged step of `kind`, -1 when there is none."""
        return self._last.get(kind, -1)

    def flush(self) -> None:
        """Wait until everything is on the disk itself; call it before a checkpoint is written.

        Otherwise a power cut could keep the checkpoint and lose points before it.
        """
        os.fsync(self._file)

    def close(self) -> None:
        """Close the file; a second call does nothing."""
        with self._lock:
            if self._file >= 0:
                os.close(self._file)
                self._file = -1

    def __enter__(self) -> "EventLog":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def read(path: Path) -> list[Event]:
    """All complete events of the log at `path` in the order written; empty when there is no file.

    Lines that are no event (a disk fault) are left out.
    """
    return [event for event, _ in _events_with_ends(path, 0)]


def read_from(path: Path, offset: int) -> Iterator[tuple[Event, int]]:
    """Events that begin at byte `offset` or later, each with the byte at which its line ends."""
    return _events_with_ends(path, offset)


def _events_with_ends(path: Path, offset: int) -> Iterator[tuple[Event, int]]:
    if not Path(path).exists():
        return
    with Path(path).open("rb") as file:
        file.seek(offset)
        for line in file:
            offset += len(line)
            event = _parse(line) if line.endswith(b"\n") else None
            if event is not None:
                yield event, offset


def _parse(line: bytes) -> Event | None:
    try:
        fields = json.loads(line)
        return Event(
            kind=str(fields["kind"]),
            step=int(fields["step"]),
            time=int(fields["time"]),
            metrics={name: float(value) for name, value in fields["metrics"].items()},
        )
    except (ValueError, TypeError, KeyError, AttributeError):
        return None


def _to_json(value: float) -> float | str:
    # JSON has no word for them; float() reads these strings back.
    return value if math.isfinite(value) else str(value)
