"""What was logged over training, as pandas frames: one row per experiment, cell, seed and step."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from pipeline.report.cells import Cell, Experiment
from pipeline.report.reading import training_of

EVALUATION_COLUMNS = ["experiment", "cell", "label", "column", "seed", "step", "network", "miou"]


_MOST_POINTS = 200
"""Of a curve of training: more than a figure's width shows."""


def evaluation_curves(experiment: Experiment, cells: Sequence[Cell] | None = None) -> pd.DataFrame:
    """Validation mIoU in percent in long format (EVALUATION_COLUMNS), student and teacher.

    Of all cells, or those that are given.
    Or the protocol's score, where it is another (`protocols.score_name`). `column` is what a curve
    competes in (block, column of a grid, or group), `label` its name in there.
    """
    rows = [
        {**identity, "step": point["step"], "network": network, "miou": point[f"{network}/miou"]}
        for identity, record in _runs(experiment, experiment.cells if cells is None else cells)
        for point in record["curves"]["eval"]
        for network in ("student", "teacher")
        if point.get(f"{network}/miou") is not None
    ]
    return pd.DataFrame(rows, columns=EVALUATION_COLUMNS)


def curves_csv(experiment: Experiment) -> str:
    """`evaluation_curves` of all cells as the text of a CSV file."""
    return evaluation_curves(experiment).to_csv(index=False, lineterminator="\n")


def training_curves(
    experiment: Experiment, cells: Sequence[Cell], names: Sequence[str]
) -> pd.DataFrame:
    """What `cells` logged of `names` while training, a column per name without its folder.

    "mask_share" and "target/mask_share" are the same diagnostic to a reader; nulls are absent.
    """
    # A column at a time: a row at a time takes longer than all else.
    columns: dict[str, list[Any]] = {name: [] for name in ("cell", "seed", "step", *names)}
    for identity, record in _runs(experiment, cells):
        points = training_of(record, _MOST_POINTS)
        columns["cell"] += [identity["cell"]] * len(points)
        columns["seed"] += [identity["seed"]] * len(points)
        columns["step"] += [point["step"] for point in points]
        keys = dict.fromkeys(key for point in points for key in point)
        for name in names:
            found = [key for key in keys if key.rsplit("/", 1)[-1] == name]
            columns[name] += [
                next((point[key] for key in found if point.get(key) is not None), None)
                for point in points
            ]
    return pd.DataFrame(columns).astype(dict.fromkeys(names, "float64"))


def over_seeds(frame: pd.DataFrame, value: str) -> pd.DataFrame:
    """Mean, sample standard deviation (0 for one seed) and n of `value` at each step."""
    grouped = frame.dropna(subset=[value]).groupby("step")[value]
    return grouped.agg(["mean", "std", "count"]).fillna({"std": 0.0}).reset_index()


def _runs(
    experiment: Experiment, cells: Sequence[Cell]
) -> list[tuple[dict[str, Any], Mapping[str, Any]]]:
    """(what identifies a curve, its record) of every finished run of the cells."""
    return [
        (
            {
                "experiment": experiment.name,
                "cell": cell.name,
                "label": cell.contender,
                "column": cell.contest,
                "seed": seed,
            },
            cell.records[seed],
        )
        for cell in cells
        for seed in sorted(cell.records)
    ]
