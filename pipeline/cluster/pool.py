"""A grid of runs on Ray: one task per run, a driver without state, everything else in files.

What is finished is read from the records, where an unfinished run goes on from is read from its
own directory: killing this process at any moment and starting it again loses nothing. Runs that
lose their worker or node are started again; an exception of a run is that run's failure, since
bad data or a bug would only fail again.
"""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import ray
from ray import exceptions as lost
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from ecocseg.files import atomic_write
from pipeline.cluster.attempt import (
    BUG,
    LOST,
    MACHINE,
    MEMORY,
    NOT_STARTED,
    STOPPED,
    attempt_run,
    coordinate_group,
)
from pipeline.cluster.nodes import NodeHealth, NodeWatch
from pipeline.cluster.progress import Interrupted, Outcome, Progress, Row
from pipeline.cluster.resources import Resources, impossible
from pipeline.cluster.scheduler import Placement, Scheduler
from pipeline.cluster.usage import Usage
from pipeline.store.paths import record_file, run_directory
from pipeline.store.status import CHECKPOINT, mark_failed, read_status

_POLL_S = 0.5
_LOOK_S = 2.0
_GRACE_S = 8.0
_AVOID_S = 20.0
_LOST_WORKER = (lost.WorkerCrashedError, lost.ObjectLostError)
_LOST_NODE = (lost.NodeDiedError, lost.LocalRayletDiedError)


