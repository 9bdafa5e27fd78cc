"""Stage `train`: smoke-run every cell, then all unfinished runs of the plan, on Ray."""

import json
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from ecocseg.errors import UserError
from pipeline.cluster.pool import run_all
from pipeline.cluster.progress import Outcome
from pipeline.cluster.request import resources, uses_gpu
from pipeline.cluster.session import ClusterConfig, connect
from pipeline.cluster.usage import Usage
from pipeline.config.params import Params
from pipeline.monitor.live import duration, live_view
from pipeline.planning.duplicates import copy_record, originals
from pipeline.planning.plan import read_plan
from pipeline.planning.settings import run_settings, tracking_config
from pipeline.stages.launcher import ended_with_launcher
from pipeline.store.lock import RunLock, is_held
from pipeline.store.paths import RESULTS, record_file, run_directory
from pipeline.store.pull import SMOKE, mirrored, pull_finished
from pipeline.store.remote import require_store
from pipeline.store.stopping import clear_stop
from pipeline.tracking import TrackingConfig, prepare_store, replay

_REMEDY = "watch it with `ecocseg status`, or end it with `ecocseg stop --all`, and start again"


@ended_with_launcher()
def run(params: Params) -> None:
    """Bring every run of results/plan.jsonl to its record.

    Raises UserError when runs failed, or the smoke run of their cell did, which they do not start
    after: all others are finished by then. The same command starts the failed ones again.
    """
    rows = read_plan()
    (RESULTS / "records").mkdir(parents=True, exist_ok=True)
    require_store(params.cluster.storage)
    pull_finished(params.cluster.storage, RESULTS, rows)
    finished = sum(record_file(RESULTS, row["run_id"]).is_file() for row in rows)
    sources = originals(rows, RESULTS)
    _copy_records(rows, sources)
    todo = [
        row
        for row in rows
        if row["run_id"] not in sources and not record_file(RESULTS, row["run_id"]).is_file()
    ]
    print(f"{len(rows)} runs planned, {finished} finished, {len(todo)} to do", end="")
    print(f"; {len(sources)} of {len(rows)} runs are copies of others" if sources else "")
    tracking = tracking_config(params)
    if todo:
        settings = run_settings(params)
        # One driver at a time: two would start the same runs.
        with RunLock(RESULTS / "grid.lock", wait_s=40, announce=announce, remedy=_REMEDY):
            for row in rows:
                folder = run_directory(RESULTS, row["run_id"])
                # Not of one that `ecocseg train` computes just now.
                if not is_held(folder / "lock"):
                    clear_stop(folder)
            _prepare_tracking(tracking, rows)
            with connect(ClusterConfig(address=params.cluster.address)):
                smoke = smoke_rows(todo)
                checked, problem = _grid(smoke, "execute_smoke", settings, params, "smoke runs")
                if checked.stopped:
                    raise UserError(problem)
                print_memory([row for row in smoke if row["run_id"] not in checked.failed])
                sound = [row for row in todo if row["smoke_id"] not in checked.failed]
                if problem:
                    problem += f"\n{len(todo) - len(sound)} runs of these cells were not started"
                    announce(problem)
                try:
                    if sound:
                        _, failed = _grid(sound, "execute_run", settings, params, "runs", sources)
                        problem = "\n".join(filter(None, (problem, failed)))
                finally:
                    _copy_records(rows, sources)
                if problem:
                    # Not done: `dvc` must not take the stage for finished.
                    raise UserError(problem)
    if tracking.enabled:
        _catch_up(tracking)


def announce(text: str) -> None:
    """Say who is waited for."""
    print(text, file=sys.stderr, flush=True)


