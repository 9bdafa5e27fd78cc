"""A driver as a process of its own, for tests that kill it or take its nodes away.

`drive.py grid|search|nodes|replace FOLDER`
"""

import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pipeline  # noqa: F401  (switches usage reporting off before Ray is imported)
from pipeline.cluster.pool import run_all
from pipeline.cluster.progress import Interrupted, Outcome
from pipeline.cluster.resources import Resources
from pipeline.cluster.session import ClusterConfig, connect
from pipeline.monitor.live import live_view
from pipeline.search.config import SearchConfig
from pipeline.search.tune import Searched, search

GRID = [{"run_id": f"run{i}", "steps": 40 if i else 5, "step_s": 0.1} for i in range(3)]
SPACE = {
    "x": {"type": "uniform", "low": 0.0, "high": 6.0},
    "y": {"type": "choice", "values": ["good", "bad"]},
}


def grid(folder: Path, rows: list[dict[str, Any]]) -> Outcome:
    settings = {"results_dir": str(folder)}
    with live_view("train") as view:
        return run_all(
            rows, "sample_jobs:count", settings, lambda row: Resources(), folder, on_progress=view
        )


def search_of(folder: Path, **more: Any) -> SearchConfig:
    arguments: dict[str, Any] = {
        "objective": "sample_jobs:climb",
        "space": SPACE,
        "row": {"steps": 9},
        "settings": {"log": str(folder / "executed.log")},
        "trials": 8,
        "max_concurrent": 1,
        "seed": 1,
        "max_steps": 9,
        "grace_steps": 1,
    }
    return SearchConfig(**(arguments | more))


def run_search(config: SearchConfig, folder: Path, *observers: Any) -> Searched:
    """Inside `connect(...)`."""
    return search(config, folder, Resources, nullcontext, observers)


def main(mode: str, folder: Path) -> int:
    try:
        with connect(ClusterConfig(num_cpus=2)):
            if mode == "grid":
                print(grid(folder, GRID))
            else:
                # The pace is no part of a search's identity.
                slow = {"log": str(folder / "executed.log"), "step_s": 0.15}
                run_search(search_of(folder, settings=slow), folder)
    except Interrupted as reason:
        print(reason)
        return 130
    return 0


def lose_a_node(folder: Path) -> int:
    """Two nodes, one run on each; the node of the second goes, its run ends on another one."""
    import ray
    from ray.cluster_utils import Cluster

    cluster = Cluster(
        initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False}
    )
    doomed = cluster.add_node(num_cpus=1, labels={"kind": "doomed"})
    rows = [{"run_id": f"run{i}", "steps": 25, "step_s": 0.1} for i in range(2)]
    removed = False

    def remove_when_both_run(progress: Any) -> None:
        nonlocal removed
        logs = [folder / "runs" / row["run_id"] / "executed.log" for row in rows]
        if not removed and all(log.exists() and log.stat().st_size for log in logs):
            cluster.remove_node(doomed, allow_graceful=False)
            removed = True
        if progress.retries:
            print(f"retries {progress.retries}", flush=True)

    try:
        with connect(ClusterConfig(address=cluster.address)):
            print("nodes", len(ray.nodes()))
            outcome = run_all(
                rows,
                "sample_jobs:count",
                {"results_dir": str(folder)},
                lambda row: Resources(),
                folder,
                on_progress=remove_when_both_run,
            )
        print("finished", outcome.finished, "failed", outcome.failed)
    finally:
        cluster.shutdown()
    return 0


def replace_a_node(folder: Path) -> int:
    """The only node for `run1` goes and another one comes; meanwhile a node joins for `run2`."""
    from ray.cluster_utils import Cluster

    cluster = Cluster(
        initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False}
    )
    doomed = cluster.add_node(num_cpus=1, labels={"kind": "special"})
    together = folder / "together"
    rows = [{"run_id": f"run{i}", "steps": 5, "until": str(together)} for i in range(3)]
    asks = {"run1": Resources(label="kind=special")}
    stage = "begin"

    def act(progress: Any) -> None:
        nonlocal stage
        logs = [folder / "runs" / f"run{i}" / "executed.log" for i in range(2)]
        if stage == "begin" and all(log.exists() and log.stat().st_size for log in logs):
            print("active", sorted(progress.active), flush=True)
            cluster.remove_node(doomed, allow_graceful=False)
            stage = "removed"
        elif stage == "removed" and progress.notice:
            print("notice", progress.notice, flush=True)
            cluster.add_node(num_cpus=1, labels={"kind": "special"})
            cluster.add_node(num_cpus=1)
            stage = "replaced"
        elif stage == "replaced" and len(progress.active) == 3:
            print("active", sorted(progress.active), flush=True)
            together.touch()
            stage = "all"

    try:
        with connect(ClusterConfig(address=cluster.address)):
            outcome = run_all(
                rows,
                "sample_jobs:count",
                {"results_dir": str(folder)},
                lambda row: asks.get(row["run_id"], Resources()),
                folder,
                on_progress=act,
                node_wait_s=120,
            )
        print("finished", outcome.finished, "failed", outcome.failed)
    finally:
        cluster.shutdown()
    return 0


if __name__ == "__main__":
    chosen, target = sys.argv[1], Path(sys.argv[2])
    scenes = {"nodes": lose_a_node, "replace": replace_a_node}
    sys.exit(scenes[chosen](target) if chosen in scenes else main(chosen, target))
