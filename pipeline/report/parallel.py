"""Work on what this process holds already, on all cores."""

import multiprocessing
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import Any, TypeVar

from ecocseg.data.parallel import available_cores

T = TypeVar("T")
_tasks: Sequence[Callable[[], object]] = ()


def forked(tasks: Sequence[Callable[[], T]]) -> list[T]:
    """Results of `tasks` in their order, computed by forks, which need nothing handed over.

    One after the other in this process where there are threads, which forks leave behind, or one
    core. Raises what a task raises.
    """
    global _tasks
    workers = min(available_cores(), len(tasks))
    if workers < 2 or threading.active_count() > 1:
        return [task() for task in tasks]
    _tasks = tasks
    try:
        with ProcessPoolExecutor(workers, multiprocessing.get_context("fork")) as pool:
            return list(pool.map(_run, range(len(tasks))))
    finally:
        _tasks = ()


def _run(place: int) -> Any:
    return _tasks[place]()
