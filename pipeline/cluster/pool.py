"""A grid of runs on Ray: one task per run, a driver without state, everything else in files.

What is finished is read from the records, where an unfinished run goes on from is read from its
own directory: killing this process at any moment and starting it again loses nothing. Runs that
lose their worker or node are started again; an exception of a run is that run's failure, since
bad data or a bug would only fail again.
"""

import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ray
from ray import exceptions as lost

from ecocseg.errors import UserError
from ecocseg.files import atomic_write
from pipeline.cluster.resources import Resources, why_impossible
from pipeline.cluster.worker import load
from pipeline.status import mark_failed, record_file, run_directory

Row = Mapping[str, Any]

_POLL_S = 0.5
_GRACE_S = 8.0
_LOST = (
    lost.WorkerCrashedError,
    lost.NodeDiedError,
    lost.LocalRayletDiedError,
    lost.ObjectLostError,
)


class Interrupted(KeyboardInterrupt):
    """Ctrl-C (or SIGTERM) ended the grid in good order; the text says how to go on."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """Run ids with a record (those of earlier commands too), and messages of the failed ones."""

    finished: list[str]
    failed: dict[str, str]


@dataclass(frozen=True, kw_only=True)
class Progress:
    """The grid as the driver sees it; what a run is doing stands in its status.json.

    `active` runs are handed to Ray: under way, or waiting for a free machine. `retries` counts the
    workers and nodes that a run has lost under this driver.
    """

    rows: Sequence[Row]
    results_dir: Path
    finished: set[str] = field(default_factory=set)
    failed: dict[str, str] = field(default_factory=dict)
    active: set[str] = field(default_factory=set)
    retries: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class _Failure:
    """An exception of a run as plain text: the exception itself might not survive pickling."""

    message: str
    trace: str


def run_all(
    rows: Sequence[Row],
    execute: str,
    settings: Mapping[str, Any],
    resources_of: Callable[[Row], Resources],
    results_dir: Path,
    max_retries: int = 3,
    on_progress: Callable[[Progress], None] | None = None,
) -> Outcome:
    """Execute every row that has no record yet, inside `connect(...)`.

    `rows` are plain mappings with `run_id`, and optionally `cost` (any unit; the longest start
    first, so that the last run does not stretch the grid). `execute` is "module:function", called
    in a worker as `function(row, settings)`; it takes the run's lock, resumes, and writes the
    record last. A run that no live node can take fails before anything starts. `on_progress` is
    called about twice a second. Raises Interrupted on Ctrl-C.
    """
    results_dir = Path(results_dir).absolute()
    grid = _Grid(execute, settings, resources_of, max_retries, rows, results_dir)
    report = on_progress or (lambda progress: None)
    try:
        grid.submit_all()
        report(grid.progress)
        while grid.pending:
            grid.collect()
            report(grid.progress)
    except KeyboardInterrupt:
        grid.cancel()
        raise Interrupted(grid.farewell()) from None
    return Outcome(
        finished=[run_id for run_id in grid.rows if run_id in grid.progress.finished],
        failed=dict(grid.progress.failed),
    )


class _Grid:
    """The bookkeeping of one `run_all`: which task stands for which run."""

    def __init__(
        self,
        execute: str,
        settings: Mapping[str, Any],
        resources_of: Callable[[Row], Resources],
        max_retries: int,
        rows: Sequence[Row],
        results_dir: Path,
    ) -> None:
        self.execute = execute
        self.settings = dict(settings)
        self.resources_of = resources_of
        self.max_retries = max_retries
        # A run id that stands twice in the rows is executed once.
        self.rows = {str(row["run_id"]): row for row in rows}
        self.progress = Progress(rows=list(self.rows.values()), results_dir=results_dir)
        self.pending: dict[ray.ObjectRef, str] = {}

    def submit_all(self) -> None:
        nodes = ray.nodes()
        for run_id, row in sorted(self.rows.items(), key=lambda item: -item[1].get("cost", 0.0)):
            if record_file(self.progress.results_dir, run_id).is_file():
                self.progress.finished.add(run_id)
            elif reason := why_impossible(self.resources_of(row), nodes):
                self.fail(run_id, reason)
            else:
                self.submit(run_id)

    def submit(self, run_id: str) -> None:
        resources = self.resources_of(self.rows[run_id])
        task = _fresh_task if resources.gpus else _task
        # Ray's own retries stay off: it counts a task that ran out of memory among the lost ones,
        # and says nothing when it starts one again.
        options = resources.ray_options() | {"max_retries": 0, "name": f"run {run_id}"}
        row = dict(self.rows[run_id])
        reference = task.options(**options).remote(
            self.execute, row, self.settings, resources.threads
        )
        self.pending[reference] = run_id
        self.progress.active.add(run_id)

    def collect(self) -> None:
        """Wait a moment and take in every task that has ended."""
        ready, _ = ray.wait(list(self.pending), num_returns=1, timeout=_POLL_S)
        if ready:
            ready, _ = ray.wait(list(self.pending), num_returns=len(self.pending), timeout=0)
        for reference in ready:
            run_id = self.pending.pop(reference)
            self.progress.active.discard(run_id)
            self.settle(run_id, reference)

    def settle(self, run_id: str, reference: ray.ObjectRef) -> None:
        try:
            failure = ray.get(reference)
        except lost.OutOfMemoryError as error:
            self.fail(run_id, f"the machine ran out of memory: {error}")
        except _LOST as error:
            self.retry(run_id, error)
        except lost.RayError as error:
            self.fail(run_id, f"{type(error).__name__}: {error}")
        else:
            if failure is None:
                self.progress.finished.add(run_id)
            else:
                self.fail(run_id, failure.message, failure.trace)

    def retry(self, run_id: str, error: Exception) -> None:
        count = self.progress.retries.get(run_id, 0)
        if count >= self.max_retries:
            cause = str(error).strip().partition("\n")[0]
            self.fail(
                run_id,
                f"lost its worker or node {count + 1} times, the last time: {cause} A process "
                "that is killed again and again usually takes more memory than the machine has",
            )
        else:
            self.progress.retries[run_id] = count + 1
            self.submit(run_id)

    def fail(self, run_id: str, message: str, trace: str = "") -> None:
        folder = run_directory(self.progress.results_dir, run_id)
        # A full disk may be why it failed: the other runs go on all the same.
        with suppress(OSError):
            if trace:
                atomic_write(folder / "error.txt", trace)
                message = f"{message}\n(traceback in {folder / 'error.txt'})"
            mark_failed(folder, message)
        self.progress.failed[run_id] = message

    def cancel(self) -> None:
        """Ask the running tasks to end, wait a little for their last files, then force them."""
        for reference in self.pending:
            ray.cancel(reference, force=False)
        deadline = time.monotonic() + _GRACE_S
        waiting = list(self.pending)
        while waiting and time.monotonic() < deadline:
            _, waiting = ray.wait(waiting, num_returns=len(waiting), timeout=_POLL_S)
        for reference in waiting:
            ray.cancel(reference, force=True)

    def farewell(self) -> str:
        progress = self.progress
        return (
            f"interrupted: {len(progress.finished)} of {len(self.rows)} runs are finished, "
            f"{len(progress.failed)} failed, {len(progress.active)} are not done and keep their "
            "checkpoints; the same command goes on from there"
        )


def _attempt(
    execute: str, row: dict[str, Any], settings: dict[str, Any], threads: int
) -> _Failure | None:
    """In a worker: execute one run; None when it finished, else what it raised."""
    try:
        load(execute, threads)(row, settings)
    except UserError as error:
        return _Failure(str(error), "")
    except (Exception, SystemExit) as error:
        return _Failure(f"{type(error).__name__}: {error}", traceback.format_exc())
    return None


_task = ray.remote(_attempt)
# A worker with a GPU ends after its run: an idle one would keep the card's memory.
_fresh_task = ray.remote(max_calls=1)(_attempt)
