"""What is seen of a grid: its runs, and what follows from them."""

import time
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any

from pipeline.store.lock import Holder
from pipeline.store.status import RunStatus

STATES = ("running", "stopping", "interrupted", "failed", "stopped", "queued", "copy", "finished")
"""As shown: `stopping` is asked to; `interrupted` was running and has no process now; a `copy`
waits for the record of another run of equal content."""


@dataclass(frozen=True, kw_only=True)
class RunSight:
    """One run as its files show it; `cause` says why it failed, was stopped or who runs it."""

    run_id: str
    experiment: str
    cell: str
    seed: int
    cost: float
    state: str
    status: RunStatus | None = None
    cause: str = ""
    planned: bool = True

    @property
    def done(self) -> float:
        """The share of its steps that is behind it, 0 to 1."""
        if self.state in ("finished", "copy"):
            return float(self.state == "finished")
        steps = self.status.steps if self.status else 0
        return min(1.0, self.status.step / steps) if self.status and steps else 0.0


@dataclass(frozen=True, kw_only=True)
class SearchSight:
    """A search under way: its trials by state, the best score so far (percent), who drives it.

    Compared are the trials that got furthest, to `step`.
    """

    trials: dict[str, int]
    best: float | None
    step: int | None
    driver: Holder | None


@dataclass(frozen=True, kw_only=True)
class Glance:
    """The grid at one moment; `driver` is None when no grid runs."""

    runs: list[RunSight]
    driver: Holder | None
    smoke: int = 0
    """Cells of unfinished runs that were smoke-run."""
    search: SearchSight | None = None
    at: float = field(default_factory=time.time)

    @property
    def counts(self) -> dict[str, int]:
        """Planned runs by state."""
        found = dict.fromkeys(STATES, 0)
        for run in self.runs:
            found[run.state] += run.planned
        return found

    @property
    def progress(self) -> float:
        """Share of the planned work that is done, 0 to 1: steps weighed with the runs' cost."""
        runs = [run for run in self.runs if run.planned and run.state != "copy"]
        whole = sum(run.cost or 1.0 for run in runs)
        return sum(run.done * (run.cost or 1.0) for run in runs) / whole if whole else 0.0

    @property
    def seconds_to_go(self) -> float | None:
        """A rough guess by the speed of the running ones; None while none tells its speed."""
        moving = [run for run in self.runs if run.state == "running" and run.status]
        paces = []
        for run in moving:
            status = run.status
            if status and status.steps_per_second and status.steps:
                paces.append(status.steps / status.steps_per_second / (run.cost or 1.0))
        if not paces:
            return None
        pace = median(paces)
        left = []
        for run in self.runs:
            if run.state in ("running", "interrupted", "queued") and (run.planned or run in moving):
                told = run.status.eta_s if run.state == "running" and run.status else None
                left.append(pace * (run.cost or 1.0) * (1 - run.done) if told is None else told)
        return max(sum(left) / len(moving), max(left))

    def to_json(self) -> dict[str, Any]:
        """Plain values for scripts."""
        values = asdict(self)
        for run in values["runs"]:
            status = run.pop("status") or {}
            run |= {k: v for k, v in status.items() if k not in ("state", "message")}
        search = values.pop("search")
        counts = {"counts": self.counts, "progress": self.progress}
        return counts | {"seconds_to_go": self.seconds_to_go} | values | {"search": search}
