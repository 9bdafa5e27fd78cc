"""A space with every kind of entry, a ledger of trials over it, and the files of a search."""

from pathlib import Path
from typing import Any

from pipeline.search.config import SearchConfig
from pipeline.search.ledger import Ledger, Score
from pipeline.search.proposals import propose
from pipeline.search.results import write_result
from pipeline.search.space import parse_space
from pipeline.search.tune import Searched

MIXED = {
    # Written before what it depends on.
    "length": {
        "type": "int", "low": 20, "high": 60, "step": 20, "when": {"book": ["mmd", "text"]}
    },
    "book": {"type": "choice", "values": ["mmd", "text", "one-hot"]},
    "weight": {"type": "loguniform", "low": 0.1, "high": 10.0},
    "draws": {"type": "int", "low": 1, "high": 100, "log": True, "when": {"book": "mmd"}},
    "share": {"type": "uniform", "low": 0.0, "high": 1.0, "step": 0.25},
    "deep": {"type": "uniform", "low": 0.0, "high": 1.0, "when": {"length": 60}},
}  # fmt: skip


def config(**more: Any) -> SearchConfig:
    fields: dict[str, Any] = {
        "objective": "module:function",
        "space": MIXED,
        "row": {},
        "settings": {"seeds": [0], "network": "student"},
        "max_steps": 9,
        "grace_steps": 1,
        "trials": 6,
    }
    return SearchConfig(**(fields | more))


def learned(folder: Path, count: int, algorithm: str = "tpe", startup: int = 4) -> Ledger:
    """A ledger of trials that prefer weights near 1 and the book mmd."""
    ledger, space = Ledger(folder / "ledger.json", startup=startup), parse_space(MIXED)
    for _ in range(count):
        values = propose(space, algorithm, 0, ledger, 9)
        assert values is not None
        trial = ledger.add(values)
        score = 50.0 - abs(values["weight"] - 1.0) - (0 if values["book"] == "mmd" else 10)
        good = score > 47
        trial.scores = [
            Score(step=step, mean=score * step / 9) for step in ([3, 9] if good else [3])
        ]
        trial.state = "finished" if good else "stopped"
    return ledger


def written(folder: Path, ledger: Ledger) -> Searched:
    searched = Searched(config=config(), ledger=ledger, space=parse_space(MIXED), used_up=False)
    about = {
        "experiment": "e", "cell": "c", "space": "s", "objective": "teacher/miou", "seeds": [0],
        "evaluation": {"dataset": "d", "split": "val", "mode": "whole", "score": "iou"},
    }  # fmt: skip
    write_result(searched, folder, about)
    return searched
