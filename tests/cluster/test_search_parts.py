"""The search without Ray: spaces, what a search is, its ledger and its files."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from ray import tune
from search_parts import MIXED, config, learned, written

from ecocseg.errors import ConfigError, UserError
from pipeline.search.ledger import Known, Ledger, Score
from pipeline.search.results import best_trial, importance
from pipeline.search.space import parse_space, plain_value, shown
from pipeline.search.trial_worker import Work, _population
from pipeline.search.tune import check_algorithm


def test_a_grid_has_every_point_once_without_what_means_nothing() -> None:
    fields = {name: MIXED[name] for name in ("length", "book", "share")}
    points = parse_space(fields).grid()
    assert len(points) == (2 * 3 + 1) * 5
    assert len({json.dumps(point) for point in points}) == len(points)
    assert all(("length" in point) == (point["book"] != "one-hot") for point in points)
    with pytest.raises(ConfigError, match=r"space\.weight: a grid cannot walk through a whole"):
        parse_space(MIXED).grid()


def test_corners_have_every_end_and_only_points_of_the_space() -> None:
    corners = list(parse_space(MIXED).corners())
    seen = {(name, value) for corner in corners for name, value in corner.items()}
    assert {("weight", 0.1), ("weight", 10.0), ("length", 20), ("length", 60)} <= seen
    assert {("book", "one-hot"), ("draws", 100), ("deep", 1.0), ("share", 0.0)} <= seen
    deep = next(corner for corner in corners if "deep" in corner)
    assert deep["length"] == 60
    assert deep["book"] in ("mmd", "text")


@pytest.mark.parametrize(
    "entry, message",
    [
        ({"type": "normal", "low": 0, "high": 1}, r"space\.a\.type: got 'normal', allowed uniform"),
        ("uniform", r"space\.a\.type: got None"),
        ({"type": "uniform", "low": 0}, r"space\.a: got the fields \['low'\], a uniform takes"),
        ({"type": "uniform", "low": 0, "high": 1, "hgih": 2}, r"space\.a: got the fields"),
        ({"type": "uniform", "low": 0, "high": 1, "log": True}, r"space\.a: got the fields"),
        ({"type": "uniform", "low": 1, "high": 1}, r"space\.a: got low 1 and high 1"),
        ({"type": "loguniform", "low": 0, "high": 1}, r"space\.a\.low: got 0"),
        ({"type": "int", "low": 0, "high": 4, "log": True}, r"space\.a\.low: got 0"),
        ({"type": "int", "low": 1, "high": 4, "log": 1}, r"space\.a\.log: got 1"),
        ({"type": "int", "low": 1, "high": 4, "log": True, "step": 1}, "got step and log"),
        ({"type": "int", "low": 1, "high": 4, "step": 2}, r"space\.a\.step: got 2"),
        ({"type": "uniform", "low": 0.0, "high": 1.0, "step": 0.3}, r"space\.a\.step: got 0\.3"),
        # YAML 1.1 reads 1e-3 as text.
        ({"type": "uniform", "low": "1e-3", "high": 1}, r"space\.a\.low: got '1e-3'"),
        ({"type": "uniform", "low": 0, "high": float("inf")}, r"space\.a\.high: got inf"),
        ({"type": "int", "low": 0, "high": 1.5}, r"space\.a\.high: got 1\.5, allowed a whole"),
        ({"type": "int", "low": False, "high": 3}, r"space\.a\.low: got False"),
        ({"type": "choice", "values": []}, r"space\.a\.values: got \[\]"),
        ({"type": "choice", "values": [[1]]}, r"space\.a\.values: got \[1\], allowed numbers"),
        ({"type": "choice", "values": [1, 1]}, "allowed each value once"),
        ({"type": "choice", "values": [1], "when": 3}, r"space\.a\.when: got 3"),
        ({"type": "choice", "values": [1], "when": {"b": []}}, "got no values"),
        ({"type": "choice", "values": [1], "when": {"c": 1}}, r"space\.a\.when: unknown entry 'c'"),
        ({"type": "choice", "values": [1], "when": {"w": 1}}, "w has a whole range"),
        ({"type": "choice", "values": [1], "when": {"b": 7}}, r"when\.b: got 7, which b never has"),
        ({"type": "choice", "values": [1], "when": {"d": 1}}, "depends on itself"),
    ],
)
def test_a_bad_space_is_refused_with_the_entry_named(entry: Any, message: str) -> None:
    others = {
        "b": {"type": "choice", "values": [1, 2]},
        "w": {"type": "uniform", "low": 0, "high": 1},
        "d": {"type": "choice", "values": [1], "when": {"a": 1}},
    }
    if not (isinstance(entry, dict) and "d" in str(entry.get("when"))):
        del others["d"]
    with pytest.raises(ConfigError, match=message):
        parse_space({"a": entry, **others})


def test_an_empty_space_is_refused() -> None:
    with pytest.raises(ConfigError, match="space: got no parameters"):
        parse_space({})


@pytest.mark.parametrize(
    "value, plain", [(0.123456, 0.1235), (1.0, 1.0), (3, 3), ("mmd", "mmd"), (True, True)]
)
def test_values_are_short(value: Any, plain: Any) -> None:
    assert plain_value(value) == plain
    assert type(plain_value(value)) is type(plain)


@given(st.one_of(st.none(), st.booleans(), st.integers(), st.text("abc-", min_size=1)))
def test_a_table_gives_a_value_back(value: Any) -> None:
    (entry,) = parse_space({"a": {"type": "choice", "values": [value]}}).entries
    assert entry.read(shown(value)) is value or entry.read(shown(value)) == value


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"trials": 0}, "trials: got 0"),
        ({"trials": None}, "trials: got None"),
        ({"gpu_hours": 0.0}, "gpu_hours: got 0.0"),
        ({"max_concurrent": 0}, "max_concurrent: got 0"),
        ({"grace_steps": 0}, "grace_steps: got 0"),
        ({"grace_steps": 10}, "grace_steps: got 10"),
        ({"algorithm": "sobol"}, "algorithm: got 'sobol'"),
        ({"scheduler": "median"}, "scheduler: got 'median'"),
        ({"algorithm": "pbt", "trials": 1}, "trials: got 1, allowed is 2 or more"),
        ({"algorithm": "grid", "warm_start": ["a.csv"]}, "warm_start: got"),
    ],
)
def test_a_bad_search_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        config(**fields)


def test_the_budget_is_no_part_of_a_searchs_identity_and_all_else_is() -> None:
    name = config().name
    assert name == config(trials=40, gpu_hours=2.0, max_concurrent=4).name
    assert name == config(settings={"seeds": [0], "network": "student", "device": "cuda"}).name
    for change in (
        {"algorithm": "random"},
        {"scheduler": "none"},
        {"seed": 1},
        {"max_steps": 8},
        {"warm_start": ["a.csv"]},
        {"row": {"spec": 1}},
        {"settings": {"seeds": [0, 1], "network": "student"}},
        {"settings": {"seeds": [0], "network": "teacher"}},
        {"space": {"book": MIXED["book"]}},
    ):
        assert config(**change).name != name


@pytest.mark.parametrize("names", [["book"], ["share"], ["book", "length", "deep"]])
def test_a_population_takes_whole_ranges_only(names: list[str]) -> None:
    chosen = config(algorithm="pbt", space={name: MIXED[name] for name in names})
    with pytest.raises(ConfigError, match="pbt changes values while a network trains"):
        check_algorithm(chosen, parse_space(chosen.space))


def test_a_ledger_comes_back_as_it_was_and_what_did_not_end_waits(tmp_path: Path) -> None:
    ledger = learned(tmp_path, 5)
    ledger.known.append(Known(values={"weight": 1.0}, step=9, score=3.0))
    ledger.trials[3].state, ledger.trials[4].state = "running", "failed"
    ledger.seconds = 12.5
    ledger.save()
    found = Ledger.load(ledger.path)
    assert found is not None
    assert found.trials[:3] == ledger.trials[:3]
    assert [trial.state for trial in found.trials[3:]] == ["waiting", "failed"]
    # As long as nothing is left of the budget, it is no trial with a score.
    assert best_trial(found).number not in (4, 5)
    found.retry(anew=False)
    assert found.trials[4].state == "waiting"
    assert found.trials[4].scores == ledger.trials[4].scores
    found.trials[4].state = "failed"
    found.trials[4].schedule = [{"from_step": 0, "to_step": 3, "values": {}}]
    # The files of a population's member are gone, and it has its first score once more.
    found.retry(anew=True)
    assert (found.trials[4].scores, found.trials[4].schedule) == ([], [])
    assert found.report(5, Score(step=1, mean=2.0))
    assert (found.known, found.startup, found.seconds) == (ledger.known, 4, 12.5)
    assert Ledger.load(tmp_path / "other.json") is None
    ledger.path.write_text("{")
    with pytest.raises(UserError, match="not readable as the state of a search"):
        Ledger.load(ledger.path)


def test_the_files_say_what_the_ledger_does(tmp_path: Path) -> None:
    ledger = learned(tmp_path, 12)
    ledger.trials[2].state, ledger.trials[4].state = "failed", "waiting"
    written(tmp_path, ledger)
    rows = list(csv.DictReader((tmp_path / "trials.csv").open()))
    names = ["book", "length", "weight", "draws", "share", "deep"]
    assert sorted(rows[0]) == sorted(["trial", *names, "miou", "std", "steps", "state"])
    for row, trial in zip(rows, ledger.trials, strict=True):
        assert {n: row[n] for n in names if row[n]} == {n: str(v) for n, v in trial.values.items()}
        assert trial.last is not None
        if trial.state == "failed":
            assert (row["miou"], row["state"]) == ("", "failed")
        else:
            assert float(row["miou"]) == pytest.approx(trial.last.mean, abs=1e-4)
            assert int(row["steps"]) == trial.last.step
    assert rows[4]["state"] == "unfinished"
    finished = [trial for trial in ledger.trials if trial.last and trial.last.step == 9]
    top = max((t for t in finished if t.state != "failed"), key=lambda t: t.last.mean)  # type: ignore[union-attr]
    best = yaml.safe_load((tmp_path / "best.yaml").read_text())
    assert best["trial"] == top.number
    assert best["overrides"] == [f"{name}={value}" for name, value in top.values.items()]
    assert best["objective"]["name"] == "teacher/miou"
    assert best["evaluation"]["split"] == "val"


def test_what_was_trained_longest_is_best_however_high_others_were(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.json")
    for step, mean in ((3, 90.0), (6, 20.0), (6, 30.0)):
        trial = ledger.add({"weight": mean})
        trial.scores, trial.state = [Score(step=step, mean=mean)], "stopped"
    assert best_trial(ledger).number == 3


def test_shares_of_an_interaction_do_not_add_up_to_one(tmp_path: Path) -> None:
    choices = {"type": "choice", "values": [0, 1]}
    space = parse_space({"a": choices, "b": choices, "c": {**choices, "values": list(range(8))}})
    ledger = Ledger(tmp_path / "ledger.json")
    for point in space.grid():
        trial = ledger.add(point)
        score = float(point["a"] != point["b"]) + 0.01 * point["c"]
        trial.scores, trial.state = [Score(step=9, mean=score)], "finished"
    found = importance(ledger, space)
    assert found is not None
    # By itself none explains anything.
    assert sum(found["shares"].values()) < 0.5


def test_importance_finds_what_decides_the_score(tmp_path: Path) -> None:
    found = importance(learned(tmp_path, 30, "random"), parse_space(MIXED))
    assert found is not None
    assert found["step"] == 3
    # Entries that not every trial has are left out.
    assert set(found["shares"]) == {"book", "weight", "share"}
    assert max(found["shares"], key=found["shares"].get) == "book"
    assert found["shares"]["share"] < 0.1
    assert importance(learned(tmp_path, 7), parse_space(MIXED)) is None


def test_a_member_that_has_all_its_steps_says_so_again_after_a_kill(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[dict[str, Any]] = []
    monkeypatch.setattr(tune, "report", lambda report, checkpoint: told.append(report))
    monkeypatch.setattr(tune, "get_checkpoint", lambda: None)
    work = Work(
        objective="sample_jobs:gather",
        row={"steps": 9, "every": 3},
        settings={},
        name="search",
        trials_dir=tmp_path,
        threads=1,
        max_steps=9,
        population=True,
    )
    # The second time begins with the files that the first one left, as after a kill.
    _population(tmp_path / "1", {"x": 2.0}, work)
    _population(tmp_path / "1", {"x": 2.0}, work)
    assert [(report["step"], report["miou"]) for report in told] == [
        (3, 6.0),
        (6, 12.0),
        (9, 18.0),
        (9, 18.0),
    ]
    assert told[-1] == told[-2]
