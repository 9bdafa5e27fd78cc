"""A search in MLflow: one parent, one child a trial, whatever was cut off and begun again."""

from contextlib import suppress
from pathlib import Path
from typing import Any

from tracking_support import curve

from pipeline.search.config import SearchConfig
from pipeline.search.ledger import Ledger, Score, Trial
from pipeline.search.space import parse_space
from pipeline.search.tracking import SearchTracking
from pipeline.search.tune import Searched
from pipeline.tracking import TrackingConfig, list_runs

SPACE = {"x": {"type": "uniform", "low": 0.0, "high": 6.0}}
ABOUT = {"experiment": "e", "cell": "c", "objective": "student/miou"}
CONFIG = SearchConfig(
    objective="m:f", space=SPACE, row={}, settings={}, max_steps=4, grace_steps=1, trials=3
)
PARENT = f"search-{CONFIG.name}"


def follow(config: TrackingConfig, folder: Path) -> SearchTracking:
    return SearchTracking(config, folder / "tracked", CONFIG, ABOUT)


def report(tracking: SearchTracking, ledger: Ledger, number: int, *means: float) -> Trial:
    trial = ledger.trial(number)
    tracking.began(trial)
    for mean in means:
        step = (trial.last.step if trial.last else 0) + 1
        trial.scores.append(Score(step=step, mean=mean, std=0.5))
        tracking.scored(trial)
    return trial


def end(
    tracking: SearchTracking, ledger: Ledger, trial: Trial, state: str, message: str = ""
) -> None:
    trial.state, trial.message = state, message
    tracking.ended(trial, ledger)


def searched(ledger: Ledger) -> Searched:
    return Searched(config=CONFIG, ledger=ledger, space=parse_space(SPACE), used_up=False)


def test_a_search_that_was_cut_off_has_one_run_for_each_trial(
    tmp_path: Path, local: TrackingConfig
) -> None:
    ledger = Ledger(tmp_path / "ledger.json")
    for x in (1.0, 2.0, 3.0):
        ledger.add({"x": x})
    with suppress(KeyboardInterrupt), follow(local, tmp_path) as tracking:
        end(tracking, ledger, report(tracking, ledger, 1, 10.0, 20.0, 30.0, 40.0), "finished")
        report(tracking, ledger, 2, 11.0)
        raise KeyboardInterrupt
    with follow(local, tmp_path) as tracking:
        # Goes on where it was, and says its first score again.
        tracking.scored(ledger.trial(2))
        end(tracking, ledger, report(tracking, ledger, 2, 12.0), "stopped")
        end(tracking, ledger, report(tracking, ledger, 3), "failed", "ValueError: x")
        best = ledger.trial(1)
        table = tmp_path / "trials.csv"
        table.write_text("trial\n")
        tracking.results(searched(ledger), best, [table])
    runs = {run.run_id: run for run in list_runs(local)}
    children = [f"{PARENT}-{number:05d}" for number in (1, 2, 3)]
    assert sorted(runs) == sorted([PARENT, *children])
    above: Any = runs[PARENT].mlflow_run_id
    assert runs[PARENT].status == "FINISHED"
    assert runs[PARENT].metrics["miou"] == 40.0
    assert [runs[child].status for child in children] == ["FINISHED", "FINISHED", "FAILED"]
    assert {runs[child].tags["mlflow.parentRunId"] for child in children} == {above}
    assert [runs[child].tags.get("stopped") for child in children] == [None, "true", None]
    assert runs[children[2]].tags["message"] == "ValueError: x"
    assert runs[children[1]].params == {"x": "2.0"}
    assert curve(local, children[0], "eval/miou") == [(1, 10.0), (2, 20.0), (3, 30.0), (4, 40.0)]
    assert curve(local, children[1], "eval/miou") == [(1, 11.0), (2, 12.0)]
    assert list(local.artifact_root.rglob(f"{above}/**/trials.csv"))


def test_what_a_killed_driver_left_open_is_set_right(tmp_path: Path, local: TrackingConfig) -> None:
    ledger = Ledger(tmp_path / "ledger.json")
    trial = ledger.add({"x": 1.0})
    trial.scores, trial.state = [Score(step=4, mean=7.0)], "finished"
    with follow(local, tmp_path) as tracking:
        tracking.results(searched(ledger), trial, [])
    runs = {run.run_id: run for run in list_runs(local)}
    assert runs[f"{PARENT}-00001"].status == "FINISHED"
    assert curve(local, f"{PARENT}-00001", "eval/miou") == [(4, 7.0)]


def test_the_parent_has_the_best_of_all_commands_in_whatever_order_trials_end(
    tmp_path: Path, local: TrackingConfig
) -> None:
    ledger = Ledger(tmp_path / "ledger.json")
    for x in (1.0, 2.0, 3.0, 4.0):
        ledger.add({"x": x})
    with follow(local, tmp_path) as tracking:
        # With several at a time the second ends first.
        end(tracking, ledger, report(tracking, ledger, 2, 1.0, 1.0, 1.0, 20.0), "finished")
        end(tracking, ledger, report(tracking, ledger, 1, 1.0, 1.0, 1.0, 30.0), "finished")
        # What failed in the end is no score.
        end(tracking, ledger, report(tracking, ledger, 3, 1.0, 1.0, 1.0, 90.0), "failed", "E: x")
        ledger.seconds = 3600.0
        tracking.results(searched(ledger), ledger.trial(1), [])
    assert curve(local, PARENT, "eval/best_miou") == [(1, 20.0), (2, 30.0), (3, 30.0)]
    ledger.retry(anew=True)
    with follow(local, tmp_path) as tracking:
        end(tracking, ledger, report(tracking, ledger, 3, 1.0, 1.0, 1.0, 40.0), "finished")
        ledger.seconds = 7200.0
        tracking.results(searched(ledger), ledger.trial(3), [])
    assert curve(local, PARENT, "eval/best_miou")[-1] == (4, 40.0)
    (parent,) = [run for run in list_runs(local) if run.run_id == PARENT]
    assert (parent.metrics["miou"], parent.metrics["hours"]) == (40.0, 2.0)
