import csv
import json
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from cluster_helpers import descendants, kill, wait_for
from drive import SPACE, run_search

from ecocseg.errors import ConfigError, UserError
from pipeline.cluster.resources import Resources
from pipeline.cluster.search import search
from pipeline.cluster.space import parse_space, plain_value
from pipeline.cluster.trials import SearchResult, Trial


def small_search(folder: Path, **more: Any) -> SearchResult:
    arguments: dict[str, Any] = {
        "objective": "sample_jobs:climb",
        "space": SPACE,
        "base_row": {"steps": 9},
        "settings": {},
        "trials": 3,
        "max_concurrent": 2,
        "seed": 0,
        "storage": folder,
        "resources": Resources(),
        "max_steps": 9,
        "grace_steps": 1,
    }
    return search(**(arguments | more))


def score(x: float, y: str) -> float:
    """What a trial of `sample_jobs.climb` ends with."""
    return 100.0 - abs(x - 3.0) - (0.0 if y == "good" else 50.0)


def executions(folder: Path) -> list[dict[str, Any]]:
    logs = sorted((folder / "trials").glob("*/executed.log"))
    return [
        json.loads(line.partition(" ")[2]) for log in logs for line in log.read_text().splitlines()
    ]


def check_files(folder: Path, trials: int) -> None:
    """The two files say the same as a reckoning by hand from the parameters in the table."""
    with (folder / "trials.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [int(row["trial"]) for row in rows] == list(range(1, trials + 1))
    assert list(rows[0]) == ["trial", "x", "y", "miou", "steps", "state"]
    for row in rows:
        steps = int(row["steps"])
        if row["state"] == "failed":
            assert (row["miou"], steps) == ("", 0)
            continue
        assert row["state"] == ("finished" if steps == 9 else "stopped")
        expected = score(float(row["x"]), row["y"]) * steps / 9
        assert float(row["miou"]) == pytest.approx(expected, abs=1e-3)
    finished = [row for row in rows if row["state"] == "finished"]
    top = max(finished, key=lambda row: float(row["miou"]))
    best = yaml.safe_load((folder / "best.yaml").read_text())
    assert best["overrides"] == [f"x={top['x']}", f"y={top['y']}"]
    assert best["value"] == pytest.approx(float(top["miou"]), abs=1e-3)
    assert (best["trial"], best["steps"]) == (int(top["trial"]), 9)
    assert best["objective"]["name"] == "miou"
    assert best["objective"]["mode"] == "max"


@pytest.mark.usefixtures("local_ray")
def test_a_killed_search_is_restored_and_repeats_no_finished_trial(
    tmp_path: Path, drive: Callable[..., "subprocess.Popen[str]"]
) -> None:
    driver = drive("search", tmp_path)
    done = (tmp_path / "trials").glob
    wait_for(lambda: list(done("*/done.json")))
    before = {path.parent.name for path in done("*/done.json")}
    assert len(before) < 4
    left_over = descendants(driver.pid)
    driver.send_signal(signal.SIGKILL)
    assert left_over
    result = run_search(tmp_path, step_s=0.15)
    kill(left_over)
    assert len(result.trials) == 4
    check_files(tmp_path, 4)
    for name in before:
        log = tmp_path / "trials" / name / "executed.log"
        assert len(log.read_text().splitlines()) == 1
    # Nothing was proposed a second time as another trial.
    assert len(list((tmp_path / "trials").iterdir())) == 4
    assert len(list((tmp_path / "tune").iterdir())) == 1


@pytest.mark.usefixtures("local_ray")
def test_asha_stops_bad_trials_and_one_that_raises_is_a_failed_trial(tmp_path: Path) -> None:
    row = {"steps": 9, "raise_on": "bad"}
    result = small_search(tmp_path, base_row=row, trials=5, max_concurrent=1, seed=1)
    check_files(tmp_path, 5)
    states: dict[str, list[Trial]] = {state: [] for state in ("finished", "stopped", "failed")}
    for trial in result.trials:
        states[trial.state].append(trial)
    assert states["finished"]
    assert states["stopped"]
    assert states["failed"]
    assert all(trial.steps in (1, 3) for trial in states["stopped"])
    assert all(trial.params["y"] == "bad" for trial in states["failed"])
    assert all(trial.message == "ValueError: y: got bad" for trial in states["failed"])
    assert result.best.params["y"] == "good"
    assert result.overrides == yaml.safe_load((tmp_path / "best.yaml").read_text())["overrides"]
    # Each was executed once: Tune would otherwise try a failed one again.
    assert len(executions(tmp_path)) == 5


@pytest.mark.usefixtures("local_ray")
def test_when_every_trial_fails_the_cause_is_told(tmp_path: Path) -> None:
    space = {"x": SPACE["x"], "y": {"type": "choice", "values": ["bad"]}}
    row = {"steps": 9, "raise_on": "bad"}
    with pytest.raises(UserError, match="all 1 trials failed, the first with: ValueError: y: got"):
        small_search(tmp_path, base_row=row, space=space, trials=1)
    assert not (tmp_path / "best.yaml").exists()


@pytest.mark.usefixtures("local_ray")
def test_a_search_that_no_node_can_take(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="each trial asked for 1 CPU, 2 GPU, which no live node"):
        small_search(tmp_path, resources=Resources(gpus=2))


@pytest.mark.parametrize(
    "field, value", [("trials", 0), ("max_concurrent", 0), ("grace_steps", 0), ("grace_steps", 10)]
)
def test_bad_numbers_are_refused(tmp_path: Path, field: str, value: int) -> None:
    with pytest.raises(ConfigError, match=f"{field} {value}"):
        small_search(tmp_path, **{field: value})


@pytest.mark.parametrize(
    "entry, message",
    [
        ({"type": "normal", "low": 0, "high": 1}, r"space\.a\.type: got 'normal', allowed uniform"),
        ("uniform", r"space\.a\.type: got None"),
        ({"type": "uniform", "low": 0}, r"space\.a: got the fields \['low'\], a uniform takes"),
        ({"type": "uniform", "low": 0, "high": 1, "hgih": 2}, r"space\.a: got the fields"),
        ({"type": "uniform", "low": 1, "high": 1}, r"space\.a: got low 1 and high 1"),
        ({"type": "loguniform", "low": 0, "high": 1}, r"space\.a\.low: got 0"),
        # YAML 1.1 reads 1e-3 as text.
        ({"type": "uniform", "low": "1e-3", "high": 1}, r"space\.a\.low: got '1e-3'"),
        ({"type": "uniform", "low": 0, "high": float("inf")}, r"space\.a\.high: got inf"),
        ({"type": "int", "low": 0, "high": 1.5}, r"space\.a\.high: got 1\.5, allowed a whole"),
        ({"type": "int", "low": False, "high": 3}, r"space\.a\.low: got False"),
        ({"type": "choice", "values": []}, r"space\.a\.values: got \[\]"),
    ],
)
def test_a_bad_space_is_refused_with_the_entry_named(entry: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_space({"a": entry})


def test_an_empty_space_is_refused() -> None:
    with pytest.raises(ConfigError, match="space: got no parameters"):
        parse_space({})


@pytest.mark.parametrize(
    "value, plain", [(0.123456, 0.1235), (1.0, 1.0), (3, 3), ("mmd", "mmd"), (True, True)]
)
def test_values_are_short(value: Any, plain: Any) -> None:
    assert plain_value(value) == plain
    assert type(plain_value(value)) is type(plain)
