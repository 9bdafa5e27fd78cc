import json
import os
import signal
from pathlib import Path
from typing import Any

import psutil
import pytest
from cluster_helpers import all_gone

from pipeline.cluster.pool import run_all
from pipeline.cluster.progress import Outcome, Progress
from pipeline.cluster.resources import Resources
from pipeline.store.paths import record_file, run_directory
from pipeline.store.status import read_status

pytestmark = pytest.mark.usefixtures("local_ray")


def run(folder: Path, rows: list[dict[str, Any]], function: str = "count", **more: Any) -> Outcome:
    arguments: dict[str, Any] = {"resources_of": lambda row: Resources()} | more
    settings = {"results_dir": str(folder)}
    return run_all(rows, f"sample_jobs:{function}", settings, results_dir=folder, **arguments)


def executed(folder: Path, run_id: str) -> list[int]:
    lines = (run_directory(folder, run_id) / "executed.log").read_text().splitlines()
    return [int(line.split()[0]) for line in lines]


def attempts(folder: Path, run_id: str) -> list[int]:
    lines = (run_directory(folder, run_id) / "attempts.txt").read_text().splitlines()
    return [int(line) for line in lines]


def test_all_runs_finish_and_finished_ones_are_skipped(tmp_path: Path) -> None:
    rows = [{"run_id": f"run{i}", "steps": 3 + i} for i in range(6)]
    outcome = run(tmp_path, rows)
    assert outcome == Outcome(finished=[f"run{i}" for i in range(6)], failed={})
    for i in range(6):
        record = json.loads(record_file(tmp_path, f"run{i}").read_text())
        assert record["sum"] == sum(range(4 + i))
        assert executed(tmp_path, f"run{i}") == list(range(1, 4 + i))

    record_file(tmp_path, "run2").unlink()
    again = run(tmp_path, rows)
    assert again == outcome
    # Only the run without a record was started, and from its last checkpoint.
    assert [len(attempts(tmp_path, f"run{i}")) for i in range(6)] == [1, 1, 2, 1, 1, 1]
    assert executed(tmp_path, "run2") == [1, 2, 3, 4, 5]


def test_worker_processes_serve_one_run_after_another(tmp_path: Path) -> None:
    rows = [{"run_id": f"run{i}", "steps": 2} for i in range(8)]
    run(tmp_path, rows)
    workers = {pid for i in range(8) for pid in attempts(tmp_path, f"run{i}")}
    # Importing torch takes seconds: a process for each run would be eight.
    assert len(workers) <= 3
    assert os.getpid() not in workers


def test_an_exception_fails_its_run_only_and_comes_out_whole(tmp_path: Path) -> None:
    rows = [{"run_id": f"run{i}", "steps": 4, "raise_at": 2 if i == 1 else None} for i in range(3)]
    outcome = run(tmp_path, rows)
    assert outcome.finished == ["run0", "run2"]
    assert list(outcome.failed) == ["run1"]
    message = "Unpicklable: the run met a bad sample: image 00012.png, class 77"
    assert outcome.failed["run1"].startswith(message)
    assert outcome.kinds == {"run1": "a bug"}
    # Not tried again: a bug would only fail again.
    assert len(attempts(tmp_path, "run1")) == 1
    trace = (run_directory(tmp_path, "run1") / "error.txt").read_text()
    assert "in count" in trace
    assert message in trace
    status = read_status(run_directory(tmp_path, "run1"))
    assert status is not None
    assert (status.state, status.step) == ("failed", 2)
    assert status.message.startswith(message)
    # The next command tries it again, from where it was.
    rows[1]["raise_at"] = None
    assert run(tmp_path, rows) == Outcome(finished=["run0", "run1", "run2"], failed={})
    assert executed(tmp_path, "run1") == [1, 2, 3, 4]


@pytest.mark.parametrize(
    "error, kind, message",
    [
        ("ecocseg.errors:DataError", "bad data", "labels/7.png: value 77"),
        ("pipeline.runner.exhausted:OutOfMemory", "out of memory", "labels/7.png: value 77"),
        ("builtins:KeyError", "a bug", "KeyError: 'labels/7.png: value 77'"),
    ],
)
def test_what_would_only_fail_again_is_told_apart_and_not_tried_again(
    tmp_path: Path, error: str, kind: str, message: str
) -> None:
    rows = [{"run_id": "run", "raise": error, "message": "labels/7.png: value 77"}]
    outcome = run(tmp_path, rows, function="fail")
    assert outcome.kinds == {"run": kind}
    assert outcome.failed["run"].startswith(message)
    assert len(attempts(tmp_path, "run")) == 1


def test_a_stopped_run_is_neither_failed_nor_tried_again(tmp_path: Path) -> None:
    rows = [{"run_id": "run", "raise": "pipeline.store.stopping:Stopped", "message": "by somebody"}]
    assert run(tmp_path, rows, function="fail") == Outcome(finished=[], failed={}, stopped=["run"])
    assert len(attempts(tmp_path, "run")) == 1


