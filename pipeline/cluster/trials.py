"""What a search found: its trials as a table, its best values as overrides."""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from ray import tune

from ecocseg.errors import UserError
from ecocseg.files import atomic_write
from pipeline.cluster.space import plain_value

METRIC = "miou"
FAILED = -1.0  # below any mIoU: what the sampler is told of a trial that raised


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One trial, from 1: `state` is finished, stopped (early, by ASHA) or failed."""

    number: int
    params: dict[str, Any]
    state: str
    steps: int
    miou: float | None
    message: str = ""


@dataclass(frozen=True, kw_only=True)
class SearchResult:
    """All trials in order, and the best one: the highest last mIoU among those that finished."""

    trials: list[Trial]
    best: Trial

    @property
    def overrides(self) -> list[str]:
        """The best values as command-line overrides."""
        return [f"{name}={value}" for name, value in self.best.params.items()]


def summarise(grid: tune.ResultGrid, names: Sequence[str], max_steps: int) -> SearchResult:
    """The trials of a finished search; raises UserError when every one of them failed."""
    found = []
    results = [grid[index] for index in range(len(grid))]
    for number, result in enumerate(sorted(results, key=lambda result: result.path), start=1):
        metrics, config = result.metrics or {}, result.config or {}
        value, step = metrics.get(METRIC), int(metrics.get("step", 0))
        message = str(metrics.get("message", "") or result.error or "")
        if value is None or value == FAILED or result.error is not None:
            state, value = "failed", None
        else:
            state = "finished" if step >= max_steps else "stopped"
        params = {name: plain_value(config[name]) for name in sorted(names)}
        found.append(
            Trial(
                number=number,
                params=params,
                state=state,
                steps=step,
                miou=value,
                message=message,
            )
        )
    scored = [trial for trial in found if trial.miou is not None]
    if not scored:
        raise UserError(
            f"search: all {len(found)} trials failed, the first with: "
            f"{found[0].message or 'no report'}"
        )
    candidates = [trial for trial in scored if trial.state == "finished"] or scored
    return SearchResult(trials=found, best=max(candidates, key=lambda trial: trial.miou or 0.0))


def write_result(result: SearchResult, folder: Path, objective: str) -> None:
    """Write `trials.csv` and `best.yaml` into `folder`."""
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(["trial", *result.best.params, METRIC, "steps", "state"])
    for trial in result.trials:
        score = "" if trial.miou is None else f"{trial.miou:.4f}"
        writer.writerow([trial.number, *trial.params.values(), score, trial.steps, trial.state])
    atomic_write(folder / "trials.csv", table.getvalue())
    best = {
        "overrides": result.overrides,
        "objective": {"name": METRIC, "mode": "max", "function": objective},
        "value": round(float(result.best.miou or 0.0), 4),
        "trial": result.best.number,
        "steps": result.best.steps,
    }
    atomic_write(folder / "best.yaml", yaml.safe_dump(best, sort_keys=False))
