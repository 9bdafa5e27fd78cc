"""A results folder as a grid leaves it, for the tests of what people look at."""

import json
from pathlib import Path

from pipeline.store.paths import record_file, run_directory
from pipeline.store.status import RunStatus, write_status


def plan(results: Path, cells: dict[str, float], seeds: int = 1, experiment: str = "exp") -> list:
    """Write a plan of `cells` (name -> cost); the run ids."""
    rows = [
        {
            "run_id": f"{experiment}-{cell}-s{seed}-{place:05d}{seed:05d}",
            "experiment": experiment,
            "cell": cell,
            "seed": seed,
            "smoke_id": f"smoke-{cell}",
            "cost": cost,
        }
        for place, (cell, cost) in enumerate(cells.items())
        for seed in range(seeds)
    ]
    results.mkdir(parents=True, exist_ok=True)
    (results / "plan.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return [row["run_id"] for row in rows]


def status(results: Path, run_id: str, state: str, **fields: object) -> Path:
    """Give a run a status; its folder."""
    folder = run_directory(results, run_id)
    write_status(folder, RunStatus(state=state, **fields))
    return folder


def finish(results: Path, run_id: str) -> None:
    path = record_file(results, run_id)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("{}")
