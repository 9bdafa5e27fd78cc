"""Stage `train`: smoke-run every cell, then all unfinished runs of the plan, on Ray."""

import json
import math
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ecocseg.errors import UserError
from pipeline.cluster.launcher import ended_with_launcher
from pipeline.cluster.live import duration, live_view
from pipeline.cluster.pool import run_all
from pipeline.cluster.progress import Outcome
from pipeline.cluster.resources import GPU_LABEL, Resources
from pipeline.cluster.session import ClusterConfig, connect, has_gpu
from pipeline.cluster.usage import Usage
from pipeline.environment import pick_device
from pipeline.locks import RunLock, is_held
from pipeline.mirror import SMOKE, mirrored, pull_finished
from pipeline.needs import CPU_RUN_GB, spread_needs
from pipeline.packages import git_revision
from pipeline.params import Params
from pipeline.planning import read_plan
from pipeline.status import record_file, run_directory
from pipeline.stopping import clear_stop
from pipeline.storage import require_store
from pipeline.tracking import TrackingConfig, prepare_store, replay
from pipeline.twins import copy_record, originals

RESULTS = Path("results")
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


def tracking_config(params: Params) -> TrackingConfig:
    """Tracking as params.yaml asks for it, with absolute paths."""
    return TrackingConfig(
        enabled=params.tracking.enabled,
        uri=params.tracking.uri,
        folder=str((RESULTS / "mlflow").absolute()),
    )


def run_settings(params: Params) -> dict[str, Any]:
    """What `pipeline.run` needs to know beside the plan, as plain values with absolute paths."""
    if params.cluster.address == "local":
        pick_device(params.cluster.device)
    tracking = tracking_config(params)
    return {
        "data_root": str(Path(params.data.root).absolute()),
        "results": str(RESULTS.absolute()),
        "device": params.cluster.device,
        "git": git_revision(),
        "storage": params.cluster.storage,
        "tracking": {
            "enabled": tracking.enabled,
            "uri": tracking.uri,
            "folder": tracking.folder,
        },
    }


def resources(params: Params, row: Mapping[str, Any], on_gpu: bool | None = None) -> Resources:
    """What `row` of the plan asks of a machine: what its recipe needs, or what params.yaml says.

    With `on_gpu` None inside `connect(...)`: whether there are GPUs is asked of the cluster.
    """
    cluster = params.cluster
    needs = row.get("needs") or spread_needs(row["spec"], row["spec"]["schedule"]["gpus"])
    on_gpu = _uses_gpu(params) if on_gpu is None else on_gpu
    processes = cluster.processes_per_run or (needs["gpus"] if on_gpu else 1)
    if processes != needs["gpus"]:
        needs = spread_needs(row["spec"], processes)
    card = cluster.gpu_memory_gb_per_run or needs["gpu_memory_gb"]
    # Without a GPU there is one thread, and what would lie on the card lies in host memory.
    cpus, memory = (needs["cpus"], needs["memory_gb"]) if on_gpu else (1, CPU_RUN_GB + (card or 0))
    memory = cluster.memory_gb_per_run or memory
    return Resources(
        cpus=cluster.cpus_per_run or cpus,
        gpus=1.0 if on_gpu else 0.0,
        memory_mb=math.ceil(memory * 1e9 / 2**20),
        label=f"{GPU_LABEL}={cluster.gpu}" if cluster.gpu and on_gpu else None,
        gpu_memory_gb=card if on_gpu else None,
        runs_per_gpu=cluster.runs_per_gpu,
        processes=processes,
    )


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


def _uses_gpu(params: Params) -> bool:
    if params.cluster.device != "auto":
        return params.cluster.device.startswith("cuda")
    return has_gpu()


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
    on_gpu = _uses_gpu(params)
    asked = {str(row["run_id"]): resources(params, row, on_gpu) for row in rows}
    storage, where = params.cluster.storage, SMOKE if function == "execute_smoke" else ""
    beside = f" ({len(sources)} more are copies of them)" if sources else ""
    with live_view(title + beside) as on_progress, mirrored(storage, RESULTS, rows, where):
        outcome = run_all(
            rows,
            f"pipeline.run:{function}",
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
