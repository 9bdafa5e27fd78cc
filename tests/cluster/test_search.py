"""The search on Ray: what it survives, what it stops, what it leaves; its parts are in
test_search_parts.py."""

import json
import signal
import subprocess
import threading
from collections.abc import Callable
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any

import pytest
import ray
from cluster_helpers import descendants, kill, wait_for
from drive import SPACE, run_search, search_of

from ecocseg.errors import UserError
from pipeline.cluster.resources import Resources
from pipeline.search.ledger import Ledger, Trial
from pipeline.search.results import best_trial
from pipeline.search.tune import search

pytestmark = pytest.mark.usefixtures("local_ray")


def score(x: float, y: str = "good") -> float:
    """What a trial of `sample_jobs.climb` ends with."""
    return 100.0 - abs(x - 3.0) - (0.0 if y == "good" else 50.0)


def executed(folder: Path) -> list[Any]:
    return [json.loads(line) for line in (folder / "executed.log").read_text().splitlines()]


def stored(folder: Path) -> Ledger:
    (path,) = (folder / "state").glob("[!.]*.json")
    found = Ledger.load(path)
    assert found is not None
    return found


def test_a_killed_search_goes_on_with_the_proposals_of_an_undisturbed_one(
    tmp_path: Path, drive: Callable[..., "subprocess.Popen[str]"]
) -> None:
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    killed.mkdir()
    whole.mkdir()
    driver = drive("search", killed)
    wait_for(lambda: ended(killed) >= 2)
    left_over = descendants(driver.pid)
    driver.send_signal(signal.SIGKILL)
    assert left_over
    assert 2 <= ended(killed) < 8
    undisturbed = run_search(search_of(whole), whole)
    resumed = run_search(search_of(killed), killed)
    kill(left_over)
    assert resumed.ledger.trials == undisturbed.ledger.trials
    assert len(resumed.ledger.trials) == 8
    assert {"finished", "stopped"} == {trial.state for trial in resumed.ledger.trials}
    # No step was executed twice, but for the one that the kill may have cut off.
    steps = executed(killed)
    assert len(steps) - len({json.dumps(step) for step in steps}) <= 1
    assert not list(killed.glob("trials/*/state"))
    # Nothing is left to do: Ray is not even asked for.
    again = search(search_of(killed), killed, Resources, never)
    assert again.ledger.trials == resumed.ledger.trials


def ended(folder: Path) -> int:
    return len(list(stored(folder).of("finished", "stopped"))) if (folder / "state").exists() else 0


def never() -> Any:
    raise AssertionError("connected")