def test_losses_between_checkpoints_are_forgiven(tmp_path: Path) -> None:
    rows = [{"run_id": "run", "steps": 5}]
    outcome = run(tmp_path, rows, function="die_after_a_checkpoint", max_retries=1)
    assert outcome == Outcome(finished=["run"], failed={})
    assert len(attempts(tmp_path, "run")) == 6


def test_a_killed_worker_is_replaced_and_the_run_goes_on(tmp_path: Path) -> None:
    rows = [{"run_id": f"run{i}", "steps": 30, "step_s": 0.05} for i in range(2)]
    killed: list[psutil.Process] = []
    retries: dict[str, int] = {}

    def kill_once(progress: Progress) -> None:
        status = read_status(run_directory(tmp_path, "run1"))
        if not killed and status is not None and status.step >= 5:
            killed.append(psutil.Process(status.pid))
            os.kill(status.pid, signal.SIGKILL)
        retries.update(progress.retries)

    outcome = run(tmp_path, rows, on_progress=kill_once)
    assert outcome == Outcome(finished=["run0", "run1"], failed={})
    assert killed
    assert all_gone(killed)
    assert retries == {"run1": 1}
    assert executed(tmp_path, "run0") == list(range(1, 31))
    steps = executed(tmp_path, "run1")
    assert steps[-1] == 30
    # At most the step between log and checkpoint was executed twice.
    assert set(steps) == set(range(1, 31))
    assert len(steps) <= 31
    assert len(set(attempts(tmp_path, "run1"))) == 2


def test_a_run_that_loses_its_worker_every_time_fails_in_the_end(tmp_path: Path) -> None:
    outcome = run(tmp_path, [{"run_id": "run"}], function="die", max_retries=1)
    assert outcome.finished == []
    assert "lost its worker or node 2 times without a new checkpoint" in outcome.failed["run"]
    assert len(attempts(tmp_path, "run")) == 2


def test_what_no_node_has_is_refused_before_it_waits_for_ever(tmp_path: Path) -> None:
    asks = {
        "plain": Resources(),
        "gpu": Resources(gpus=1),
        "cores": Resources(cpus=64),
        "kind": Resources(label="kind=rtx3090"),
    }
    rows = [{"run_id": run_id, "steps": 1} for run_id in asks]
    outcome = run(tmp_path, rows, resources_of=lambda row: asks[row["run_id"]])
    assert outcome.finished == ["plain"]
    assert list(outcome.failed) == ["gpu", "cores", "kind"]
    assert "asked for 1 CPU, 1 GPU, which no live node can give" in outcome.failed["gpu"]
    assert ": 2 CPU, 0 GPU, " in outcome.failed["gpu"]
    assert "asked for 64 CPU," in outcome.failed["cores"]
    assert "asked for 1 CPU, label kind=rtx3090," in outcome.failed["kind"]
    assert not (run_directory(tmp_path, "gpu") / "attempts.txt").exists()


def test_the_longest_start_first_and_a_run_in_two_tables_runs_once(tmp_path: Path) -> None:
    costs = {"short": 1.0, "long": 9.0, "middle": 5.0}
    rows = [{"run_id": run_id, "steps": 1, "cost": cost} for run_id, cost in costs.items()]
    # Both cores for each: one after the other.
    outcome = run(tmp_path, rows + rows, resources_of=lambda row: Resources(cpus=2))
    assert outcome.finished == ["short", "long", "middle"]
    order = sorted(costs, key=lambda name: record_file(tmp_path, name).stat().st_mtime_ns)
    assert order == ["long", "middle", "short"]
    assert all(executed(tmp_path, name) == [1] for name in costs)


@pytest.mark.parametrize("cpus", [1, 2])
def test_a_run_computes_with_as_many_threads_as_it_has_cores(tmp_path: Path, cpus: int) -> None:
    rows = [{"run_id": "run", "steps": 1, "environment": True}]
    run(tmp_path, rows, resources_of=lambda row: Resources(cpus=cpus))
    assert json.loads(record_file(tmp_path, "run").read_text())["threads"] == str(cpus)


@pytest.mark.parametrize(
    "function, expected",
    [
        ("sample_jobs:absent", "AttributeError: .*absent"),
        ("no_such_module:run", "ModuleNotFoundError: .*no_such_module"),
        ("sample_jobs", "ValueError: execute: got 'sample_jobs', allowed module:function"),
    ],
)
def test_a_work_function_that_is_not_there(tmp_path: Path, function: str, expected: str) -> None:
    rows = [{"run_id": "run"}]
    outcome = run_all(rows, function, {}, lambda row: Resources(), tmp_path)
    assert outcome.finished == []
    with pytest.raises(AssertionError, match=expected):
        raise AssertionError(outcome.failed["run"])


def test_nothing_to_do(tmp_path: Path) -> None:
    seen: list[Progress] = []
    assert run(tmp_path, [], on_progress=seen.append) == Outcome(finished=[], failed={})
    assert len(seen) == 1
