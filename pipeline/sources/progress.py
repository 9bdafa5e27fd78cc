"""Progress of long file work on stderr: a bar on a terminal, else a plain line now and then."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Progress = Callable[[int, int], None]
"""Called with what is done and what there is (0: not known)."""
_EVERY = 10.0
"""Seconds between two plain lines."""


@contextmanager
def show_progress(title: str, unit: str = "files") -> Iterator[Progress]:
    """Yield a callback that shows how far `title` is; `unit` is `files` or `bytes`."""
    if sys.stderr.isatty():
        with _bar(title, unit) as update:
            yield update
        return
    last = time.monotonic()

    def line(done: int, total: int) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= _EVERY:
            last = now
            share = f" of {_amount(total, unit)} ({100 * done / total:.0f} %)" if total else ""
            print(f"{title}: {_amount(done, unit)}{share}", file=sys.stderr, flush=True)

    yield line


@contextmanager
def _bar(title: str, unit: str) -> Iterator[Progress]:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    amount = (
        [DownloadColumn(), TransferSpeedColumn()] if unit == "bytes" else [MofNCompleteColumn()]
    )
    columns = [TextColumn("{task.description}"), BarColumn(), *amount, TimeRemainingColumn()]
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(title, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total or None)


def _amount(value: int, unit: str) -> str:
    return f"{value / 1e6:,.1f} MB" if unit == "bytes" else f"{value:,} {unit}"
