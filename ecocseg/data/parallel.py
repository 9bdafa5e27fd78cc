"""Work over many files with several processes; the results come in the order of the tasks.

Workers import no more than the function's module needs (numpy and PIL here), so they start fast.
"""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

from ecocseg.errors import UserError

Task = TypeVar("Task")
Result = TypeVar("Result")
Progress = Callable[[int, int], None]
"""Called with the number of finished tasks and of all tasks."""

_SMALL = 48
"""Up to so many tasks, starting processes takes longer than doing them."""


def map_files(
    function: Callable[[Any, Task], Result],
    common: Any,
    tasks: Sequence[Task],
    workers: int | None = None,
    progress: Progress | None = None,
) -> list[Result]:
    """Return [function(common, task) for task in tasks], by `workers` processes (None: one a core).

    `function` is a module's own (it is found by its name), `common` is sent to a worker once.
    """
    count = min(workers or available_cores(), max(1, len(tasks)))
    if count == 1 or (workers is None and len(tasks) <= _SMALL):
        results = []
        for done, task in enumerate(tasks, 1):
            results.append(function(common, task))
            if progress:
                progress(done, len(tasks))
        return results
    size = max(1, min(16, len(tasks) // (4 * count)))
    chunks = [tasks[start : start + size] for start in range(0, len(tasks), size)]
    # Spawned, not forked: the caller may have threads (rich, torch, Ray) that a fork would break.
    pool = ProcessPoolExecutor(
        count,
        mp_context=multiprocessing.get_context("spawn"),
        initializer=_start,
        initargs=(function, common),
    )
    try:
        futures = {pool.submit(_run, chunk): place for place, chunk in enumerate(chunks)}
        parts: list[list[Result]] = [[] for _ in chunks]
        done = 0
        for future in as_completed(futures):
            part = future.result()
            parts[futures[future]] = part
            done += len(part)
            if progress:
                progress(done, len(tasks))
        return [result for part in parts for result in part]
    except BrokenProcessPool as error:
        raise UserError(
            "a worker process ended early (often: out of memory); set `data.workers` to a smaller "
            f"number than {count} and run again, what is done is kept"
        ) from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def available_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


_work: tuple[Callable[[Any, Any], Any], Any]


def _start(function: Callable[[Any, Any], Any], common: Any) -> None:
    """Keep what every task needs; end with the parent, whose kill -9 a pool would outlive."""
    # Ctrl-C reaches the whole group of processes: the parent alone decides what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    global _work
    _work = (function, common)
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: Any) -> None:
    parent.join()
    os._exit(1)


def _run(chunk: Sequence[Any]) -> list[Any]:
    function, common = _work
    return [function(common, task) for task in chunk]
