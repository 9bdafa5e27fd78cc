"""Simulated grids on the scheduler of `ecocseg grid`: 10,000 runs on 1 to 256 GPUs that fail.

The placing code is the real one (`pipeline.cluster.scheduler`), and so is the measure of its use
(`pipeline.cluster.usage`); Ray and the runs are replaced by a clock. What the clock cannot show,
the driver's own time for each run on a real Ray, is measured by `driver_overhead`.
"""

import heapq
import random
import resource
import tempfile
import time
from collections.abc import Iterator, Sequence
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
    chance = random.Random(seed)
    machines = _machines(gpus)
    scheduler, usage = Scheduler(), Usage()
    left: dict[str, float] = {}
    for number in range(runs):
        run_id = f"run-{number:05}"
        asked, hours = _draw(chance, gpus)
        left[run_id] = hours * _HOUR
        # What a plan knows of a run's length is an estimate.
        cost = hours * asked.processes * chance.uniform(0.9, 1.1)
        scheduler.add(run_id, asked, cost)
    live = {node.id: node for node in machines}
    began: dict[str, tuple[float, int]] = {}
    # Time, order among equals, what, of whom, and the attempt of a run that it is about.
    events: list[tuple[float, int, str, str, int]] = []
    order = iter(range(10**9))
    attempts: dict[str, int] = {}
    lost = 0

    def at(when: float, what: str, whom: str, attempt: int = 0) -> None:
        heapq.heappush(events, (when, next(order), what, whom, attempt))

    for node in machines:
        at(chance.expovariate(1 / (node_hours * _HOUR)), "down", node.id)
    cpu = 0.0
    now = 0.0
    scheduler.update(live.values())
    while True:
        begun = time.process_time()
        placed = scheduler.place()
        usage.note(
            now,
            busy=sum(placement.slots for placement in scheduler.running.values()),
            capacity=scheduler.capacity(),
            waiting=scheduler.waiting,
        )
        cpu += time.process_time() - begun
        for placement in placed:
            run_id = placement.run_id
            attempts[run_id] = attempts.get(run_id, 0) + 1
            began[run_id] = now, attempts[run_id]
            usage.begin(run_id, now, placement.slots)
            fails = chance.expovariate(1 / (worker_hours * _HOUR))
            what, after = ("end", left[run_id]) if left[run_id] <= fails else ("lost", fails)
            at(now + after, what, run_id, attempts[run_id])
        if not scheduler.running and not scheduler.waiting:
            break
        now, _, what, whom, attempt = heapq.heappop(events)
        ended: list[tuple[str, bool]] = []
        if what in ("end", "lost"):
            if began.get(whom, (0.0, -1))[1] == attempt:
                ended.append((whom, what == "end"))
        elif what == "down":
            node = live.pop(whom)
            hit = [
                run_id
                for run_id, placement in scheduler.running.items()
                if any(part.node_id == whom for part in placement.parts)
            ]
            ended += [(run_id, False) for run_id in hit]
            at(now + down_hours * _HOUR, "up", whom)
        else:
            # A node that comes back is another one to Ray.
            node = next(each for each in machines if each.id == whom)
            live[whom] = node
            at(now + chance.expovariate(1 / (node_hours * _HOUR)), "down", whom)
        begun = time.process_time()
        if what in ("down", "up"):
            scheduler.update(live.values())
        for run_id, finished in ended:
            scheduler.release(run_id)
            usage.end(run_id, now)
            done = now - began.pop(run_id)[0]
            if not finished:
                lost += 1
                left[run_id] -= done // _CHECKPOINT_S * _CHECKPOINT_S
                scheduler.requeue(run_id)
        cpu += time.process_time() - begun
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6
    return Simulated(runs=runs, gpus=gpus, lost=lost, usage=usage, cpu_s=cpu, peak_mb=peak)


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


if __name__ == "__main__":
    for line in table((1, 2, 4, 8, 16, 64, 256), 10_000):
        print("  ".join(f"{cell:>14}" for cell in line))
    cpu, clock = driver_overhead()
    print(
        f"driver on a real Ray: {1000 * cpu:.1f} ms of its processor, {1000 * clock:.0f} ms a run"
    )
