"""What the report reads of a search: `trials.csv`, `search.json`, and the paper's own points."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from pipeline.report.published import published_row, published_table

SYMBOLS = {
    "encoding.distance_weight": "λ₁",
    "encoding.contrast_weight": "λ₂",
    "encoding.temperature": "τ",
    "encoding.threshold": "T",
    "encoding.length": "K",
    "encoding.codebook": "codebook",
    "schedule.optim.lr": "learning rate",
}
"""What the paper calls a field."""
_LOSSES = {
    "encoding.distance_weight": "lambda1",
    "encoding.contrast_weight": "lambda2",
    "encoding.temperature": "tau",
}
# Where the paper's columns of Table 4 lie on the axis of T: code-wise and bit-wise at its ends.
_THRESHOLDS = {
    "code": 0.5, "hybrid_0.9": 0.9, "hybrid_0.95": 0.95, "hybrid_0.99": 0.99, "bit": 1.0
}  # fmt: skip
_LABELS = "encoding.labels"
_SUPERVISED = "supervised, Cityscapes"
_ADAPTED = "GTAv to Cityscapes"


@dataclass(frozen=True, kw_only=True)
class Series:
    """Printed mIoU (percent) over one parameter, all else fixed."""

    label: str
    points: Mapping[Any, float]
    kinds: Mapping[Any, str] = field(default_factory=dict)
    """Places that stand for another kind of labels, which has no such parameter."""


@dataclass(frozen=True, kw_only=True)
class Search:
    """A search as its files tell it; `trials` has a row for each trial, in order."""

    about: Mapping[str, Any]
    trials: pd.DataFrame

    @property
    def names(self) -> list[str]:
        """The searched fields."""
        return list(self.about["parameters"])

    @property
    def scored(self) -> pd.DataFrame:
        """The trials with a score."""
        return self.trials[self.trials["miou"].notna()]

    @property
    def full(self) -> pd.DataFrame:
        """Those that were trained longest: their scores compare."""
        return self.scored[self.scored["steps"] == self.scored["steps"].max()]

    @property
    def best(self) -> Any:
        """The best trial's row."""
        return self.trials[self.trials["trial"] == self.about["best"]].iloc[0]

    @property
    def measured(self) -> str:
        """Whose score it is, on what: for axes and captions."""
        evaluation = self.about["evaluation"]
        network = self.about["objective"].partition("/")[0]
        score = {"iou": "mIoU", "dice": "mDice"}[evaluation["score"]]
        return f"{score} of the {network} on {evaluation['dataset']} {evaluation['split']}"

    @property
    def axis(self) -> str:
        """The score, for an axis."""
        return f"{'mDice' if self.about['evaluation']['score'] == 'dice' else 'mIoU'} (%)"


def load_search(folder: Path) -> Search | None:
    """The search below `folder` (results/search); None where there is none with a score."""
    if not (folder / "search.json").is_file() or not (folder / "trials.csv").is_file():
        return None
    about = json.loads((folder / "search.json").read_text())
    # Texts stay what they are, and so do numbers that are names.
    texts = {name: str for name in about["parameters"] if categories(about["parameters"][name])}
    trials = pd.read_csv(folder / "trials.csv", dtype=texts, keep_default_na=False, na_values=[""])
    search = Search(about=about, trials=trials)
    return None if search.scored.empty else search


def categories(parameter: Mapping[str, Any]) -> list[str] | None:
    """The values of a choice as the table shows them; None where all are numbers."""
    values = parameter["values"]
    if values is None or all(type(value) in (int, float) for value in values):
        return None
    words = {None: "null", True: "true", False: "false"}
    return [words.get(v, str(v)) if v is None or isinstance(v, bool) else str(v) for v in values]


def symbol(name: str) -> str:
    """A field as figures call it."""
    return SYMBOLS.get(name, name)


def short_name(name: str) -> str:
    """The same in a word."""
    called = symbol(name)
    return called if called != name else name.rpartition(".")[2]


def places_of(search: Search, name: str) -> dict[int, float]:
    """Of each trial that has the parameter, where its value lies."""
    there = search.scored[search.scored[name].notna()]
    named = categories(search.about["parameters"][name])
    values = there[name] if named is None else [named.index(value) for value in there[name]]
    return dict(zip(there["trial"], map(float, values), strict=True))


def kind_of_labels(search: Search) -> pd.Series:
    """Of each trial, hybrid, code or bit; the cell's kind, where it is not searched, is hybrid."""
    if _LABELS in search.names:
        return search.trials[_LABELS]
    return pd.Series("hybrid", index=search.trials.index)


def paper_series(name: str) -> list[Series]:
    """The paper's results over a field, by its value; empty where it has none."""
    if name in _LOSSES:
        rows = published_table("table14_loss_hyperparameters")
        chosen = [row for row in rows if row["parameter"] == _LOSSES[name]]
        points = {float(row["value"]): float(row["miou"]) for row in chosen}
        return [Series(label=f"paper, Table 14 ({_SUPERVISED})", points=points)]
    if name == "encoding.length":
        rows = published_table("table07_code_length")
        points = {float(row["code_length"]): float(row["miou"]) for row in rows}
        return [Series(label=f"paper, Table 7 ({_SUPERVISED})", points=points)]
    if name == "encoding.threshold":
        found = []
        for book in ("text", "mmd"):
            row = published_row("table04_threshold_ablation", {"codebook": book})
            points = {place: float(row[column]) for column, place in _THRESHOLDS.items()}
            label = f"paper, Fig. 6 and Table 4 ({book}, {_ADAPTED})"
            kinds = {_THRESHOLDS[kind]: kind for kind in ("code", "bit")}
            found.append(Series(label=label, points=points, kinds=kinds))
        return found
    if name == "encoding.codebook":
        printed = published_row("table05_codebook_uda", {"source": "gta"})
        books = {book: float(printed[book]) for book in ("mmd", "text")}
        return [Series(label=f"paper, Table 5 ({_ADAPTED})", points=books)]
    return []
