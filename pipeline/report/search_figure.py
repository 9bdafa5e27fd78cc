"""Pictures of a search: its history, each parameter by itself, all at once, and which matter."""

import math
from collections.abc import Mapping
from pathlib import Path

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.ticker import FixedLocator, FormatStrFormatter, MaxNLocator, NullLocator

from pipeline.report.canvas import Drawn, canvas, legend_of_all, plain
from pipeline.report.search_data import (
    Search,
    categories,
    paper_series,
    places_of,
    short_name,
    symbol,
)
from pipeline.report.search_parallel import draw_parallel
from pipeline.report.style import COLOURS, INK

_PAPER = ("#6b7280", "#a8792a")


def draw_search(search: Search, folder: Path) -> list[Drawn]:
    """Write the figures of a search into `folder`."""
    drawn = [_history(search, folder / "search_history.png")]
    drawn.append(_slices(search, folder / "search_slices.png"))
    if len(search.names) > 1 and len(search.full) > 1:
        drawn.append(draw_parallel(search, folder / "search_parallel.png"))
    if search.about["importance"] is not None:
        drawn.append(_importance(search, folder / "search_importance.png"))
    if search.about["schedules"]:
        drawn.append(_schedules(search, folder / "search_schedules.png"))
    return drawn


def _groups(search: Search) -> list[tuple[pd.DataFrame, str, str, str]]:
    """Trials with label, marker and colour: those to the last step, and the others."""
    scored, full = search.scored, search.full
    return [
        (full, f"all {int(full['steps'].max())} steps", "o", COLOURS[0]),
        (scored[~scored["trial"].isin(full["trial"])], "fewer steps", "x", COLOURS[1]),
    ]


def _scatter(axis: Axes, search: Search, x: Mapping[int, float]) -> None:
    """The trials that have a place along x, the best one ringed."""
    for rows, text, marker, colour in _groups(search):
        rows = rows[rows["trial"].isin(list(x))]
        if rows.empty:
            continue
        places = [x[number] for number in rows["trial"]]
        axis.scatter(places, rows["miou"], marker=marker, color=colour, s=26, label=text, zorder=3)
        if rows["std"].notna().any():
            spread = {"yerr": rows["std"].fillna(0.0), "ecolor": colour, "elinewidth": 0.8}
            axis.errorbar(places, rows["miou"], fmt="none", **spread)
    best = search.best
    if best["trial"] in x:
        axis.scatter(
            [x[best["trial"]]], [best["miou"]],
            marker="o", s=110, facecolors="none", edgecolors=INK, zorder=4, label="best",
        )  # fmt: skip


def _history(search: Search, path: Path) -> Drawn:
    with canvas(path, 1, 1, 2.8) as (axis,):
        _scatter(axis, search, {number: number for number in search.trials["trial"]})
        full = search.full.sort_values("trial")
        numbers = [*full["trial"], search.trials["trial"].max()]
        best = list(full["miou"].cummax())
        axis.step(
            numbers, [*best, best[-1]], where="post", color=INK, linewidth=1.1, label="best so far"
        )
        axis.set_xlabel("trial")
        axis.set_ylabel(search.axis)
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        legend_of_all([axis])
    return Drawn(path=path, caption=f"History of the search: {search.measured}. {_counts(search)}")


def _counts(search: Search) -> str:
    about, trials = search.about, search.trials
    states = [
        f"{count} {state}"
        for state in ("finished", "stopped", "failed", "unfinished")
        if (count := int((trials["state"] == state).sum()))
    ]
    seeds = about["seeds"]
    each = f"seed {seeds[0]}" if len(seeds) == 1 else f"mean of seeds {', '.join(map(str, seeds))}"
    budget = ", which used up the budget" if about["used_up"] else ""
    return (
        f"{len(trials)} trials of {about['experiment']}/{about['cell']} ({', '.join(states)}), "
        f"{each}, {about['hours']:.2f} {about['hours_of']} hours{budget}. Chosen by this score, "
        "the best one is biased upwards."
    )


def _slices(search: Search, path: Path) -> Drawn:
    """Every parameter by itself, with the paper's points on an axis of their own."""
    names = search.names
    across = min(len(names), 2)
    twins: list[Axes] = []
    with canvas(path, math.ceil(len(names) / across), across, 2.7) as axes:
        for i, (axis, name) in enumerate(zip(axes, names, strict=False)):
            _scatter(axis, search, places_of(search, name))
            twins += _paper_points(axis, search, name)
            _along(axis, search, name)
            if i % across == 0:
                axis.set_ylabel(search.axis)
        for axis in axes[len(names) :]:
            axis.set_visible(False)
        legend_of_all([*axes[: len(names)], *twins])
    beside = (
        " Diamonds, on the right axis: the paper's own numbers on its own benchmarks, of DAFormer "
        "with this parameter changed and the others fixed; here the others vary from trial to "
        "trial. Compare the shape only. Along T, 0.5 is code-wise and 1 bit-wise labels."
        if twins
        else ""
    )
    ended = ", values at the end of training" if search.about["schedules"] else ""
    early = (
        " Crosses are scores at fewer steps: they do not compare with the others."
        if len(search.full) < len(search.scored)
        else ""
    )
    return Drawn(
        path=path,
        caption=f"Each parameter by itself{ended}: {search.measured}.{early}{beside}",
    )


