"""`ecocseg status`: the grid at a glance, drawn for a terminal or given as JSON."""

import json
import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console, Group, JustifyMethod
from rich.live import Live
from rich.table import Table
from rich.text import Text

from ecocseg.config import unknown
from ecocseg.errors import ConfigError
from pipeline.monitor.grid_state import look
from pipeline.monitor.states import STATES, Glance, RunSight
from pipeline.monitor.text import HEADINGS, duration, progress_cells, shorten

STYLES = {
    "running": "cyan",
    "stopping": "yellow",
    "interrupted": "yellow",
    "failed": "bold red",
    "stopped": "yellow",
    "queued": "dim",
    "copy": "dim",
    "finished": "green",
}
_QUIET = ("queued", "copy", "finished")
_FILTERS = ("experiment", "cell", "seed", "state")
_WATCH_S = 2.0
_BAR = 30
_PIPE_WIDTH = 120
_MOST = 100


def show(
    results: Path,
    filters: Sequence[str] = (),
    *,
    everything: bool = False,
    watch: bool = False,
    as_json: bool = False,
) -> None:
    """Print the grid below `results`; with `watch` again and again until Ctrl-C.

    `filters`: experiment=, cell=, seed= or state=VALUE, all of which a run must meet. Finished and
    waiting runs are counted, and listed with `everything` only.
    """
    chosen = _parse(filters)
    everything = everything or "state" in chosen

    def seen() -> Glance:
        glance = look(results, details=everything or as_json)
        _check_values(glance, chosen)
        return _only(glance, chosen)

    if as_json:
        print(json.dumps(seen().to_json(), indent=1))
        return
    console = Console()
    if not console.is_terminal:
        console.width = _PIPE_WIDTH
    if not watch:
        console.print(draw(seen(), console.width, everything))
        return
    try:
        with Live(console=console, auto_refresh=False, vertical_overflow="crop") as live:
            while True:
                lines = console.height if console.is_terminal else None
                live.update(draw(seen(), console.width, everything, lines), refresh=True)
                time.sleep(_WATCH_S)
    except KeyboardInterrupt:
        return


def draw(glance: Glance, width: int, everything: bool = False, height: int | None = None) -> Group:
    """The picture for a terminal of `width` columns; at most `height` lines where that is given."""
    parts: list[Table | Text] = [Text(headline(glance), style="bold"), _progress(glance)]
    parts += [Text(line, style="dim") for line in _context(glance)]
    if len({(run.experiment, run.planned) for run in glance.runs}) > 1:
        parts += [Text(""), _experiments(glance, width)]
    listed = [run for run in glance.runs if everything or run.state not in _QUIET]
    listed.sort(key=lambda run: STATES.index(run.state))
    notes = [run for run in listed if run.state in ("failed", "stopped") and run.cause]
    found = len(listed)
    if height is not None:
        room = max(3, height - len(parts) - 7)
        listed = listed[:room]
        notes = notes[: max(2, room - len(listed))]
    elif not everything:
        listed, notes = listed[:_MOST], notes[:_MOST]
    if listed:
        parts += [Text(""), _runs(listed, width)]
    if found > len(listed):
        parts.append(Text(f"and {found - len(listed)} more; --all lists them", "dim"))
    for run in notes:
        first = f"{name_of(run)}: {run.cause.strip().partition(chr(10))[0]}"
        cut = first if len(first) <= width else f"{first[: width - 1]}…"
        parts.append(Text(cut, style=STYLES[run.state]))
    if any(run.state == "failed" for run in listed):
        parts.append(Text("`ecocseg logs RUN` tells more of a run (EXPERIMENT/CELL/SEED)", "dim"))
    return Group(*parts)


def headline(glance: Glance) -> str:
    """How many runs there are in which state, and how long it may take."""
    if not glance.runs:
        return "no run is planned, and none under way"
    counts = glance.counts
    total = sum(counts.values())
    parts = [f"{counts['finished']}/{total} finished"]
    words = {"copy": "waiting for the run they are copies of"}
    parts += [f"{counts[s]} {words.get(s, s)}" for s in STATES[:-1] if counts[s]]
    beside = sum(not run.planned for run in glance.runs)
    parts += [f"{beside} beside the plan"] if beside else []
    to_go = glance.seconds_to_go
    end = f"; about {duration(to_go)} to go" if to_go and glance.driver else ""
    return ", ".join(parts) + end


def name_of(run: RunSight) -> str:
    """As it is typed: experiment/cell/seed."""
    return f"{run.experiment}/{run.cell}/{run.seed}" if run.experiment else run.run_id


