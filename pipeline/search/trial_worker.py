"""What a worker does with one trial: execute the objective, and report as far as it got before.

A trial keeps its files in `<storage>/trials/<digest of what it computes>`: `reports.json`, all that
was reported, and `state/`, the objective's own checkpoints. A trial that is started again reports
what it reported before and goes on; one that another search had done is not executed again.
"""

import hashlib
import json
import shutil
import traceback
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ray import tune

from ecocseg.errors import UserError
from ecocseg.files import atomic_write
from pipeline.cluster.worker import load
from pipeline.search.space import plain_value
from pipeline.store.lock import RunLock

METRIC, STEP = "miou", "step"
FAILED = -1.0  # below any score: what is reported of a trial that raised
STATE, REPORTS, LOCK, LATEST = "state", "reports.json", "lock", "report.json"


@dataclass(frozen=True, kw_only=True)
class Work:
    """What every trial of a search has in common.

    `population`: values change while training; a trial then begins with the checkpoint that Tune
    hands it, and its folder goes by `name` and number.
    """

    objective: str
    row: dict[str, Any]
    settings: dict[str, Any]
    name: str
    trials_dir: Path
    threads: int
    max_steps: int
    population: bool

    def folder(self, number: int, values: Mapping[str, Any]) -> Path:
        """Where a trial keeps its files."""
        if self.population:
            return self.trials_dir / f"{self.name}-{number:05d}"
        scored = {key: self.settings.get(key) for key in ("seeds", "network")}
        return self.trials_dir / digest([self.objective, content(self.row), scored, dict(values)])


def content(row: Mapping[str, Any]) -> Any:
    """What decides the outcome of a row: the id of a planned run, or else all that it holds."""
    return row.get("run_id", row)


def digest(value: Any) -> str:
    """Sixteen digits of a plain value's content."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def folder_name(trial: Any) -> str:
    """Tune's own folder of a trial: by our number, which the worker reads from it."""
    return f"{trial.config['number']:05d}"


def run_trial(config: Mapping[str, Any], work: Work) -> None:
    """In a worker: one trial to its end, to the scheduler's word, or to its failure."""
    # Not from the configuration: a population copies that from one trial to another.
    number = int(Path(tune.get_context().get_trial_dir()).name)
    values = {name: plain_value(value) for name, value in config["values"].items()}
    folder = work.folder(number, values)
    try:
        with RunLock(folder / LOCK):
            if work.population:
                _take_over(folder / STATE)
                _population(folder, values, work)
            else:
                _alone(folder, values, work)
    except Exception as error:
        # Told as a bad value: Tune would take an exception for a lost worker and try again.
        text = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
        atomic_write(folder / "error.txt", traceback.format_exc())
        # Step 0 keeps it out of what the scheduler compares.
        tune.report({STEP: 0, METRIC: FAILED, "message": text})


def _alone(folder: Path, values: dict[str, Any], work: Work) -> None:
    """A trial whose values stay: what was reported before comes first."""
    reports: list[dict[str, Any]] = _read(folder / REPORTS)
    for report in reports:
        tune.report(report)
    last = reports[-1][STEP] if reports else 0
    if last >= work.max_steps:
        return
    with closing(_events(folder, values, work)) as events:
        for event in events:
            if event[STEP] <= last:
                continue
            reports.append(event)
            # Before the report, which does not come back when it was the trial's last.
            atomic_write(folder / REPORTS, json.dumps(reports))
            tune.report(event)


def _population(folder: Path, values: dict[str, Any], work: Work) -> None:
    """A member of a population: each report brings a checkpoint for others to begin with."""
    path = folder / STATE / LATEST
    latest: dict[str, Any] | None = json.loads(path.read_text()) if path.is_file() else None
    if latest is not None and tune.get_checkpoint() is None:
        # Left by a command that was killed, maybe before Tune or the ledger heard of it.
        _tell(latest, folder / STATE)
    last = latest[STEP] if latest is not None else 0
    if last >= work.max_steps:
        return
    schedule: list[dict[str, Any]] = json.loads(latest["schedule"]) if latest is not None else []
    with closing(_events(folder, values, work)) as events:
        for event in events:
            if event[STEP] <= last:
                continue
            if schedule and schedule[-1]["values"] == values:
                schedule[-1]["to_step"] = event[STEP]
            else:
                begin = schedule[-1]["to_step"] if schedule else 0
                entry = {"from_step": begin, "to_step": event[STEP], "values": values}
                schedule.append(entry)
            latest = {**event, "schedule": json.dumps(schedule)}
            atomic_write(path, json.dumps(latest))
            _tell(latest, folder / STATE)


def _tell(report: dict[str, Any], state: Path) -> None:
    tune.report(report, checkpoint=tune.Checkpoint.from_directory(str(state)))


def _events(folder: Path, values: dict[str, Any], work: Work) -> Any:
    call = load(work.objective, work.threads)
    (folder / STATE).mkdir(parents=True, exist_ok=True)
    for event in call(work.row, values, work.settings | {"trial_dir": str(folder / STATE)}):
        std = event.get("std")
        yield {
            STEP: int(event[STEP]),
            METRIC: float(event[METRIC]),
            "std": None if std is None else float(std),
        }


def _take_over(state: Path) -> None:
    """Begin with the checkpoint that Tune hands over, another trial's maybe."""
    if (checkpoint := tune.get_checkpoint()) is not None:
        shutil.rmtree(state, ignore_errors=True)
        checkpoint.to_directory(str(state))


def _read(path: Path) -> list[Any]:
    return json.loads(path.read_text()) if path.is_file() else []


def clear(folder: Path) -> bool:
    """Remove a trial's checkpoints and all else that its methods left; False while it is in use."""
    try:
        with RunLock(folder / LOCK, wait_s=0.0):
            shutil.rmtree(folder / STATE, ignore_errors=True)
    except UserError:
        return False
    return True
