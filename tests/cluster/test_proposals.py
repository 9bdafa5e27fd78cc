"""What a search proposes, as a function of its ledger and of earlier results."""

import json
from pathlib import Path
from typing import Any

import pytest
from search_parts import MIXED, config, learned, written

from ecocseg.errors import ConfigError
from pipeline.search.ledger import Ledger, Score
from pipeline.search.proposals import propose, read_earlier
from pipeline.search.space import parse_space
from pipeline.search.tune_parts import halving


def active(values: dict[str, Any]) -> set[str]:
    """The names that a point must have, written out."""
    names = {"book", "weight", "share"}
    names |= {"length"} if values["book"] in ("mmd", "text") else set()
    names |= {"draws"} if values["book"] == "mmd" else set()
    return names | ({"deep"} if values.get("length") == 60 else set())


@pytest.mark.parametrize("algorithm", ["tpe", "random"])
def test_points_have_the_entries_that_mean_something_within_their_ranges(
    tmp_path: Path, algorithm: str
) -> None:
    space = parse_space(MIXED)
    ledger = learned(tmp_path, 30, algorithm)
    for trial in ledger.trials:
        values = trial.values
        assert set(values) == active(values)
        assert 0.1 <= values["weight"] <= 10.0
        assert values["share"] in (0.0, 0.25, 0.5, 0.75, 1.0)
        assert values.get("length", 20) in (20, 40, 60)
        assert 1 <= values.get("draws", 1) <= 100
        assert space.why_not(values) is None
    points = [json.dumps(trial.values, sort_keys=True) for trial in ledger.trials]
    assert len(set(points)) == 30


def test_tpe_learns_and_random_does_not(tmp_path: Path) -> None:
    def share(algorithm: str) -> float:
        later = learned(tmp_path, 40, algorithm).trials[10:]
        return sum(trial.values["book"] == "mmd" for trial in later) / len(later)

    assert share("tpe") > 0.6
    assert share("random") < 0.5


@pytest.mark.parametrize("count, seed", [(0, 0), (3, 1), (8, 0), (12, 2)])
def test_a_proposal_is_a_function_of_what_is_known(count: int, seed: int) -> None:
    ledger, space = learned(Path("nowhere"), count), parse_space(MIXED)
    first = propose(space, "tpe", seed, ledger, 9)
    assert first == propose(space, "tpe", seed, ledger, 9)
    assert propose(space, "tpe", seed + 1, ledger, 9) != first


def test_what_others_are_trying_is_not_proposed_again(tmp_path: Path) -> None:
    space = parse_space({"a": {"type": "choice", "values": [1, 2, 3]}})
    for algorithm in ("tpe", "random", "grid"):
        ledger = Ledger(tmp_path / "ledger.json")
        for _ in range(3):
            values = propose(space, algorithm, 0, ledger, 9)
            assert values is not None
            ledger.add(values).state = "running"
        assert sorted(trial.values["a"] for trial in ledger.trials) == [1, 2, 3]
        assert propose(space, algorithm, 0, ledger, 9) is None


def test_early_stopping_knows_the_trials_of_earlier_commands(tmp_path: Path) -> None:
    class Reporting:
        def __init__(self, name: str) -> None:
            self.trial_id = name

    ledger = Ledger(tmp_path / "ledger.json")
    for mean in (10.0, 20.0, 30.0, 40.0):
        trial = ledger.add({})
        trial.scores, trial.state = [Score(step=3, mean=mean)], "stopped"
    bracket = halving(config(grace_steps=3), ledger)._brackets[0]
    # Below the best third of four (their 66.7th percentile) it is stopped.
    assert bracket.on_result(Reporting("low"), 3, 29.0) == "STOP"  # type: ignore[arg-type]
    assert bracket.on_result(Reporting("high"), 3, 41.0) == "CONTINUE"  # type: ignore[arg-type]
    empty = halving(config(grace_steps=3), Ledger(tmp_path / "other.json"))._brackets[0]
    assert empty.on_result(Reporting("low"), 3, 29.0) == "CONTINUE"  # type: ignore[arg-type]


def test_an_earlier_searchs_table_is_what_the_sampler_knows(tmp_path: Path) -> None:
    earlier = learned(tmp_path, 12)
    earlier.trials[0].state = "failed"
    written(tmp_path, earlier)
    space = parse_space(MIXED)
    known, outside = read_earlier([str(tmp_path / "trials.csv")], space, {})
    assert outside == 0
    assert [point.values for point in known] == [trial.values for trial in earlier.trials[1:]]
    narrow = parse_space(MIXED | {"weight": {"type": "loguniform", "low": 0.1, "high": 1.0}})
    known, outside = read_earlier([str(tmp_path / "trials.csv")], narrow, {})
    assert outside == sum(trial.values["weight"] > 1.0 for trial in earlier.trials[1:]) > 0
    assert len(known) + outside == 11
    with pytest.raises(
        ConfigError, match=r"another objective \(teacher/miou, this search has stud"
    ):
        read_earlier([str(tmp_path / "trials.csv")], space, {"objective": "student/miou"})
    fresh, warm = Ledger(tmp_path / "a"), Ledger(tmp_path / "b", known * 3)
    assert propose(narrow, "tpe", 0, warm, 9) != propose(narrow, "tpe", 0, fresh, 9)


@pytest.mark.parametrize(
    "text, message",
    [
        (None, "cannot be read"),
        ("a,b\n1,2\n", "got the columns"),
        ("trial,weihgt,miou,steps,state\n", "unknown column 'weihgt'.*did you mean 'weight'"),
        ("trial,weight,miou,steps,state\n", "has no column 'book'"),
    ],
)
def test_a_table_of_something_else_is_refused(
    tmp_path: Path, text: str | None, message: str
) -> None:
    path = tmp_path / "trials.csv"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        read_earlier([str(path)], parse_space(MIXED), {})


@pytest.mark.parametrize("algorithm", ["tpe", "random"])
def test_a_space_of_so_many_points_is_walked_to_its_last_one(
    tmp_path: Path, algorithm: str
) -> None:
    # Of very different odds, so that blind draws miss the last ones.
    space = parse_space(
        {
            "a": {"type": "choice", "values": ["p", "q", "x"]},
            "b": {"type": "int", "low": 1, "high": 9, "log": True, "when": {"a": "x"}},
            "c": {"type": "uniform", "low": 0.0, "high": 0.3, "step": 0.1, "when": {"a": "p"}},
            "d": {"type": "choice", "values": list(range(23)), "when": {"a": "q"}},
        }
    )
    ledger = Ledger(tmp_path / "ledger.json", startup=4)
    while (values := propose(space, algorithm, 0, ledger, 9)) is not None:
        assert space.why_not(values) is None
        trial = ledger.add(values)
        trial.scores, trial.state = [Score(step=9, mean=float(values.get("b", 0)))], "finished"
    points = {json.dumps(trial.values, sort_keys=True) for trial in ledger.trials}
    assert len(points) == len(ledger.trials) == 9 + 4 + 23
