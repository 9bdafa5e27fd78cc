"""What `ecocseg grid` says and how it ends, for every way in which its runs may end."""

import re
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from ecocseg.errors import UserError
from pipeline.cluster.progress import Outcome
from pipeline.cluster.usage import Usage
from pipeline.config.params import Params, TrackingParams
from pipeline.planning.plan import write_plan
from pipeline.stages import train

ROWS: list[dict[str, Any]] = [
    {
        "run_id": f"run{number}",
        "spec": {},
        "needs": {"gpus": 1, "gpu_memory_gb": 1.0, "cpus": 1, "memory_gb": 3.0},
    }
    for number in range(4)
]
CELL = {"experiment": "streets_uda", "cell": "oracle", "seed": 0}


def end(monkeypatch: pytest.MonkeyPatch, outcome: Outcome) -> str:
    """What a grid says whose runs are over; the pool's own tests show how they get there."""
    monkeypatch.setattr(train, "run_all", lambda *a, **k: outcome)
    monkeypatch.setattr(train, "uses_gpu", lambda params: False)
    params = Params(experiments=["streets_uda"])
    found, problem = train._grid(ROWS, "execute_run", {}, params, "runs", {"copy": "run1"})
    assert found is outcome
    return problem


def test_all_finished(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    usage = Usage()
    usage.note(0.0, busy=2, capacity=2, waiting=2)
    for name, begun, ended in (("a", 0.0, 60.0), ("b", 0.0, 40.0), ("c", 40.0, 90.0)):
        usage.begin(name, begun, 1)
        usage.end(name, ended)
    usage.note(40.0, busy=2, capacity=2, waiting=0)
    assert end(monkeypatch, Outcome(finished=["run0"], failed={}, usage=usage)) == ""
    told = capsys.readouterr().out
    assert "makespan 1:30, 20% above the lower bound 1:15" in told
    assert "slots were 100% busy until the last run started" in told


def test_stopped_runs_leave_the_stage_undone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else `dvc` would take it for finished, and never go on with them."""
    text = end(monkeypatch, Outcome(finished=["run0"], failed={}, stopped=["run2"]))
    assert re.search(r"1 of 4 runs were stopped; .* goes on with them: run2", text)


def test_failures_are_listed_with_their_kinds(monkeypatch: pytest.MonkeyPatch) -> None:
    failed = {"run1": "labels/7.png: value 77", "run2": "labels/8.png: value 9", "run3": "no room"}
    kinds = {"run1": "bad data", "run2": "bad data", "run3": "disk full"}
    outcome = Outcome(finished=[], failed=failed, kinds=kinds, stopped=["run0"])
    text = end(monkeypatch, outcome)
    assert text.startswith("3 of 4 runs failed (2 bad data, 1 disk full):\n")
    assert "  run3 (disk full): no room" in text
    assert "1 more runs are copies of these and wait for them" in text
    assert "1 of 4 runs were stopped" in text


def test_a_cell_whose_smoke_run_fails_keeps_no_other_from_running(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    given: list[list[str]] = []

    def run_all(rows: Sequence[Mapping[str, Any]], function: str, *_: Any, **__: Any) -> Outcome:
        given.append([row["run_id"] for row in rows])
        if function.endswith("execute_smoke"):
            marks = tmp_path / "results/smoke/records"
            marks.mkdir(parents=True)
            (marks / "smoke-b.json").write_text("{}")
            failed = {"smoke-a": "labels/7.png: value 77"}
            return Outcome(finished=["smoke-b"], failed=failed, kinds={"smoke-a": "bad data"})
        return Outcome(finished=given[-1], failed={})

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(train, "run_all", run_all)
    monkeypatch.setattr(train, "uses_gpu", lambda params: False)
    monkeypatch.setattr(train, "connect", lambda config: nullcontext())
    monkeypatch.setattr(train, "originals", lambda rows, results: {})
    rows = [
        {**ROWS[0], "run_id": f"{cell}{seed}", "smoke_id": f"smoke-{cell}"} | CELL
        for cell in "ab"
        for seed in (0, 1)
    ]
    write_plan(rows, tmp_path / "results/plan.jsonl")
    tracking = TrackingParams(enabled=False)
    with pytest.raises(UserError, match=r"smoke-a \(bad data\): labels/7.png") as caught:
        train.run(Params(experiments=["streets_uda"], tracking=tracking))
    # Seeds share their cell's smoke run, and a cell fails for its own runs only.
    assert given == [["smoke-a", "smoke-b"], ["b0", "b1"]]
    assert "2 runs of these cells were not started" in str(caught.value)
