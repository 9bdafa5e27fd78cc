import io
import json
import os
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import pytest
import results_folder as watching
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from ecocseg.errors import ConfigError, DataError, UserError
from pipeline.monitor.grid_state import find_run, look
from pipeline.monitor.states import STATES
from pipeline.monitor.view import draw, headline, show
from pipeline.store.lock import RunLock
from pipeline.store.paths import run_directory
from pipeline.store.stopping import request_stop

SIX = dict.fromkeys("abcdef", 1.0)


def states(results: Path) -> dict[str, str]:
    return {run.cell: run.state for run in look(results).runs}


def test_the_state_of_a_run_follows_from_its_files(tmp_path: Path) -> None:
    ids = watching.plan(tmp_path, SIX)
    watching.finish(tmp_path, ids[0])
    for run_id, state in zip(ids[1:5], ("running", "running", "failed", "stopped"), strict=True):
        watching.status(tmp_path, run_id, state, message="why")
    assert states(tmp_path) == {
        "a": "finished",
        "b": "interrupted",
        "c": "interrupted",
        "d": "failed",
        "e": "stopped",
        "f": "queued",
    }
    with RunLock(run_directory(tmp_path, ids[2]) / "lock"):
        assert states(tmp_path)["b"] == "interrupted"
        assert states(tmp_path)["c"] == "running"
        request_stop(run_directory(tmp_path, ids[2]))
        assert states(tmp_path)["c"] == "stopping"
    watching.status(tmp_path, ids[0], "finished", node="box")
    assert look(tmp_path).runs[0].status is None
    assert look(tmp_path, details=True).runs[0].status.node == "box"
    counts = look(tmp_path).counts
    assert sum(counts.values()) == 6
    assert headline(look(tmp_path)).startswith("1/6 finished, 1 interrupted, 1 failed, 2 stopped")


def test_what_failed_under_an_earlier_grid_waits_for_the_present_one(tmp_path: Path) -> None:
    (run_id,) = watching.plan(tmp_path, {"a": 1.0})
    file = watching.status(tmp_path, run_id, "failed", message="no") / "status.json"
    with RunLock(tmp_path / "grid.lock"):
        os.utime(file, (time.time() - 60, time.time() - 60))
        glance = look(tmp_path)
        assert [run.state for run in glance.runs] == ["queued"]
        assert glance.driver is not None
        assert glance.driver.pid == os.getpid()
        os.utime(file, (time.time() + 60, time.time() + 60))
        assert states(tmp_path) == {"a": "failed"}


def test_a_status_of_an_earlier_attempt_is_not_taken_for_the_present_one(tmp_path: Path) -> None:
    (run_id,) = watching.plan(tmp_path, {"a": 1.0})
    folder = watching.status(
        tmp_path, run_id, "failed", message="no", pid=1, step=3, steps=9, loss=2.0
    )
    with RunLock(folder / "lock"):
        (run,) = look(tmp_path).runs
    assert run.state == "running"
    assert run.status is not None
    assert (run.status.activity, run.status.step, run.status.loss) == ("starting", 3, None)


def test_a_run_on_a_machine_without_our_folder_is_believed_under_a_grid(tmp_path: Path) -> None:
    ids = watching.plan(tmp_path, {"a": 1.0, "b": 1.0})
    folder = watching.status(tmp_path, ids[0], "running", host="elsewhere")
    old = watching.status(tmp_path, ids[1], "running", host="elsewhere") / "status.json"
    os.utime(old, (time.time() - 60, time.time() - 60))
    assert states(tmp_path) == {"a": "interrupted", "b": "interrupted"}
    with RunLock(tmp_path / "grid.lock"):
        (tmp_path / "grid.lock").touch()
        (folder / "status.json").touch()
        assert states(tmp_path) == {"a": "running", "b": "interrupted"}
        request_stop(folder)
        assert states(tmp_path)["a"] == "stopping"
        # It has run here once; its lock tells nothing of where it runs now.
        with RunLock(folder / "lock"):
            pass
        assert states(tmp_path)["a"] == "stopping"


