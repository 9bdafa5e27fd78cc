"""What the grid is doing, while it does it: a table on a terminal, plain lines elsewhere."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from rich.console import Console, Group, JustifyMethod
from rich.live import Live
from rich.table import Table
from rich.text import Text

from pipeline.cluster.progress import Progress, Row
from pipeline.monitor.text import HEADINGS, duration, progress_cells, run_name, shorten
from pipeline.store.paths import run_directory
from pipeline.store.status import RunStatus, read_status

_READ_S = 1.0
_PLAIN_S = 30.0
_STYLES = {
    "running": "cyan",
    "finished": "green",
    "failed": "bold red",
    "stopped": "yellow",
    "queued": "dim",
}
_NOTES = 5
_SHORTEST_NAME = 12


@dataclass(frozen=True)
class RunView:
    """One line of the table: a run's name, its state under this driver, and its last status."""

    name: str
    state: str
    status: RunStatus
    message: str = ""


@contextmanager
def live_view(title: str, console: Console | None = None) -> Iterator[Callable[[Progress], None]]:
    """Yield the `on_progress` of `run_all`; it draws on stderr (or `console`)."""
    console = console or Console(stderr=True)
    observer = _Observer()
    if not console.is_terminal:
        lines = _PlainLines(title, console, observer)
        yield lines.update
        lines.summary()
        return
    with Live(console=console, auto_refresh=False, vertical_overflow="crop") as live:

        def draw(progress: Progress) -> None:
            if observer.read(progress):
                live.update(table(title, observer, console.width, console.height), refresh=True)

        yield draw


class _Observer:
    """Reads the status files of active runs and tells a moving run from a status left behind."""

    def __init__(self) -> None:
        self.views: list[RunView] = []
        self.started = time.monotonic()
        self._statuses: dict[str, RunStatus] = {}
        self._left_behind: dict[str, float] | None = None
        self._settled: set[str] = set()
        self.notice = ""
        self._read_at = float("-inf")

    def read(self, progress: Progress) -> bool:
        """Take in `progress`, at most once a second except at the end; whether it did."""
        if progress.active and time.monotonic() - self._read_at < _READ_S:
            return False
        self._read_at = time.monotonic()
        self.notice = progress.notice
        # A grid of thousands of runs has a few that move: the others are read once, before any
        # starts, and once more when they have ended.
        now = {str(row["run_id"]) for row in progress.rows}
        settled = progress.finished | progress.failed.keys() | progress.stopped
        if self._left_behind is not None:
            now = progress.active | (settled - self._settled)
        self._settled = settled
        for run_id in now:
            status = read_status(run_directory(progress.results_dir, run_id))
            self._statuses[run_id] = status or RunStatus(updated=0.0)
        if self._left_behind is None:
            self._left_behind = {name: last.updated for name, last in self._statuses.items()}
        self.views = [self._view(row, progress) for row in progress.rows]
        return True

    def _view(self, row: Row, progress: Progress) -> RunView:
        run_id = str(row["run_id"])
        status, message = self._statuses[run_id], progress.failed.get(run_id, "")
        if run_id in progress.finished:
            state = "finished"
        elif run_id in progress.failed:
            state = "failed"
        elif run_id in progress.stopped:
            state = "stopped"
        elif self._moves(run_id) and status.state == "running":
            state = "running"
        else:
            state = "queued"
        if run_id in progress.active and run_id in progress.retries:
            message = f"worker or node lost, attempt {progress.retries[run_id] + 1}"
        return RunView(run_name(row), state, status, message)

    def _moves(self, run_id: str) -> bool:
        # Not by the age of the status: the clocks of two machines may differ.
        left_behind = self._left_behind or {}
        return self._statuses[run_id].updated != left_behind.get(run_id)

    def counts(self) -> dict[str, int]:
        states = [view.state for view in self.views]
        return {state: states.count(state) for state in _STYLES}

    def seconds_to_go(self) -> float | None:
        """A rough guess: what the running ones report, and their mean for each waiting run."""
        running = [view.status for view in self.views if view.state == "running"]
        speeds = [(s.steps, s.steps_per_second) for s in running if s.steps_per_second]
        if not speeds or len(speeds) < len(running):
            return None
        whole = sum(steps / speed for steps, speed in speeds if speed) / len(speeds)
        left = sum(status.eta_s or 0.0 for status in running)
        return (left + whole * self.counts()["queued"]) / len(running)

    def headline(self) -> str:
        counts = self.counts()
        parts = [f"{counts['finished']}/{len(self.views)} finished"]
        others = ("failed", "stopped", "running", "queued")
        parts += [f"{counts[key]} {key}" for key in others if counts[key]]
        to_go = self.seconds_to_go()
        end = f", about {duration(to_go)} to go" if to_go else ""
        waits = f"; {self.notice}" if self.notice else ""
        return f"{', '.join(parts)}; {duration(time.monotonic() - self.started)}{end}{waits}"