def _along(axis: Axes, search: Search, name: str) -> None:
    """Label and scale of a parameter's axis: its values' names, or logarithmic as it was drawn."""
    parameter = search.about["parameters"][name]
    called = symbol(name)
    axis.set_xlabel(plain(called if called == name else f"{called}  ({name})"))
    if (named := categories(parameter)) is not None:
        texts = [plain(text.replace("-", "-\n")) for text in named]
        axis.set_xticks(range(len(named)), texts, fontsize=7.0 if len(named) > 4 else None)
        axis.set_xlim(-0.5, len(named) - 0.5)
    elif parameter["log"]:
        axis.set_xscale("log")
        _round_marks(axis.xaxis, *axis.get_xlim())


def _round_marks(axis: Axis, low: float, high: float) -> None:
    axis.set_major_locator(FixedLocator(_decades(low, high)))
    axis.set_major_formatter(FormatStrFormatter("%g"))
    axis.set_minor_locator(NullLocator())


def _decades(low: float, high: float) -> list[float]:
    """Round numbers along a logarithmic axis."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    wide = len(powers) > 4
    found = [m * 10.0**power for power in powers for m in ((1,) if wide else (1, 2, 5))]
    return [value for value in found if low <= value <= high]


def _paper_points(axis: Axes, search: Search, name: str) -> list[Axes]:
    """The paper's points on an axis of their own at the right; none where it has none."""
    named = categories(search.about["parameters"][name])
    found = {
        one.label: {
            (value if named is None else float(named.index(value))): score
            for value, score in one.points.items()
            if named is None or value in named
        }
        for one in paper_series(name)
    }
    found = {label: points for label, points in found.items() if points}
    if not found:
        return []
    twin = axis.twinx()
    for (label, points), colour in zip(found.items(), _PAPER, strict=False):
        twin.plot(
            list(points), list(points.values()),
            color=colour, marker="D", markersize=3.5, linewidth=0.9,
            linestyle=":" if named is None else "none",
            label=label,
        )  # fmt: skip
    twin.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
    twin.grid(visible=False)
    twin.spines["right"].set_visible(True)
    twin.tick_params(axis="y", colors=_PAPER[0])
    twin.set_ylabel("paper (%)", color=_PAPER[0])
    return [twin]


def _importance(search: Search, path: Path) -> Drawn:
    found = search.about["importance"]
    shares = dict(sorted(found["shares"].items(), key=lambda item: item[1]))
    with canvas(path, 1, 1, 0.9 + 0.28 * len(shares)) as (axis,):
        axis.barh([plain(symbol(name)) for name in shares], list(shares.values()), color=COLOURS[0])
        for i, share in enumerate(shares.values()):
            axis.annotate(
                f"{100 * share:.0f} %", (share, i), xytext=(4, 0), textcoords="offset points",
                va="center", fontsize=8,
            )  # fmt: skip
        axis.set_xlim(0, 1.08 * max(shares.values()) or 1.0)
        axis.set_xlabel("share of the variance of a forest fitted to the scores")
        axis.grid(visible=False, axis="y")
    left_out = [name for name in search.names if name not in found["shares"]]
    without = (
        f" Left out, since not every trial has them: {', '.join(left_out)}." if left_out else ""
    )
    return Drawn(
        path=path,
        caption=f"What explains the scores at step {found['step']}, which all {found['trials']} "
        "trials reached (fANOVA: a forest fitted to the trials; of few trials a rough guess). What "
        "the shares lack to 100 % is the parameters' interaction."
        f"{without}",
    )


def _schedules(search: Search, path: Path) -> Drawn:
    """The values of a population over the steps."""
    names, best = search.names, str(search.about["best"])
    across = min(len(names), 2)
    with canvas(path, math.ceil(len(names) / across), across, 2.4) as axes:
        for axis, name in zip(axes, names, strict=False):
            for number, schedule in search.about["schedules"].items():
                steps = [schedule[0]["from_step"], *(part["to_step"] for part in schedule)]
                values = [part["values"][name] for part in schedule]
                axis.stairs(
                    values, steps, baseline=None,
                    color=INK if number == best else COLOURS[4],
                    linewidth=2.0 if number == best else 0.9,
                    label="best" if number == best else "other members",
                    zorder=3 if number == best else 2,
                )  # fmt: skip
            if search.about["parameters"][name]["log"]:
                axis.set_yscale("log")
                _round_marks(axis.yaxis, *axis.get_ylim())
            axis.set_xlabel("step")
            axis.set_title(plain(short_name(name)))
        for axis in axes[len(names) :]:
            axis.set_visible(False)
        legend_of_all(axes[:1])
    return Drawn(
        path=path,
        caption="The values that each member of the population was trained with, those of the "
        "members it went on from included.",
    )