def test_a_failed_smoke_run_is_a_failure_of_its_cell(tmp_path: Path) -> None:
    watching.plan(tmp_path, {"a": 1.0, "b": 1.0}, seeds=2)
    watching.status(tmp_path / "smoke", "smoke-a", "failed", message="no data")
    found = {(run.cell, run.seed): (run.state, run.cause) for run in look(tmp_path).runs}
    failed = ("failed", "smoke run: no data")
    queued = ("queued", "")
    assert found == {("a", 0): failed, ("a", 1): failed, ("b", 0): queued, ("b", 1): queued}
    watching.finish(tmp_path / "smoke", "smoke-a")
    assert set(states(tmp_path).values()) == {"queued"}
    assert look(tmp_path).smoke == 1


def test_copies_wait_for_the_run_of_their_content(tmp_path: Path) -> None:
    ids = [f"one-a-s0-{7:010d}", f"two-b-s0-{7:010d}"]
    lines = [json.dumps({"run_id": i, "experiment": i[:3], "cell": i[4], "seed": 0}) for i in ids]
    (tmp_path / "plan.jsonl").write_text("\n".join(lines))
    assert states(tmp_path) == {"a": "queued", "b": "copy"}
    with RunLock(run_directory(tmp_path, ids[1]) / "lock"):
        assert states(tmp_path) == {"a": "copy", "b": "running"}


def test_a_run_beside_the_plan_is_shown_while_it_runs(tmp_path: Path) -> None:
    watching.plan(tmp_path, {"a": 1.0})
    other = "adhoc-dacs_ecoc-s7-0123456789"
    folder = watching.status(tmp_path, other, "running")
    assert states(tmp_path) == {"a": "queued"}
    with RunLock(folder / "lock"):
        glance = look(tmp_path)
    assert [(run.cell, run.seed) for run in glance.runs if not run.planned] == [("dacs_ecoc", 7)]
    assert sum(glance.counts.values()) == 1


def test_progress_weighs_runs_with_their_cost(tmp_path: Path) -> None:
    ids = watching.plan(tmp_path, {"a": 3.0, "b": 1.0, "c": 4.0})
    watching.finish(tmp_path, ids[0])
    folder = watching.status(
        tmp_path, ids[1], "running", step=50, steps=100, steps_per_second=2.0, eta_s=25.0
    )
    with RunLock(folder / "lock"):
        glance = look(tmp_path)
    assert glance.progress == pytest.approx((3 + 0.5) / 8)
    # 50 s a unit of cost: what is left of b, and all of c, one after the other.
    assert glance.seconds_to_go == pytest.approx(25 + 4 * 50)


def test_a_search_is_told_by_its_trials(tmp_path: Path) -> None:
    trials = [
        {"number": 1, "state": "finished", "scores": [{"step": 9, "mean": 7.0}]},
        {"number": 2, "state": "running", "scores": [{"step": 3, "mean": 90.0}]},
        {"number": 3, "state": "running", "scores": []},
        {"number": 4, "state": "failed", "scores": [{"step": 9, "mean": 95.0}]},
    ]
    ledger = tmp_path / "search" / "state" / "abc.json"
    ledger.parent.mkdir(parents=True)
    ledger.write_text(json.dumps({"trials": trials}))
    # As while the file is being written: there and gone.
    ledger.with_name(".abc.json.tmp.json").write_text("{}")
    with pytest.raises(DataError, match="no plan yet"):
        look(tmp_path)
    with RunLock(tmp_path / "search" / ".lock"):
        text = Console(width=200, record=True, file=io.StringIO())
        text.print(draw(look(tmp_path), 200))
        assert (
            "1 finished, 2 running, 1 failed, best 7.00 at step 9; driven by" in text.export_text()
        )
        # A file that is no such thing is no reason not to show the rest.
        ledger.write_text("[]")
        assert look(tmp_path).search.trials == {}


def test_neither_plan_nor_runs_is_told_with_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is no plan yet, and no run; type `dvc repro plan`"):
        look(tmp_path)
    (tmp_path / "plan.jsonl").write_text("{")
    with pytest.raises(DataError, match=r"plan\.jsonl: is no plan"):
        look(tmp_path)


