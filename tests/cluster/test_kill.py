import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from cluster_helpers import all_gone, descendants, kill, wait_for
from drive import GRID, grid

from pipeline.cluster.pool import run_all
from pipeline.cluster.progress import Interrupted, Outcome, Progress
from pipeline.cluster.resources import Resources
from pipeline.store.lock import RunLock
from pipeline.store.paths import record_file, run_directory

pytestmark = pytest.mark.usefixtures("local_ray")

Drive = Callable[..., "subprocess.Popen[str]"]


def executed(folder: Path, run_id: str) -> list[int]:
    log = run_directory(folder, run_id) / "executed.log"
    return [int(line.split()[0]) for line in log.read_text().splitlines()] if log.exists() else []


def under_way(folder: Path) -> bool:
    """One run is finished and another one is in the middle."""
    return record_file(folder, "run0").exists() and 5 <= len(executed(folder, "run1")) < 30


def check_nothing_was_repeated(folder: Path, stops: int) -> None:
    for row in GRID:
        steps = executed(folder, row["run_id"])
        assert set(steps) == set(range(1, row["steps"] + 1))
        # At every stop, at most the step between log and checkpoint is executed twice.
        assert len(steps) <= row["steps"] + stops
    assert len(executed(folder, "run0")) == 5


def test_a_killed_driver_is_started_again_and_finishes(tmp_path: Path, drive: Drive) -> None:
    driver = drive("grid", tmp_path)
    wait_for(lambda: under_way(tmp_path))
    left_over = descendants(driver.pid)
    workers = [process for process in left_over if "ray::run" in process.name()]
    assert len(workers) == 2
    driver.send_signal(signal.SIGKILL)
    # At once: the workers of the killed driver still live, and hold their locks.
    assert not all_gone(workers)
    outcome = grid(tmp_path, GRID)
    assert outcome == Outcome(finished=[row["run_id"] for row in GRID], failed={})
    check_nothing_was_repeated(tmp_path, stops=1)
    assert all_gone(workers)
    # Ray's two helper processes take a minute to notice; nothing of the project is in them.
    kill(left_over)


def test_ctrl_c_leaves_everything_to_go_on(tmp_path: Path, drive: Drive) -> None:
    driver = drive("grid", tmp_path)
    wait_for(lambda: under_way(tmp_path))
    processes = descendants(driver.pid)
    # As a terminal does: to the whole process group, Ray's processes included.
    os.killpg(driver.pid, signal.SIGINT)
    output, _ = driver.communicate(timeout=120)
    assert driver.returncode == 130, output
    assert "interrupted: 1 of 3 runs are finished, 0 failed, 2 are not done" in output
    assert "the same command goes on from there" in output
    assert "Traceback" not in output
    assert all_gone(processes)
    outcome = grid(tmp_path, GRID)
    assert outcome == Outcome(finished=[row["run_id"] for row in GRID], failed={})
    check_nothing_was_repeated(tmp_path, stops=1)


def test_sigterm_ends_like_ctrl_c(tmp_path: Path) -> None:
    rows = [{"run_id": "run", "steps": 1000, "step_s": 0.05}]

    def terminate(progress: Progress) -> None:
        if executed(tmp_path, "run"):
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(Interrupted, match="0 of 1 runs are finished, 0 failed, 1 are not done"):
        run_all(
            rows,
            "sample_jobs:count",
            {"results_dir": str(tmp_path)},
            lambda row: Resources(),
            tmp_path,
            on_progress=terminate,
        )
    # The task has ended: its run is free for the next command.
    with RunLock(run_directory(tmp_path, "run") / "lock", wait_s=5):
        assert not record_file(tmp_path, "run").exists()
