"""Sends, from the driver, what runs could not send themselves, and sets right their status."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.store.events import EventLog
from pipeline.store.record import is_finished, read_record, record_path
from pipeline.tracking.config import TrackingConfig
from pipeline.tracking.sender import Sender
from pipeline.tracking.spool import (
    RunState,
    events_path,
    log_problem,
    now_ms,
    spool_record,
    take_tracking_lock,
)
from pipeline.tracking.store import TrackedRun, list_runs, open_client


@dataclass(frozen=True, kw_only=True)
class Replayed:
    """What `replay` did: runs brought up to date, runs that still wait, and why they do."""

    sent: int = 0
    waiting: int = 0
    problem: str | None = None


def replay(
    config: TrackingConfig, runs_folder: Path, records_folder: Path | None = None
) -> Replayed:
    """Bring every run below `runs_folder` up to date in the store; never raises.

    A run whose process died is closed: as FINISHED when `records_folder` has its record, else as
    KILLED. Runs that a living process tracks are left to it. Runs missing from the store (it was
    emptied, or is a new one) are sent anew as a whole. Stops at the first failure, so that a
    store that does not answer is waited for once.
    """
    if not config.enabled:
        return Replayed()
    folders = [path.parent for path in sorted(Path(runs_folder).glob("*/tracking.json"))]
    if not folders:
        return Replayed()
    sent = 0
    try:
        runs = list_runs(config)
        for run_dir in folders:
            try:
                sent += _bring_up_to_date(config, run_dir, records_folder, runs)
            except Exception as error:
                log_problem(run_dir, f"waits to be sent: {error}")
                raise
    except Exception as error:
        waiting = sum(not state.delivered for state in _states(folders))
        return Replayed(sent=sent, waiting=waiting, problem=str(error))
    return Replayed(sent=sent)


def _bring_up_to_date(
    config: TrackingConfig, run_dir: Path, records_folder: Path | None, runs: Sequence[TrackedRun]
) -> bool:
    lock = take_tracking_lock(run_dir)
    if lock is None:
        return False
    with lock:
        state = RunState.load(run_dir)
        if state is None:
            return False
        _close_dead_run(run_dir, state, records_folder)
        _remove_doubles(config, state, runs)
        if state.delivered and state.mlflow_run_id in {run.mlflow_run_id for run in runs}:
            return False
        state.delivered = False
        Sender(config, run_dir, state).send()
        return True


def _remove_doubles(config: TrackingConfig, state: RunState, runs: Sequence[TrackedRun]) -> None:
    """Delete the run that a server made late, for a request that had been given up and repeated."""
    same = [
        run.mlflow_run_id
        for run in runs
        if (run.run_id, run.experiment) == (state.run_id, state.experiment) and not run.deleted
    ]
    if state.mlflow_run_id in same:
        for double in same:
            if double != state.mlflow_run_id:
                open_client(config).delete_run(double)


def _close_dead_run(run_dir: Path, state: RunState, records_folder: Path | None) -> None:
    finished = records_folder is not None and is_finished(records_folder, state.run_id)
    if finished and state.status != "FINISHED":
        assert records_folder is not None
        with EventLog(events_path(run_dir)) as events:
            spool_record(run_dir, events, read_record(record_path(records_folder, state.run_id)))
        state.status, state.ended, state.delivered = "FINISHED", now_ms(), False
        state.save(run_dir)
    elif state.status is None:
        state.status, state.ended, state.delivered = "KILLED", now_ms(), False
        state.save(run_dir)


def _states(folders: list[Path]) -> Iterator[RunState]:
    for folder in folders:
        state = RunState.load(folder)
        if state is not None:
            yield state