def _progress(glance: Glance) -> Text:
    filled = int(_BAR * glance.progress)
    bar = Text("━" * filled, style="green")
    bar.append("─" * (_BAR - filled), style="dim")
    return bar.append(f" {100 * glance.progress:.0f} % of the work", style="")


def _context(glance: Glance) -> list[str]:
    lines = []
    if glance.driver is not None:
        lines.append(f"driven by {glance.driver}")
        quiet = not any(run.state in ("running", "stopping") for run in glance.runs)
        if quiet and glance.counts["queued"]:
            lines.append(f"no run is under way: smoke runs come first ({glance.smoke} cells done)")
    elif any(run.planned and run.state not in ("finished", "copy") for run in glance.runs):
        lines.append("no grid runs here; `ecocseg grid` goes on with what is not finished")
    if (search := glance.search) is not None:
        counts = ", ".join(f"{count} {state}" for state, count in search.trials.items())
        best = "" if search.best is None else f", best {search.best:.2f} at step {search.step}"
        who = search.driver or "another process"
        lines.append(f"search: {counts or 'no trial yet'}{best}; driven by {who}")
    return lines


def _experiments(glance: Glance, width: int) -> Table:
    found: dict[str, dict[str, int]] = {}
    for run in glance.runs:
        name = run.experiment if run.planned else "(beside the plan)"
        found.setdefault(name, dict.fromkeys(STATES, 0))[run.state] += 1
    shown = [s for s in STATES if any(counts[s] for counts in found.values())]
    columns = sorted(shown, key=lambda state: state != "finished")
    grid = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    grid.add_column("experiment", no_wrap=True)
    grid.add_column("runs", justify="right")
    for state in columns:
        grid.add_column(state, justify="right", no_wrap=True)
    room = max(12, width - 8 - sum(len(state) + 2 for state in columns))
    for name, counts in found.items():
        cells = [Text(str(counts[s] or "")) for s in columns]
        grid.add_row(Text(shorten(name, room)), str(sum(counts.values())), *cells)
    return grid


def _runs(runs: Sequence[RunSight], width: int) -> Table:
    wide = width >= 100
    lines = [_cells(run, wide) for run in runs]
    gap = 2 if wide else 1
    states = max(len(run.state) for run in runs)
    # Numbers are never cut; what a narrow terminal lacks is taken from the run's name.
    columns = [max(map(len, column)) for column in zip(HEADINGS, *lines, strict=True)]
    room = max(12, width - states - sum(columns) - 7 * gap)
    grid = Table(box=None, pad_edge=False, padding=(0, gap, 0, 0), header_style="bold")
    grid.add_column("run", no_wrap=True, max_width=room)
    grid.add_column("state", no_wrap=True, min_width=states)
    for name, needed in zip(HEADINGS, columns, strict=True):
        side: JustifyMethod = "left" if name == "node" else "right"
        grid.add_column(name, no_wrap=True, min_width=needed, justify=side)
    for run, cells in zip(runs, lines, strict=True):
        state = Text(run.state, style=STYLES[run.state])
        grid.add_row(Text(shorten(name_of(run), room)), state, *map(Text, cells))
    return grid


def _cells(run: RunSight, bar: bool) -> list[str]:
    if run.status is None:
        return ["", "", "", "", ""]
    moves = run.state in ("running", "stopping")
    return progress_cells("running" if moves else run.state, run.status, bar)


def _parse(filters: Sequence[str]) -> dict[str, str]:
    chosen = {}
    for text in filters:
        key, separator, value = text.partition("=")
        if not separator or key not in _FILTERS:
            raise ConfigError(unknown(text, "filter", key, _FILTERS) + "; write key=value")
        if key == "state" and value not in STATES:
            raise ConfigError(unknown(text, "state", value, STATES))
        chosen[key] = value
    return chosen


def _check_values(glance: Glance, chosen: dict[str, str]) -> None:
    for key in chosen.keys() - {"state"}:
        there = sorted({str(getattr(run, key)) for run in glance.runs})
        if chosen[key] not in there:
            raise ConfigError(unknown(f"{key}={chosen[key]}", key, chosen[key], there))


def _only(glance: Glance, chosen: dict[str, str]) -> Glance:
    runs = [
        run
        for run in glance.runs
        if all(str(getattr(run, key)) == value for key, value in chosen.items())
    ]
    return Glance(
        runs=runs, driver=glance.driver, smoke=glance.smoke, search=glance.search, at=glance.at
    )
