"""Simulated grids on the scheduler of `ecocseg grid`: 10,000 runs on 1 to 256 GPUs that fail.

The placing code is the real one (`pipeline.cluster.scheduler`), and so is the measure of its use
(`pipeline.cluster.usage`); Ray and the runs are replaced by a clock. What the clock cannot show,
the driver's own time for each run on a real Ray, is measured by `driver_overhead`.
"""

import argparse
import heapq
import itertools
import random
import resource
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pipeline.cluster.resources import Node, Resources
from pipeline.cluster.scheduler import Scheduler
from pipeline.cluster.usage import Usage

_HOUR = 3600.0
# Share of the runs, GPUs, hours, GB of a card: DACS, DAFormer (the paper's Table 15: 13.7 h), MIC
# on two cards, UniMatch on Pascal on four.
_RECIPES = (
    (0.35, 1, 7.0, 6.2),
    (0.35, 1, 14.0, 8.8),
    (0.2, 2, 20.0, 9.8),
    (0.1, 4, 10.0, 5.7),
)
_CHECKPOINT_S = 0.25 * _HOUR


@dataclass(frozen=True, kw_only=True)
class Simulated:
    """What a simulated grid came to; times in seconds, of the simulation and of this machine."""

    runs: int
    gpus: int
    lost: int
    """Attempts that ended because their node or worker was lost."""
    usage: Usage
    cpu_s: float
    """What placing, releasing and looking at nodes took here."""
    peak_mb: float


def simulate(
    runs: int,
    gpus: int,
    *,
    seed: int = 0,
    node_hours: float = 200.0,
    down_hours: float = 0.5,
    worker_hours: float = 500.0,
) -> Simulated:
    """A grid of `runs` on nodes of up to 8 GPUs.

    Mean hours between losses of a node (which comes back after `down_hours`) and between losses of
    a run's worker; what they ran goes on from its last checkpoint.
    """
    return _Simulation(runs, gpus, seed, node_hours, down_hours, worker_hours).go()


class _Simulation:
    """A clock, the events to come, and the scheduler that reacts to them."""

    def __init__(
        self,
        runs: int,
        gpus: int,
        seed: int,
        node_hours: float,
        down_hours: float,
        worker_hours: float,
    ) -> None:
        self.runs, self.gpus = runs, gpus
        self.node_s, self.down_s = node_hours * _HOUR, down_hours * _HOUR
        self.worker_s = worker_hours * _HOUR
        self.chance = random.Random(seed)
        self.scheduler, self.usage = Scheduler(), Usage()
        self.now = self.cpu_s = 0.0
        self.lost = 0
        self.nodes = {node.id: node for node in _machines(gpus)}
        self.down: set[str] = set()
        # Time, order among equals, what, of whom, and the attempt of a run that it is about.
        self.events: list[tuple[float, int, str, str, int]] = []
        self.order = itertools.count()
        self.left: dict[str, float] = {}
        self.began: dict[str, float] = {}
        self.attempts: Counter[str] = Counter()
        for number in range(runs):
            asked, hours = _draw(self.chance, gpus)
            self.left[run_id := f"run-{number:05}"] = hours * _HOUR
            # What a plan knows of a run's length is an estimate.
            cost = hours * asked.processes * self.chance.uniform(0.9, 1.1)
            self.scheduler.add(run_id, asked, cost)
        for node_id in self.nodes:
            self.at(self.chance.expovariate(1 / self.node_s), "down", node_id)
        self.scheduler.update(self.nodes.values())

    def go(self) -> Simulated:
        """From the first start to the last end."""
        self.place()
        while self.scheduler.running or self.scheduler.waiting:
            self.now, _, what, whom, attempt = heapq.heappop(self.events)
            if what in ("down", "up"):
                self.node_changes(what, whom)
            elif whom in self.began and attempt == self.attempts[whom]:
                self.ends(whom, finished=what == "end")
            self.place()
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6
        return Simulated(
            runs=self.runs,
            gpus=self.gpus,
            lost=self.lost,
            usage=self.usage,
            cpu_s=self.cpu_s,
            peak_mb=peak,
        )

    def at(self, when: float, what: str, whom: str, attempt: int = 0) -> None:
        heapq.heappush(self.events, (when, next(self.order), what, whom, attempt))

    @contextmanager
    def counted(self) -> Iterator[None]:
        """The scheduler's own time, which the grid's driver would spend as well."""
        begun = time.process_time()
        yield
        self.cpu_s += time.process_time() - begun

    def place(self) -> None:
        with self.counted():
            placed = self.scheduler.place()
            self.usage.note(
                self.now,
                busy=sum(placement.slots for placement in self.scheduler.running.values()),
                capacity=self.scheduler.capacity(),
                waiting=self.scheduler.waiting,
            )
        for placement in placed:
            run_id = placement.run_id
            self.attempts[run_id] += 1
            self.began[run_id] = self.now
            self.usage.begin(run_id, self.now, placement.slots)
            fails, left = self.chance.expovariate(1 / self.worker_s), self.left[run_id]
            what = "end" if left <= fails else "lost"
            self.at(self.now + min(left, fails), what, run_id, self.attempts[run_id])

    def ends(self, run_id: str, *, finished: bool) -> None:
        """A run is done, or goes on later from its last checkpoint."""
        self.usage.end(run_id, self.now)
        done = self.now - self.began.pop(run_id)
        with self.counted():
            self.scheduler.release(run_id)
            if not finished:
                self.scheduler.requeue(run_id)
        if not finished:
            self.lost += 1
            self.left[run_id] -= done // _CHECKPOINT_S * _CHECKPOINT_S

    def node_changes(self, what: str, node_id: str) -> None:
        """A node goes with all it runs, or comes back."""
        if what == "down":
            self.down.add(node_id)
            self.at(self.now + self.down_s, "up", node_id)
        else:
            self.down.remove(node_id)
            self.at(self.now + self.chance.expovariate(1 / self.node_s), "down", node_id)
        with self.counted():
            self.scheduler.update(node for node in self.nodes.values() if node.id not in self.down)
        for run_id, placement in list(self.scheduler.running.items()):
            if any(part.node_id in self.down for part in placement.parts):
                self.ends(run_id, finished=False)