def smoke_rows(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One row for each distinct cell, under the name of its smoke run."""
    cells: dict[str, dict[str, Any]] = {}
    for row in rows:
        cells.setdefault(row["smoke_id"], {**row, "run_id": row["smoke_id"]})
    return list(cells.values())


def print_memory(rows: Sequence[Mapping[str, Any]]) -> None:
    """A line for each smoke-run cell with what it took of its GPU; nothing of those on a CPU."""
    for row in rows:
        used = json.loads(record_file(RESULTS / "smoke", row["run_id"]).read_text())
        if used.get("device_mb") is not None:
            print(
                f"{row['experiment']}/{row['cell']}: {used['reserved_mb'] / 1000:.1f} of "
                f"{used['device_mb'] / 1000:.0f} GB"
            )


def print_usage(usage: Usage) -> None:
    """A line on how well the order of the runs used the machines; nothing of a grid of no time."""
    if usage.makespan < 1:
        return
    over = usage.makespan / usage.lower_bound - 1
    text = f"makespan {duration(usage.makespan)}, {over:.0%} above the lower bound "
    text += f"{duration(usage.lower_bound)} (all work spread over all slots, or the longest run)"
    if usage.utilisation is not None:
        text += f"; slots were {usage.utilisation:.0%} busy until the last run started"
    print(text)


def _copy_records(rows: Sequence[Mapping[str, Any]], sources: Mapping[str, str]) -> None:
    """Give the rows that are copies of others the records that those have by now."""
    for row in rows:
        if row["run_id"] in sources:
            copy_record(row, sources[row["run_id"]], RESULTS)


def _grid(
    rows: Sequence[Mapping[str, Any]],
    function: str,
    settings: Mapping[str, Any],
    params: Params,
    title: str,
    sources: Mapping[str, str] | None = None,
) -> tuple[Outcome, str]:
    """Execute `rows`: what became of them, and what kept any from its record ("" where none).

    `sources` names for each run that is a copy the one it is a copy of.
    """
    on_gpu = uses_gpu(params)
    asked = {str(row["run_id"]): resources(params, row, on_gpu) for row in rows}
    storage, where = params.cluster.storage, SMOKE if function == "execute_smoke" else ""
    beside = f" ({len(sources)} more are copies of them)" if sources else ""
    with live_view(title + beside) as on_progress, mirrored(storage, RESULTS, rows, where):
        outcome = run_all(
            rows,
            f"pipeline.runner.run:{function}",
            settings,
            lambda row: asked[row["run_id"]],
            RESULTS / where,
            max_retries=params.cluster.max_retries,
            on_progress=on_progress,
            node_wait_s=60 * params.cluster.node_wait_min,
        )
    if function == "execute_run":
        print_usage(outcome.usage)
    stopped = ""
    if outcome.stopped:
        stopped = f"{len(outcome.stopped)} of {len(rows)} {title} were stopped; the same command "
        stopped += f"goes on with them: {', '.join(outcome.stopped)}"
    if outcome.failed:
        listed = "\n".join(
            f"  {run_id} ({outcome.kinds[run_id]}): {text}"
            for run_id, text in outcome.failed.items()
        )
        counted = Counter(outcome.kinds.values())
        kinds = ", ".join(f"{count} {kind}" for kind, count in counted.most_common())
        waiting = sum(source in outcome.failed for source in (sources or {}).values())
        listed += f"\n{waiting} more runs are copies of these and wait for them" if waiting else ""
        failed = f"{len(outcome.failed)} of {len(rows)} {title} failed ({kinds}):\n{listed}\n"
        failed += "Mend the cause and start the same command again: what is finished stays finished"
        return outcome, "\n".join(filter(None, (failed, stopped)))
    return outcome, stopped


def _prepare_tracking(config: TrackingConfig, rows: Sequence[Mapping[str, Any]]) -> None:
    if not config.enabled:
        return
    problem = prepare_store(
        config, {row["experiment"]: row["report"]["description"] for row in rows}
    )
    if problem is not None:
        # Tracking may fail, training goes on; the runs spool what they have to say.
        print(f"tracking: {problem}; the runs go on and are sent later", file=sys.stderr)


def _catch_up(config: TrackingConfig) -> None:
    """Send what runs could not send, and close those that were killed after their record."""
    sent = replay(config, RESULTS / "runs", RESULTS / "records")
    if sent.waiting:
        print(
            f"tracking: {sent.waiting} runs still wait to be sent ({sent.problem}); the next "
            "`ecocseg grid` tries again",
            file=sys.stderr,
        )