def run_all(
    rows: Sequence[Row],
    execute: str,
    settings: Mapping[str, Any],
    resources_of: Callable[[Row], Resources],
    results_dir: Path,
    max_retries: int = 3,
    on_progress: Callable[[Progress], None] | None = None,
    node_wait_s: float = 0.0,
) -> Outcome:
    """Execute every row that has no record yet, inside `connect(...)`.

    `rows` are plain mappings with `run_id`, and optionally `cost` (any unit; the longest start
    first, so that the last run does not stretch the grid). `execute` is "module:function", called
    in a worker as `function(row, settings)`; it takes the run's lock, resumes, and writes the
    record last. A run that no live node can take fails before anything starts; when the nodes for
    it are lost later, it waits `node_wait_s` seconds for others. Nodes that join are used.
    `on_progress` is called about twice a second. Raises Interrupted on Ctrl-C.
    """
    results_dir = Path(results_dir).absolute()
    grid = _Grid(execute, settings, resources_of, max_retries, rows, results_dir, node_wait_s)
    report = on_progress or (lambda progress: None)
    try:
        grid.queue_all()
        report(grid.progress)
        while grid.unsettled:
            grid.start_what_fits()
            grid.collect()
            report(grid.progress)
    except KeyboardInterrupt:
        grid.cancel()
        raise Interrupted(grid.farewell()) from None
    progress = grid.progress
    return Outcome(
        finished=[run_id for run_id in grid.rows if run_id in progress.finished],
        failed=dict(progress.failed),
        stopped=[run_id for run_id in grid.rows if run_id in progress.stopped],
        kinds=grid.kinds,
        usage=grid.usage,
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
        node_wait_s: float,
    ) -> None:
        self.execute = execute
        self.settings = dict(settings)
        self.resources_of = resources_of
        self.max_retries = max_retries
        self.node_wait_s = node_wait_s
        # A run id that stands twice in the rows is executed once.
        self.rows = {str(row["run_id"]): row for row in rows}
        self.progress = Progress(rows=list(self.rows.values()), results_dir=results_dir)
        self.scheduler = Scheduler()
        self.usage = Usage()
        self.kinds: dict[str, str] = {}
        self.tasks: dict[ray.ObjectRef, str] = {}
        self._watch = NodeWatch()
        self._looked_at = float("-inf")
        # Run -> since when no live node can take it.
        self._stuck: dict[str, float] = {}
        # Node -> until when nothing is sent there: Ray lists a dead one for some seconds more.
        self._avoided: dict[str, float] = {}
        self._health = NodeHealth()
        # Run -> losses in a row without a new checkpoint, and the checkpoint of the last one.
        self._fruitless: dict[str, tuple[int, int]] = {}

    @property
    def unsettled(self) -> bool:
        """Whether a run waits or runs."""
        return bool(self.tasks or self.scheduler.waiting)

    def queue_all(self) -> None:
        """Queue every run without a record that a live node can take; the others fail here."""
        folder = record_file(self.progress.results_dir, "x").parent
        records = {path.name for path in folder.glob("*.json")}
        self.look_at_nodes()
        nodes = self.scheduler.nodes
        reasons: dict[Resources, str | None] = {}
        for run_id, row in self.rows.items():
            if record_file(self.progress.results_dir, run_id).name in records:
                self.progress.finished.add(run_id)
                continue
            asked = self.resources_of(row)
            if asked not in reasons:
                reasons[asked] = impossible(asked, nodes)
            if reason := reasons[asked]:
                self.fail(run_id, reason, MACHINE)
            else:
                self.scheduler.add(run_id, asked, row.get("cost", 0.0))

    def look_at_nodes(self) -> None:
        """Take in nodes that came and went; says so when the waiting runs need one."""
        now = time.monotonic()
        if now - self._looked_at < _LOOK_S:
            return
        self._looked_at = now
        others = self._watch.others(self.scheduler.running.values())
        self._avoided = {node: until for node, until in self._avoided.items() if until > now}
        nodes = self._watch.nodes()
        shunned = self._avoided.keys() | self._health.suspects(nodes, now)
        others |= dict.fromkeys(shunned, (math.inf, math.inf))
        self.scheduler.update(nodes, others)
        stuck = self.scheduler.impossible()
        self._stuck = {run_id: self._stuck.get(run_id, now) for run_id in stuck}
        over = {r for r, since in self._stuck.items() if now - since >= self.node_wait_s}
        self.scheduler.drop(over)
        for run_id in over:
            reason = stuck.pop(run_id)
            self.fail(run_id, f"its nodes were lost and did not come back: {reason}", MACHINE)
        notices = [self._health.notice] if self._health.notice else []
        if stuck:
            first = min(stuck, key=lambda run_id: self._stuck[run_id])
            left = self.node_wait_s - (now - self._stuck[first])
            reason = stuck[first].partition("; available")[0]
            notices.append(f"{len(stuck)} runs wait {left:.0f} s for a node to come back: {reason}")
        self.progress.notice = "; ".join(notices)

    def start_what_fits(self) -> None:
        """Hand to Ray what there is room for."""
        self.look_at_nodes()
        for placement in self.scheduler.place():
            self.start(placement)
        self.usage.note(
            time.monotonic(),
            busy=sum(placement.slots for placement in self.scheduler.running.values()),
            capacity=self.scheduler.capacity(),
            waiting=self.scheduler.waiting,
        )

    def start(self, placement: Placement) -> None:
        """Start a run at its place."""
        run_id, asked = placement.run_id, placement.asked
        row = dict(self.rows[run_id])
        # Ray's own retries stay off: it counts a task that ran out of memory among the lost ones,
        # and says nothing when it starts one again.
        options: dict[str, Any] = {"max_retries": 0, "name": f"run {run_id}"}
        if asked.processes > 1:
            nodes = [part.node_id for part in placement.parts]
            # Beside one of its processes: another machine's end is then none of its business.
            options["scheduling_strategy"] = NodeAffinitySchedulingStrategy(nodes[0], soft=False)
            reference = _group_task.options(**options).remote(
                self.execute, row, self.settings, placement.each, nodes, asked.threads
            )
        else:
            part = placement.parts[0]
            options |= {
                "num_cpus": part.cpus,
                "num_gpus": part.share * len(part.cards),
                "scheduling_strategy": NodeAffinitySchedulingStrategy(part.node_id, soft=False),
            }
            if asked.memory_mb is not None:
                options["memory"] = asked.memory_mb << 20
            task = _fresh_task if asked.gpus else _task
            reference = task.options(**options).remote(
                self.execute, row, self.settings, asked.threads, part.share
            )
        self.tasks[reference] = run_id
        self.progress.active.add(run_id)
        self.usage.begin(run_id, time.monotonic(), placement.slots)

    def collect(self) -> None:
        """Wait a moment and take in every task that has ended."""
        if not self.tasks:
            # Nothing runs and nothing fits: a node is waited for, or somebody else has it.
            time.sleep(_POLL_S if self.scheduler.waiting else 0)
            return
        ready, _ = ray.wait(list(self.tasks), num_returns=1, timeout=_POLL_S)
        if ready:
            ready, _ = ray.wait(list(self.tasks), num_returns=len(self.tasks), timeout=0)
        for reference in ready:
            run_id = self.tasks.pop(reference)
            self.progress.active.discard(run_id)
            placement = self.scheduler.release(run_id)
            now = time.monotonic()
            took = self.usage.end(run_id, now)
            node_ids = [part.node_id for part in placement.parts]
            self.settle(run_id, reference, node_ids)
            if run_id in self.progress.finished:
                self._health.finished(node_ids)
            elif run_id in self.progress.failed:
                self._health.failed(node_ids, took, now)

    def settle(self, run_id: str, reference: ray.ObjectRef, node_ids: Sequence[str]) -> None:
        """Decide what became of a run whose task on `node_ids` has ended."""
        try:
            failure = ray.get(reference)
        except lost.OutOfMemoryError as error:
            self.fail(run_id, f"the machine ran out of memory: {error}", MEMORY)
        except lost.TaskUnschedulableError:
            # The node went before the run had begun: no attempt of the run's.
            self.avoid(node_ids)
            self.scheduler.requeue(run_id)
        except _LOST_NODE as error:
            self.avoid(node_ids)
            self.retry(run_id, str(error))
        except _LOST_WORKER as error:
            self.retry(run_id, str(error))
        except lost.RayError as error:
            self.fail(run_id, f"{type(error).__name__}: {error}", BUG)
        else:
            if failure is None:
                self.progress.finished.add(run_id)
            elif failure.kind == NOT_STARTED:
                self.avoid(node_ids)
                self.scheduler.requeue(run_id)
            elif failure.kind == LOST:
                self._looked_at = float("-inf")
                self.retry(run_id, failure.message)
            elif failure.kind == STOPPED:
                self.progress.stopped.add(run_id)
            else:
                self.fail(run_id, failure.message, failure.kind, failure.trace)

    def avoid(self, node_ids: Sequence[str]) -> None:
        """Send nothing to nodes that were lost, however Ray still lists them."""
        until = time.monotonic() + _AVOID_S
        self._avoided |= dict.fromkeys(node_ids, until)
        self._looked_at = float("-inf")

    def retry(self, run_id: str, cause: str) -> None:
        """Queue a run again that lost its worker or node; not for ever if it never gets on."""
        self.progress.retries[run_id] = self.progress.retries.get(run_id, 0) + 1
        reached = self.reached(run_id)
        count, before = self._fruitless.get(run_id, (0, 0))
        count = 1 if reached > before else count + 1
        self._fruitless[run_id] = count, max(reached, before)
        if count > self.max_retries:
            cause = cause.strip().partition("\n")[0]
            self.fail(
                run_id,
                f"lost its worker or node {count} times without a new checkpoint, the last time: "
                f"{cause} A process that is killed again and again usually takes more memory than "
                "the machine has",
                LOST,
            )
        else:
            self.scheduler.requeue(run_id)

    def reached(self, run_id: str) -> int:
        """A number that has grown when a run has got on: the time of its last checkpoint.

        Of a run in an object store, whose checkpoint is not here, the step that it last told.
        """
        folder = run_directory(self.progress.results_dir, run_id)
        if self.settings.get("storage") is not None:
            status = read_status(folder)
            return status.step if status else 0
        try:
            return (folder / CHECKPOINT).stat().st_mtime_ns
        except OSError:
            return 0

    def fail(self, run_id: str, message: str, kind: str, trace: str = "") -> None:
        """Record why a run failed."""
        self.kinds[run_id] = kind
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
        for reference in self.tasks:
            ray.cancel(reference, force=False)
        deadline = time.monotonic() + _GRACE_S
        waiting = list(self.tasks)
        while waiting and time.monotonic() < deadline:
            _, waiting = ray.wait(waiting, num_returns=len(waiting), timeout=_POLL_S)
        for reference in waiting:
            ray.cancel(reference, force=True)

    def farewell(self) -> str:
        """What Ctrl-C left, and how to go on."""
        progress = self.progress
        left = len(self.rows) - len(progress.finished) - len(progress.failed)
        return (
            f"interrupted: {len(progress.finished)} of {len(self.rows)} runs are finished, "
            f"{len(progress.failed)} failed, {left} are not done and keep their "
            "checkpoints; the same command goes on from there"
        )


_task = ray.remote(attempt_run)
# A worker with a GPU ends after its run: an idle one would keep the card's memory.
_fresh_task = ray.remote(max_calls=1)(attempt_run)
_group_task = ray.remote(num_cpus=0, max_calls=1)(coordinate_group)