@settings(deadline=None)
@given(st.data())
def test_a_run_is_found_by_every_start_that_only_it_has(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    results = tmp_path_factory.mktemp("results")
    ids = watching.plan(results, {"dacs": 1.0, "dacs_ecoc": 1.0, "oracle": 1.0}, seeds=2)
    run_id = data.draw(st.sampled_from(ids))
    start = run_id[: data.draw(st.integers(1, len(run_id)))]
    if [i for i in ids if i.startswith(start)] == [run_id]:
        assert find_run(results, start) == run_id
    else:
        with pytest.raises(UserError, match=r"stands for \d runs; write more"):
            find_run(results, start)
    experiment, cell, seed, _ = run_id.split("-")
    assert find_run(results, f"{experiment}/{cell}/{seed[1:]}") == run_id


def test_an_unknown_run_is_told_with_the_nearest_one(tmp_path: Path) -> None:
    (run_id,) = watching.plan(tmp_path, {"dacs": 1.0})
    with pytest.raises(UserError, match=f"did you mean {run_id}"):
        find_run(tmp_path, "exp-dasc-s0")
    # Of another configuration, before the plan was changed: the planned one is meant.
    watching.status(tmp_path, "exp-dacs-s0-9999999999", "failed")
    assert find_run(tmp_path, "exp/dacs/0") == run_id
    assert find_run(tmp_path, "exp-dacs-s0-9") == "exp-dacs-s0-9999999999"


@pytest.mark.parametrize("width", [80, 120])
@pytest.mark.parametrize("height", [None, 24])
def test_the_picture_fits_the_terminal(tmp_path: Path, width: int, height: int | None) -> None:
    cells = {f"{'long_' * 9}cell_{place}": 1.0 for place in range(60)}
    ids = watching.plan(tmp_path, cells, experiment="an_experiment_of_a_long_name")
    running = {"step": 39_999, "steps": 40_000, "loss": 1.23456, "steps_per_second": 0.123}
    running |= {"eta_s": 123_456.0, "node": "a-host-of-a-long-name", "device": "cpu"}
    with ExitStack() as locks:
        for place, run_id in enumerate(ids[:50]):
            state = "failed" if place % 2 else "running"
            folder = watching.status(tmp_path, run_id, state, message="x" * 300, **running)
            if state == "running":
                locks.enter_context(RunLock(folder / "lock"))
        picture = draw(look(tmp_path), width, height=height)
        console = Console(width=width, record=True, file=io.StringIO())
        console.print(picture)
    lines = console.export_text().splitlines()
    assert max(map(len, lines)) <= width
    assert sum("39999/40000" in line for line in lines) >= (25 if height is None else 5)
    assert height is None or len(lines) <= height
    assert "…" in "".join(lines)
    assert any("more; --all lists them" in line for line in lines) == (height is not None)


def test_json_for_scripts_holds_the_same(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ids = watching.plan(tmp_path, SIX)
    watching.status(tmp_path, ids[0], "failed", message="no data", step=3, steps=4)
    show(tmp_path, as_json=True)
    found = json.loads(capsys.readouterr().out)
    assert set(found["counts"]) == set(STATES)
    assert found["counts"]["failed"] == 1
    (run,) = [run for run in found["runs"] if run["state"] == "failed"]
    assert (run["run_id"], run["cause"], run["step"]) == (ids[0], "no data", 3)
    show(tmp_path, ["cell=b"], as_json=True)
    assert [run["cell"] for run in json.loads(capsys.readouterr().out)["runs"]] == ["b"]


@pytest.mark.parametrize("text", ["colour=red", "cell", "state=done"])
def test_a_wrong_filter_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError, match=f"{text}: unknown"):
        show(tmp_path, [text])


def test_a_look_brings_no_heavy_library(tmp_path: Path) -> None:
    watching.plan(tmp_path / "results", dict.fromkeys(map(str, range(200)), 1.0))
    code = (
        "import sys; from pipeline.cli import main; main(['status', '--all']);"
        "print(sorted({'torch', 'ray', 'mlflow', 'hydra', 'pandas'} & sys.modules.keys()))"
    )
    found = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert found.stdout.splitlines()[-1] == "[]"
    assert "0/200 finished, 200 queued" in found.stdout