class Freed:
    """Lets the other trial go on when the core of a stopped one is free."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.free: list[float] = []
        self.stopped: list[Trial] = []

    def began(self, trial: Trial) -> None:
        pass

    def scored(self, trial: Trial) -> None:
        self.free.append(ray.available_resources().get("CPU", 0.0))

    def ended(self, trial: Trial, ledger: Ledger) -> None:
        if trial.state == "stopped":
            self.stopped.append(trial)
            threading.Thread(target=self._look).start()

    def _look(self) -> None:
        with suppress(AssertionError):
            wait_for(lambda: ray.available_resources().get("CPU", 0.0) == 1.0)
            self.free.append(1.0)
        (self.folder / "freed").touch()


def test_a_trial_that_is_stopped_frees_its_core_while_others_run(tmp_path: Path) -> None:
    config = search_of(
        tmp_path,
        objective="sample_jobs:meet",
        space={"y": SPACE["y"]},
        algorithm="grid",
        trials=2,
        max_concurrent=2,
        settings={"folder": str(tmp_path)},
    )
    freed = Freed(tmp_path)
    found = run_search(config, tmp_path, freed)
    assert {trial.values["y"]: trial.state for trial in found.ledger.trials} == {
        "good": "finished",
        "bad": "stopped",
    }
    (stopped,) = freed.stopped
    assert stopped.last is not None
    assert stopped.last.step < 9
    # Both cores were taken while both ran, and one was free before the other trial went on.
    assert 0.0 in freed.free
    assert 1.0 in freed.free[freed.free.index(0.0) :]
    # Checkpoints are gone as well, of the finished one too.
    assert len(list(tmp_path.glob("trials/*/reports.json"))) == 2
    assert not list(tmp_path.glob("trials/*/state"))


def test_a_trial_that_raises_is_a_failed_one_and_is_tried_again_by_the_next_command(
    tmp_path: Path,
) -> None:
    row = {"steps": 9, "raise_on": "bad"}
    found = run_search(search_of(tmp_path, row=row, trials=4), tmp_path)
    failed = list(found.ledger.of("failed"))
    assert failed
    assert len(failed) < 4
    assert {trial.message for trial in failed} == {"ValueError: y: got bad"}
    assert {trial.values["y"] for trial in failed} == {"bad"}
    assert best_trial(found.ledger).values["y"] == "good"
    for trial in found.ledger.of("finished"):
        assert trial.last is not None
        assert trial.last.mean == pytest.approx(score(trial.values["x"]))
    # Each was executed once: Tune would otherwise try a failed one again.
    assert not [step for values, step in executed(tmp_path) if values["y"] == "bad"]
    assert [trial.state for trial in stored(tmp_path).trials].count("failed") == len(failed)


def test_a_trial_whose_worker_is_lost_goes_on_from_its_checkpoint(tmp_path: Path) -> None:
    row = {"steps": 9, "die_at": 4}
    found = run_search(search_of(tmp_path, row=row, trials=1), tmp_path)
    (trial,) = found.ledger.trials
    assert (tmp_path / "died").exists()
    assert trial.state == "finished"
    # The checkpoint is ahead of the last report: the score of step 4 was lost with the worker.
    assert [score.step for score in trial.scores] == [1, 2, 3, 5, 6, 7, 8, 9]
    assert [step for _, step in executed(tmp_path)] == list(range(1, 10))


def test_when_every_trial_fails_the_cause_is_told(tmp_path: Path) -> None:
    space = {"x": SPACE["x"], "y": {"type": "choice", "values": ["bad"]}}
    row = {"steps": 9, "raise_on": "bad"}
    found = run_search(search_of(tmp_path, row=row, space=space, trials=1), tmp_path)
    with pytest.raises(UserError, match="none of 1 trials has a score, the first failed with: Val"):
        best_trial(found.ledger)


def test_hours_end_what_is_running_and_a_bigger_budget_goes_on(tmp_path: Path) -> None:
    more = {
        "row": {"steps": 40},
        "max_steps": 40,
        "scheduler": "none",
        "trials": 1,
        "settings": {"log": str(tmp_path / "executed.log"), "step_s": 0.1},
    }
    short = run_search(search_of(tmp_path, gpu_hours=1 / 3600, **more), tmp_path)
    assert short.used_up
    assert short.ledger.unit == "CPU core"
    (cut,) = short.ledger.trials
    assert cut.state not in ("finished", "stopped", "failed")
    # The used budget does not grow by starting again.
    used = short.ledger.seconds
    again = search(search_of(tmp_path, gpu_hours=1 / 3600, **more), tmp_path, Resources, never)
    assert again.used_up
    assert again.ledger.seconds == used >= 1
    longer = run_search(search_of(tmp_path, gpu_hours=1.0, **more), tmp_path)
    assert not longer.used_up
    assert [trial.state for trial in longer.ledger.trials] == ["finished"]
    assert longer.ledger.trials[0].values == cut.values
    steps = executed(tmp_path)
    assert len(steps) - len({json.dumps(step) for step in steps}) <= 1


def test_a_population_changes_values_while_it_trains(tmp_path: Path) -> None:
    config = search_of(
        tmp_path,
        objective="sample_jobs:gather",
        space={"x": SPACE["x"]},
        algorithm="pbt",
        trials=3,
        row={"steps": 9, "every": 3},
        max_steps=9,
        grace_steps=3,
    )
    found = run_search(config, tmp_path)
    assert [trial.state for trial in found.ledger.trials] == ["finished"] * 3
    for trial in found.ledger.trials:
        assert trial.last is not None
        assert trial.last.step == 9
        ends = [0, *(part["to_step"] for part in trial.schedule)]
        assert [part["from_step"] for part in trial.schedule] == ends[:-1]
        # What its checkpoint summed up, over all members that it went on from.
        expected = sum(
            (part["to_step"] - part["from_step"]) * part["values"]["x"] for part in trial.schedule
        )
        assert trial.last.mean == pytest.approx(expected)
        assert all(0.0 <= part["values"]["x"] <= 6.0 for part in trial.schedule)
    assert any(len(trial.schedule) > 1 for trial in found.ledger.trials)


def test_a_search_that_no_node_can_take(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="each trial asked for 1 CPU, 2 GPU, which no live node"):
        search(search_of(tmp_path), tmp_path, lambda: Resources(gpus=2), nullcontext)
