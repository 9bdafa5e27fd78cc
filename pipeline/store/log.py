"""`log.txt` of a run: what it and its libraries printed, warned and logged, attempt by attempt.

A line is `2026-01-31 12:00:00.123 text`, in the time of the machine that writes it, so that it can
be put in order with the run's events. Writing never fails a run: a full disk loses lines only.
"""

import logging
import os
import platform
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TextIO

from ecocseg.errors import LostProcess, UserError
from pipeline.store.status import mark_failed, mark_stopped, read_status
from pipeline.store.stopping import Stopped

FILE_NAME = "log.txt"
_MOST_BYTES = 1 << 20
_PACKAGES = ("ecocseg", "pipeline")


@contextmanager
def run_log(run_dir: Path) -> Iterator[None]:
    """For the length of a `with` block copy stdout, stderr and log records to `run_dir/log.txt`.

    Stops neither what is printed nor what is raised; the end of the attempt is noted, with the
    traceback of an exception.
    """
    log = _Log(Path(run_dir) / FILE_NAME)
    earlier = read_status(run_dir)
    attempt = earlier.attempt + 1 if earlier else 1
    log.line(f"attempt {attempt} on {platform.node()}, process {os.getpid()}")
    handler = logging.StreamHandler(log)
    handler.setFormatter(logging.Formatter("%(levelname)s %(name)s: %(message)s"))
    root, levels = logging.getLogger(), {}
    for name in _PACKAGES:
        levels[name] = logging.getLogger(name).level
        logging.getLogger(name).setLevel(logging.INFO)
    root.addHandler(handler)
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = _Tee(sys.stdout, log), _Tee(sys.stderr, log)
    end = "interrupted"
    try:
        yield
        end = "finished"
    except Stopped as error:
        end = str(error)
        raise
    except Exception as error:
        end = "failed"
        text = str(error) if isinstance(error, UserError) else traceback.format_exc()
        log.line(text)
        raise
    finally:
        sys.stdout, sys.stderr = before
        root.removeHandler(handler)
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)
        log.end(f"attempt {attempt} {end}")


@contextmanager
def end_told(run_dir: Path) -> Iterator[None]:
    """For the length of a `with` block: an exception becomes the run's status, with its cause.

    Not the loss of another process of the run, which is tried again.
    """
    try:
        yield
    except LostProcess:
        raise
    except Exception as error:
        text = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
        mark = mark_stopped if isinstance(error, Stopped) else mark_failed
        # The cause matters more than a disk that does not take the note of it.
        with suppress(OSError):
            mark(run_dir, text)
        raise


class _Log:
    """The file, with a time before each line; kept below `_MOST_BYTES` by losing its first half."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._begun = ""
        self._closed = False
        self._file = -1
        self._size = 0
        with suppress(OSError):
            self._open()

    def write(self, text: str) -> int:
        """Take in a piece of text; its last line is written once it is complete."""
        if self._closed:
            # A library that kept the stream: the process may be at another run by now.
            return len(text)
        # A progress bar returns to the start of its line: its states become lines.
        *lines, self._begun = (self._begun + text).replace("\r", "\n").split("\n")
        for line in lines:
            if line.strip():
                self._append(line)
        return len(text)

    def line(self, text: str) -> None:
        self.write(f"{text}\n")

    def flush(self) -> None:
        """Every complete line is with the operating system already."""

    def end(self, text: str) -> None:
        """Write the last line, and close the file."""
        # What was printed last may lack the end of its line.
        self.line("")
        self.line(text)
        self._closed = True
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def _append(self, line: str) -> None:
        now = time.time()
        stamp = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(now))
        data = f"{stamp}.{int(now % 1 * 1000):03d} {line}\n".encode(errors="replace")
        with suppress(OSError):
            if self._file < 0 or self._size + len(data) > _MOST_BYTES:
                self._open()
            self._size += os.write(self._file, data)

    def _open(self) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = -1
        if self.path.exists() and self.path.stat().st_size > _MOST_BYTES // 2:
            kept = self.path.read_bytes()[-_MOST_BYTES // 2 :].partition(b"\n")[2]
            temporary = self.path.with_name(f".{self.path.name}.{os.getpid()}.tmp")
            temporary.write_bytes(kept)
            os.replace(temporary, self.path)
        self._file = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        self._size = os.fstat(self._file).st_size


class _Tee:
    """A stream that gives what it is told to another one and to the log."""

    def __init__(self, stream: TextIO, log: _Log) -> None:
        self._stream, self._log = stream, log

    def write(self, text: str) -> int:
        self._log.write(text)
        return self._stream.write(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def line_time(line: str) -> float | None:
    """Unix time of a line of the log, None where it has none."""
    try:
        whole = time.mktime(time.strptime(line[:19], "%Y-%m-%d %H:%M:%S"))
        return whole + int(line[20:23]) / 1000
    except (ValueError, OverflowError):
        return None
