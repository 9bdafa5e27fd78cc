"""Runs in two processes through Ray Train, on a real local cluster."""

import re
import traceback
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
from ray.exceptions import RayActorError
from ray.train.v2._internal.exceptions import WorkerHealthCheckFailedError

from ecocseg.errors import LostProcess, UserError
from pipeline.cluster import group
from pipeline.cluster.group import FOLDER, NotStarted, _cause, _Told, run_group
from pipeline.cluster.pool import run_all
from pipeline.cluster.progress import Outcome
from pipeline.cluster.resources import Resources
from pipeline.runner.run import execute_run
from pipeline.store.paths import run_directory
from pipeline.store.record import read_record, record_path
from pipeline.store.status import read_status

pytestmark = pytest.mark.timeout(900)


def run(function: str, row: dict[str, Any], results: Path, **more: Any) -> None:
    settings = {"results": str(results)} | more
    nodes = [node["NodeID"] for node in ray.nodes() if node["Alive"]][:1] * 2
    run_group(f"group_jobs:{function}", row, settings, 2, Resources(), nodes, 1)


def test_a_lost_process_ends_the_run_which_goes_on_as_one_process_would(
    local_ray: None, plan_streets: Any, tmp_path: Path
) -> None:
    results = tmp_path / "two"
    # Adam would blow up what rounds differently.
    sgd = ["schedule.optim.name=sgd", "schedule.optim.lr=1.0e-4"]
    row, settings = plan_streets("dacs_ecoc", results, ["schedule.gpus=2", *sgd])
    folder = run_directory(results, row["run_id"])
    asked = Resources(processes=2)
    retries: dict[str, int] = {}
    outcome = run_all(
        [row],
        "group_jobs:killed_once",
        settings,
        lambda row: asked,
        results,
        on_progress=lambda progress: retries.update(progress.retries),
    )
    assert outcome == Outcome(finished=[row["run_id"]], failed={})
    assert (results / "killed").exists()
    assert retries == {row["run_id"]: 1}
    status = read_status(folder)
    assert status is not None
    assert (status.state, status.attempt) == ("finished", 2)
    assert not (folder / FOLDER).exists()

    execute_run(row, settings | {"results": str(tmp_path / "one")})
    two, one = (
        read_record(record_path(tmp_path / name / "records", row["run_id"]))
        for name in ("two", "one")
    )
    assert [point["step"] for point in two["curves"]["train"]] == [2, 4, 6]
    for found, expected in zip(two["curves"]["train"], one["curves"]["train"], strict=True):
        assert found == pytest.approx(expected, rel=2e-3, abs=1e-4)
    for role in ("student", "teacher"):
        counts = [np.array(record["results"]["last"][role]["confusion"]) for record in (two, one)]
        assert counts[0].sum() == counts[1].sum()
        # Networks are float32: a pixel on the border of two classes may fall to the other side.
        assert np.abs(counts[0] - counts[1]).sum() <= 2 * 0.01 * counts[1].sum()
    same = ("spec", "data", "network", "protocol")
    assert {name: two[name] for name in same} == {name: one[name] for name in same}


def test_what_one_process_raises_is_what_the_run_raises(local_ray: None, tmp_path: Path) -> None:
    """Though the other one waits for it and would wait for an hour."""
    with pytest.raises(UserError, match=r"^schedule\.steps: got -1") as caught:
        run("second_fails", {"run_id": "a"}, tmp_path)
    assert caught.value.kind == "bad configuration"


LOST = WorkerHealthCheckFailedError("A worker died", RayActorError())
FULL = RuntimeError("Task was killed due to the node running low on memory.")


@pytest.mark.parametrize(
    ("failures", "kind", "words"),
    [
        # The cause is not what another process saw of it, whichever is first.
        ({0: LostProcess("peer"), 1: _Told("a crop", "bad data")}, "RunError", "^a crop$"),
        ({0: _Told("a crop", "KeyError", "Traceback: here"), 1: LOST}, "KeyError", "^a crop$"),
        ({0: LostProcess("peer"), 1: LOST}, "LostWorker", "A worker died"),
        ({0: LostProcess("peer is gone")}, "LostWorker", "peer is gone"),
        ({0: LostProcess("peer"), 1: FULL}, "OutOfMemory", "the machine ran out of memory: .*low"),
        ({}, "LostWorker", "nobody knows"),
    ],
)
def test_the_cause_is_found(failures: dict[int, Exception], kind: str, words: str) -> None:
    found = _cause(failures, "nobody knows")
    assert type(found).__name__ == kind
    assert re.search(words, str(found))
    if kind == "RunError":
        assert isinstance(found, UserError)
        assert found.kind == "bad data"
    if kind == "KeyError":
        assert "Traceback: here" in "".join(traceback.format_exception(found))


def test_processes_that_do_not_come_up_are_given_up(
    local_ray: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their node went between the decision and the start; Ray Train alone would try for ever."""
    monkeypatch.setattr(group, "_START_S", 3)
    row, settings = {"run_id": "a"}, {"results": str(tmp_path)}
    with pytest.raises(NotStarted):
        run_group("group_jobs:second_fails", row, settings, 2, Resources(), ["f" * 56] * 2, 1)
