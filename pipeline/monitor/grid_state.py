"""What the grid is doing, read from its files alone: no Ray, no MLflow, no torch.

A status is a courtesy that a killed process leaves behind; whether a run moves is told by its lock,
which falls with its holder. Of a run on a machine that shares no folder with this one
(`cluster.storage`) there is no lock here: its status is believed as long as the grid runs.
"""

import difflib
import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from ecocseg.errors import DataError, UserError
from pipeline.monitor.states import Glance, RunSight, SearchSight
from pipeline.store.lock import is_held, read_holder
from pipeline.store.paths import run_directory
from pipeline.store.status import FILE_NAME, RunStatus, read_status
from pipeline.store.stopping import request, stop_requested

PLAN, GRID_LOCK, SEARCH, SEARCH_LOCK = "plan.jsonl", "grid.lock", "search", ".lock"
_SHOWN_NAMES = 8


def look(results: Path, *, details: bool = False) -> Glance:
    """Read the plan and what its runs left below `results`; without a plan, the runs alone.

    With `details` finished runs have their last status too. Raises DataError when there is neither
    plan nor run nor a search under way, or the plan is no JSON.
    """
    results = Path(results)
    rows = _plan(results / PLAN)
    folders = _names(results / "runs")
    search = _search(results / SEARCH)
    if not rows and not folders and search is None:
        raise DataError(
            f"{results / PLAN}: there is no plan yet, and no run; type `dvc repro plan`, or "
            "`ecocseg train` for a single run"
        )
    reader = _Reader(results, folders, details)
    runs = [reader.planned(row) for row in rows.values()]
    for run_id in sorted(folders - rows.keys()):
        if is_held(run_directory(results, run_id) / "lock"):
            runs.append(reader.unplanned(run_id))
    return Glance(
        runs=reader.with_copies(runs),
        driver=reader.driver,
        smoke=len({f"{row.get('smoke_id')}.json" for row in rows.values()} & reader.smoked),
        search=search,
    )


def look_at(results: Path, run_id: str) -> RunSight:
    """One run, planned or not."""
    return _Reader(Path(results), {run_id}).one(run_id)


def find_run(results: Path, name: str) -> str:
    """The run id that `name` stands for: itself, the start of one, or EXPERIMENT/CELL/SEED.

    Raises UserError when no run or more than one answers to it.
    """
    results = Path(results)
    planned = _plan(results / PLAN)
    known = planned.keys() | _names(results / "runs")
    known |= {Path(file).stem for file in _names(results / "records")}
    if not known:
        raise UserError(f"run: got {name!r}, but there is no run yet; type `dvc repro plan`")
    parts = name.split("/")
    if not all(parts) or len(parts) > 3:
        raise UserError(
            f"run: got {name!r}, allowed a run id, the start of one or EXPERIMENT/CELL/SEED"
        )
    if name in known:
        return name
    start = name
    if "/" in name:
        experiment, cell, *seed = parts
        start = f"{experiment}-{cell}-s" + (f"{seed[0]}-" if seed else "")
    found = sorted(run_id for run_id in known if run_id.startswith(start))
    # Of runs whose configuration has changed since, the planned one is meant.
    found = [run_id for run_id in found if run_id in planned] or found
    if len(found) == 1:
        return found[0]
    if not found:
        near = difflib.get_close_matches(name, sorted(known), n=1, cutoff=0.4)
        hint = f" (did you mean {near[0]}?)" if near else ""
        raise UserError(
            f"run: none of {len(known)} is called {name!r}{hint}; write a run id, the start of one "
            "or EXPERIMENT/CELL/SEED; `ecocseg status --all` lists them"
        )
    shown = "\n".join(f"  {run_id}" for run_id in found[:_SHOWN_NAMES])
    more = f"\n  and {len(found) - _SHOWN_NAMES} more" if len(found) > _SHOWN_NAMES else ""
    raise UserError(
        f"run: {name!r} stands for {len(found)} runs; write more of one:\n{shown}{more}"
    )