def driver_overhead(runs: int = 200) -> tuple[float, float]:
    """Seconds of the driver's processor time, and of the clock, for each of `runs` empty runs.

    A real Ray of two cores on this machine; the clock includes Ray's start of two workers.
    """
    from pipeline.cluster.pool import run_all
    from pipeline.cluster.session import ClusterConfig, connect

    rows = [{"run_id": f"run-{number:05}", "cost": number} for number in range(runs)]
    with (
        tempfile.TemporaryDirectory() as folder,
        connect(ClusterConfig(num_cpus=2)),
    ):
        cpu, clock = time.process_time(), time.perf_counter()
        # A work function that every worker can import and that does nothing with row and settings.
        outcome = run_all(rows, "operator:is_not", {}, lambda row: Resources(), Path(folder))
        cpu, clock = time.process_time() - cpu, time.perf_counter() - clock
    if len(outcome.finished) != runs:
        raise RuntimeError(f"only {len(outcome.finished)} of {runs} runs finished")
    return cpu / runs, clock / runs


def table(gpus: Sequence[int], runs: int) -> Iterator[tuple[str, ...]]:
    """A line for each number of GPUs: what scale.py prints."""
    yield (
        "GPUs",
        "runs",
        "attempts lost",
        "makespan h",
        "lower bound h",
        "above it",
        "busy until the last start",
        "scheduler ms a run",
        "peak memory MB",
    )
    for count in gpus:
        found = simulate(runs, count)
        usage = found.usage
        yield (
            f"{count}",
            f"{runs:,}",
            f"{found.lost:,}",
            f"{usage.makespan / _HOUR:,.0f}",
            f"{usage.lower_bound / _HOUR:,.0f}",
            f"{usage.makespan / usage.lower_bound - 1:.1%}",
            f"{usage.utilisation or 0:.1%}",
            f"{1000 * found.cpu_s / runs:.2f}",
            f"{found.peak_mb:,.0f}",
        )


def _machines(gpus: int) -> list[Node]:
    labels = {"gpu": "rtx3090", "gpu-memory-gb": "25.8"}
    sizes = [8] * (gpus // 8) + ([gpus % 8] if gpus % 8 else [])
    return [
        Node(id=f"box{i}", name=f"box{i}", cpus=48, gpus=size, memory_mb=256_000, labels=labels)
        for i, size in enumerate(sizes)
    ]


def _draw(chance: random.Random, gpus: int) -> tuple[Resources, float]:
    """A run's needs and hours; recipes for more GPUs than there are take one for longer."""
    _, processes, hours, memory = chance.choices(_RECIPES, [recipe[0] for recipe in _RECIPES])[0]
    if processes > min(gpus, 8):
        hours, processes = hours * processes, 1
    asked = Resources(cpus=5, gpus=1, gpu_memory_gb=memory, processes=processes)
    return asked, hours * chance.uniform(0.9, 1.1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=10_000, help="runs of each simulated grid")
    parser.add_argument("--gpus", type=int, nargs="+", default=[1, 2, 4, 8, 16, 64, 256])
    parser.add_argument(
        "--driver-runs", type=int, default=200, help="empty runs on a real Ray; 0: none"
    )
    options = parser.parse_args()
    for line in table(options.gpus, options.runs):
        print("  ".join(f"{cell:>14}" for cell in line))
    if options.driver_runs:
        cpu, clock = driver_overhead(options.driver_runs)
        print(
            f"driver on a real Ray: {1000 * cpu:.1f} ms of its processor, "
            f"{1000 * clock:.0f} ms a run"
        )


if __name__ == "__main__":
    main()