class _PlainLines:
    """For logs: a line when a run changes its state, and an overview now and then."""

    def __init__(self, title: str, console: Console, observer: _Observer) -> None:
        self.title, self.console, self.observer = title, console, observer
        self.states: dict[str, str] = {}
        self.notes: dict[str, str] = {}
        self.printed_at = time.monotonic()

    def update(self, progress: Progress) -> None:
        first = not self.states
        if not self.observer.read(progress):
            return
        for view in self.observer.views:
            before = self.states.get(view.name, "queued")
            if view.state != before and not (first and view.state == "finished"):
                self.say(f"{view.name}: {view.state}{_detail(view)}")
            elif view.message and view.message != self.notes.get(view.name):
                self.say(f"{view.name}: {view.message}")
            self.states[view.name], self.notes[view.name] = view.state, view.message
        if first or time.monotonic() - self.printed_at >= _PLAIN_S:
            self.summary()

    def summary(self) -> None:
        self.printed_at = time.monotonic()
        self.say(self.observer.headline())
        for view in self.observer.views:
            if view.state == "running":
                cells = progress_cells(view.state, view.status, bar=False)
                self.say(f"  {view.name}: " + "  ".join(cell for cell in cells if cell))

    def say(self, text: str) -> None:
        self.console.print(f"{self.title}: {text}", markup=False, highlight=False, soft_wrap=True)


def table(title: str, observer: _Observer, width: int, height: int) -> Group:
    """The picture of one moment, for a terminal of `width` columns and `height` lines."""
    notes = [view for view in observer.views if view.message]
    shown = _most_telling(observer.views, max(3, height - 5 - min(len(notes), _NOTES)))
    wide = width >= 100
    lines = [progress_cells(view.state, view.status, bar=wide) for view in shown]
    gap = 2 if wide else 1
    # Numbers are never cut; what a narrow terminal lacks is taken from the run's name.
    columns = [max(map(len, column)) for column in zip(HEADINGS, *lines, strict=True)]
    room = max(_SHORTEST_NAME, width - max(map(len, _STYLES)) - sum(columns) - 7 * gap)
    grid = Table(box=None, pad_edge=False, padding=(0, gap, 0, 0), header_style="bold")
    grid.add_column("run", no_wrap=True, max_width=room)
    grid.add_column("state", no_wrap=True, min_width=max(map(len, _STYLES)))
    for name, needed in zip(HEADINGS, columns, strict=True):
        side: JustifyMethod = "left" if name == "node" else "right"
        grid.add_column(name, no_wrap=True, min_width=needed, justify=side)
    for view, cells in zip(shown, lines, strict=True):
        style = "dim" if view.state in ("finished", "queued") else ""
        state = Text(view.state, style=_STYLES[view.state])
        grid.add_row(Text(shorten(view.name, room)), state, *map(Text, cells), style=style)
    parts: list[Table | Text] = [Text(f"{title}: {observer.headline()}", style="bold"), grid]
    if hidden := len(observer.views) - len(shown):
        parts.append(Text(f"and {hidden} more, finished or queued", style="dim"))
    for view in notes[:_NOTES]:
        note = f"{view.name}: {view.message}".partition("\n")[0]
        parts.append(Text(shorten(note, width), style="red"))
    return Group(*parts)


def _most_telling(views: list[RunView], room: int) -> list[RunView]:
    """All of them in plan order if they fit; else the running and failed ones first."""
    rank = {"running": 0, "failed": 1, "stopped": 1, "queued": 2, "finished": 3}
    chosen = sorted(range(len(views)), key=lambda index: rank[views[index].state])[:room]
    return [views[index] for index in sorted(chosen)]


def _detail(view: RunView) -> str:
    if view.state == "failed":
        return f": {view.message}"
    status = view.status
    if view.state == "running":
        going_on = f" from step {status.step}" if status.step else ""
        return f"{going_on} on {status.node or status.host}"
    return ""