class _Reader:
    """Finds each run's state from its files, touching those of finished runs as little as it can.

    `folders` are the names of the runs that have one; with `details` finished ones are read too.
    """

    def __init__(self, results: Path, folders: set[str], details: bool = True) -> None:
        self.results, self.folders, self.details = results, folders, details
        self.records = _names(results / "records")
        lock = results / GRID_LOCK
        held = is_held(lock)
        self.driver = read_holder(lock) if held else None
        # When the present grid began, by the clock of the disk; None when none runs.
        self.since = lock.stat().st_mtime if held else None
        self.smoked = _names(results / "smoke" / "records")
        self.smoke_folders = _names(results / "smoke" / "runs")

    def planned(self, row: Mapping[str, Any]) -> RunSight:
        run_id = str(row["run_id"])
        values: dict[str, Any] = {
            "run_id": run_id,
            "experiment": str(row.get("experiment", "")),
            "cell": str(row.get("cell", run_id)),
            "seed": int(row.get("seed", 0)),
            "cost": float(row.get("cost", 0.0)),
        }
        if f"{run_id}.json" in self.records:
            status = read_status(run_directory(self.results, run_id)) if self.details else None
            return RunSight(**values, state="finished", status=status)
        if run_id in self.folders:
            return RunSight(**values, **self._begun(run_id))
        return RunSight(**values, **self._smoke(str(row.get("smoke_id", run_id))))

    def unplanned(self, run_id: str) -> RunSight:
        parts = run_id.split("-")
        named = len(parts) >= 4 and parts[-2][:1] == "s" and parts[-2][1:].isdecimal()
        return RunSight(
            run_id=run_id,
            experiment=parts[0] if named else "",
            cell="-".join(parts[1:-2]) if named else run_id,
            seed=int(parts[-2][1:]) if named else 0,
            cost=0.0,
            planned=False,
            **self._begun(run_id),
        )

    def one(self, run_id: str) -> RunSight:
        if f"{run_id}.json" in self.records:
            folder = run_directory(self.results, run_id)
            return replace(self.unplanned(run_id), state="finished", status=read_status(folder))
        return self.unplanned(run_id)

    def with_copies(self, runs: list[RunSight]) -> list[RunSight]:
        """Mark the waiting runs whose content, the last part of a run id, another one computes."""
        computing: dict[str, str] = {}
        found = []
        for run in sorted(runs, key=lambda run: run.state == "queued"):
            digest = run.run_id.rpartition("-")[2]
            source = computing.setdefault(digest, run.run_id)
            if run.state == "queued" and source != run.run_id:
                run = replace(run, state="copy", cause=f"of {source}")
            found.append(run)
        order = {run.run_id: place for place, run in enumerate(runs)}
        return sorted(found, key=lambda run: order[run.run_id])

    def _begun(self, run_id: str) -> dict[str, Any]:
        folder = run_directory(self.results, run_id)
        status = read_status(folder)
        asked = stop_requested(folder)
        if is_held(folder / "lock"):
            holder = read_holder(folder / "lock")
            if status is not None and holder is not None and status.pid != holder.pid:
                # What an earlier attempt left; this one has not said anything yet.
                status = RunStatus(
                    step=status.step, steps=status.steps, activity="starting", node=holder.host
                )
            state = "stopping" if asked else "running"
            return {"state": state, "status": status, "cause": str(holder or "")}
        if status is None:
            told = f"asked to stop {request(folder)}" if asked else ""
            return {"state": "stopped" if asked else "queued", "cause": told}
        cause = status.message.partition("; ")[0] if status.state == "stopped" else status.message
        if status.state == "running" and self._elsewhere(folder, status):
            state = "stopping" if asked else "running"
            return {"state": state, "status": status, "cause": f"on {status.host}"}
        if status.state == "running":
            return {"state": "stopped" if asked else "interrupted", "status": status}
        if asked:
            # Of before, when it waits for a turn that does not come any more.
            told = cause if status.state == "stopped" else f"asked to stop {request(folder)}"
            return {"state": "stopped", "status": status, "cause": told}
        if status.state in ("failed", "stopped") and not self._before(folder / FILE_NAME):
            return {"state": status.state, "status": status, "cause": cause}
        return {"state": "queued", "status": status}

    def _smoke(self, smoke_id: str) -> dict[str, Any]:
        """What the cell's smoke run says of a run that has not begun."""
        if smoke_id in self.smoke_folders and f"{smoke_id}.json" not in self.smoked:
            folder = run_directory(self.results / "smoke", smoke_id)
            status = read_status(folder)
            if status and status.state == "failed" and not self._before(folder / FILE_NAME):
                return {"state": "failed", "cause": f"smoke run: {status.message}"}
        return {"state": "queued"}

    def _elsewhere(self, folder: Path, status: RunStatus) -> bool:
        """Whether the present grid mirrors the status of a machine whose locks are not seen."""
        if self.since is None or self._before(folder / FILE_NAME):
            return False
        holder = read_holder(folder / "lock")
        return holder is None or holder.host != status.host

    def _before(self, file: Path) -> bool:
        """Whether the file is older than the present grid, which has yet to come to this run."""
        try:
            return self.since is not None and file.stat().st_mtime < self.since
        except OSError:
            return False


def _plan(path: Path) -> dict[str, dict[str, Any]]:
    """The rows by run id; read here, since planning itself brings torch."""
    if not path.is_file():
        return {}
    try:
        rows = [json.loads(line) for line in path.read_text().splitlines() if line]
        return {row["run_id"]: row for row in rows}
    except (ValueError, TypeError, KeyError) as error:
        raise DataError(f"{path}: is no plan ({error}); type `dvc repro -f plan`") from error


def _names(folder: Path) -> set[str]:
    try:
        return {entry.name for entry in folder.iterdir() if not entry.name.startswith(".")}
    except OSError:
        return set()


def _search(folder: Path) -> SearchSight | None:
    """None when no search runs. What its trials do stands in the file that it goes on from."""
    lock = folder / SEARCH_LOCK
    if not is_held(lock):
        return None
    states: list[str] = []
    # Scores at different steps do not compare: the best is one of those that got furthest.
    scores: list[tuple[int, float]] = []
    with suppress(OSError, ValueError, KeyError, TypeError):
        # Those that are being written have a name that begins with a dot.
        found = (folder / "state").glob("[!.]*.json")
        ledger = max(found, key=lambda path: path.stat().st_mtime)
        for trial in json.loads(ledger.read_text())["trials"]:
            states.append(str(trial["state"]))
            if trial["state"] != "failed":
                scores += [(int(s["step"]), float(s["mean"])) for s in trial["scores"][-1:]]
    step, best = max(scores, default=(None, None))
    return SearchSight(
        trials={state: states.count(state) for state in dict.fromkeys(states)},
        best=best,
        step=step,
        driver=read_holder(lock),
    )
