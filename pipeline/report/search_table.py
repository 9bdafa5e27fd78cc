"""A search as Markdown: its trials, and how sensitive the score is in the form of the paper."""

import math

import pandas as pd

from pipeline.report.formats import ABSENT, markdown_lines
from pipeline.report.search_data import (
    Search,
    Series,
    categories,
    kind_of_labels,
    paper_series,
    symbol,
)


def trials_table(search: Search) -> list[list[str]]:
    """Headings and every trial in the order of their scores, those that were trained longest first.

    The best score stands between `**`.
    """
    trials = search.trials.assign(
        rank=search.trials["miou"].where(search.trials["trial"].isin(search.full["trial"]))
    ).sort_values(["rank", "miou", "trial"], ascending=[False, False, True], kind="stable")
    head = ["trial", *map(symbol, search.names), search.axis, "steps", "state"]
    lines = [[str(name) for name in head]]
    for _, row in trials.iterrows():
        score = ABSENT if math.isnan(row["miou"]) else f"{row['miou']:.2f}"
        score += "" if math.isnan(row["std"]) else f" ± {row['std']:.2f}"
        score = f"**{score}**" if row["trial"] == search.about["best"] else score
        values = [ABSENT if pd.isna(row[name]) else _value(row[name]) for name in search.names]
        lines.append([str(row["trial"]), *values, score, str(row["steps"]), row["state"]])
    return lines


def trials_markdown(search: Search) -> str:
    """`trials_table` with what the scores are of."""
    lines, about = trials_table(search), search.about
    seeds = ", ".join(map(str, about["seeds"]))
    limits = [(about["budget"]["trials"], "trials"), (about["budget"]["gpu_hours"], "hours")]
    budget = " and ".join(f"{number:g} {unit}" for number, unit in limits if number is not None)
    budget = budget or "all points of the grid"
    early = "" if about["scheduler"] == "none" else f", stopped early by {about['scheduler']}"
    notes = [
        f"Objective: {search.measured} (mode {about['evaluation']['mode']}), seeds {seeds}, of "
        f"{about['experiment']}/{about['cell']} at {about['steps']} steps. Scores at fewer steps "
        "do not compare.",
        f"Proposed by {about['algorithm']} (seed {about['seed']}){early}; {about['hours']:.2f} "
        f"{about['hours_of']} hours of trials; budget: {budget}"
        f"{', hours used up' if about['used_up'] else ''}.",
        "The settings were chosen by this very score: the best one is biased upwards. A grid with "
        "other seeds tells what it is worth (`override_files: [results/search/best.yaml]`).",
    ]
    if about["known"]:
        notes.insert(2, f"{about['known']} points of earlier searches were known to the sampler.")
    return f"# Search\n\n{markdown_lines(lines)}\n" + "".join(f"- {note}\n" for note in notes)


def sensitivity_markdown(search: Search) -> str | None:
    """`sensitivity_tables` with what they mean; None where there is none."""
    tables = sensitivity_tables(search)
    if not tables:
        return None
    parts = [f"## {title}\n\n{markdown_lines(lines)}" for title, lines in tables]
    return f"# Sensitivity in the form of the paper\n\n{sensitivity_note(search)}\n\n" + "\n".join(
        parts
    )


def sensitivity_tables(search: Search) -> list[tuple[str, list[list[str]]]]:
    """Score at the paper's values of each parameter, from the trials that lie nearest to each.

    Titles and lines; none where the paper has nothing on a searched field, and where values changed
    in training.
    """
    found = []
    for name in search.names if not search.about["schedules"] else ():
        for series in paper_series(name):
            lines = _sensitivity(search, name, series)
            if lines is not None:
                found.append((f"{symbol(name)} ({series.label})", lines))
    return found


def sensitivity_note(search: Search) -> str:
    """How the tables of `sensitivity_tables` are to be read."""
    return (
        f"{search.measured} of the trials with {int(search.full['steps'].max())} steps, each "
        "counted at the paper's value that it lies nearest to (by ratio where the range is "
        "logarithmic): best, mean and number. The paper changed one parameter and fixed the "
        "others, on its own benchmarks; here all of them vary, so a column mixes their effects; "
        "compare the shape, not the numbers. Under T, hybrid labels with a T nearer to 0.5 or 1 "
        "than to a value of the paper's hybrid ones are not counted. "
        "`table04_threshold_ablation`, `table07_code_length` and "
        "`table14_loss_hyperparameters` are the paper's own grids."
    )


def _sensitivity(search: Search, name: str, series: Series) -> list[list[str]] | None:
    parameter = search.about["parameters"][name]
    rows = search.full
    named = categories(parameter)
    places = [value for value in series.points if named is None or value in named]
    if rows[name].isna().all() or not places:
        return None
    groups: dict[object, list[float]] = {place: [] for place in places}
    kinds = kind_of_labels(search)[rows.index]
    for value, kind, score in zip(rows[name], kinds, rows["miou"], strict=True):
        place: object = value
        if pd.isna(value):
            place = next((at for at, other in series.kinds.items() if other == kind), None)
        elif named is None:
            nearest = _nearest(float(value), places, parameter["log"])
            place = None if nearest in series.kinds else nearest
        if place in groups:
            groups[place].append(score)
    heads = [
        f"{_value(place)} ({series.kinds[place]})" if place in series.kinds else _value(place)
        for place in places
    ]
    return [
        ["", *heads],
        ["best", *(_number(max(groups[place], default=math.nan)) for place in places)],
        ["mean", *(_mean(groups[place]) for place in places)],
        ["trials", *(str(len(groups[place])) for place in places)],
        [series.label, *(f"{series.points[place]:.1f}" for place in places)],
    ]


def _nearest(value: float, places: list[float], log: bool) -> float:
    if log:
        return min(places, key=lambda place: abs(math.log(value / place)))
    return min(places, key=lambda place: abs(value - place))


def _mean(values: list[float]) -> str:
    return _number(sum(values) / len(values)) if values else ABSENT


def _number(value: float) -> str:
    return ABSENT if math.isnan(value) else f"{value:.1f}"


def _value(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value).replace("|", r"\|")
