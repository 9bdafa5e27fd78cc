"""`ecocseg logs RUN`: what a run said and measured, in the order of time, and how it ended."""

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ecocseg.config import require
from pipeline.monitor.grid_state import GRID_LOCK, find_run, look_at
from pipeline.monitor.text import duration
from pipeline.store.events import EVENTS_NAME, Event, read_from
from pipeline.store.lock import is_held
from pipeline.store.log import FILE_NAME, line_time
from pipeline.store.paths import record_file, run_directory
from pipeline.store.status import RunStatus, read_status

_POLL_S = 0.5
_QUIET_S = 3.0
_SHORT = ("loss", "lr")


def show(
    results: Path, name: str, *, lines: int = 40, follow: bool = False, metrics: bool = False
) -> None:
    """Print the status and the last `lines` lines (0: all) of the run that `name` stands for.

    A step shows its loss, or with `metrics` all that was measured. With `follow` go on until the
    run ends, or until Ctrl-C. Raises UserError when `name` stands for
    no run or several, ConfigError for a negative number of lines.
    """
    require(lines >= 0, "--lines", lines, "0 (all) or more")
    run_id = find_run(results, name)
    folder = run_directory(results, run_id)
    print("\n".join(describe(results, run_id)))
    reader = _Reader(folder, metrics)
    found = list(reader.new())
    for line in found[-lines:] if lines else found:
        print(line.text)
    if follow:
        try:
            for line in _follow(results, run_id, reader):
                print(line.text, flush=True)
        except KeyboardInterrupt:
            return
        print(describe(results, run_id)[1])
    status = read_status(folder)
    trace = folder / "error.txt"
    if status is not None and status.state == "failed" and trace.is_file():
        print(f"\n{trace}:\n{trace.read_text().rstrip()}")


def describe(results: Path, run_id: str) -> list[str]:
    """A run in a few lines: its id, its state with what there is to say of it, its folder."""
    run = look_at(results, run_id)
    record = record_file(results, run_id)
    if run.state == "finished":
        state = f"finished: record {record}"
        source = _source(record)
        state += f", a copy of that of {source}" if source else ""
    elif run.state in ("running", "stopping"):
        state = f"{run.state}: {_progress(run.status)}; {run.cause}"
    elif run.status is None:
        state = f"{run.state}: it has not begun"
    elif run.state == "interrupted":
        who = (
            "the grid starts it again" if is_held(results / GRID_LOCK) else "`ecocseg grid` goes on"
        )
        state = f"interrupted: {_progress(run.status)}; its process is gone, {who}"
    else:
        state = f"{run.state}: {_progress(run.status)}" + (f"\n{run.cause}" if run.cause else "")
    return [run_id, state, str(run_directory(results, run_id)), ""]


def _source(record: Path) -> str | None:
    try:
        source = json.loads(record.read_text()).get("same_as")
    except (OSError, ValueError, AttributeError):
        return None
    return None if source is None else str(source)


def _progress(status: RunStatus | None) -> str:
    if status is None:
        return "starting"
    parts = [f"step {status.step} of {status.steps}"] if status.steps else []
    parts += [f"loss {status.loss:.4g}"] if status.loss is not None else []
    parts += [f"{status.steps_per_second:.2f} steps/s"] if status.steps_per_second else []
    parts += [f"{duration(status.eta_s)} to go"] if status.eta_s else []
    parts += [status.activity] if status.activity else []
    parts += [f"attempt {status.attempt}"] if status.attempt else ["never started"]
    place = " ".join(part for part in (status.node, status.device) if part)
    return ", ".join(parts) + (f" on {place}" if place and status.attempt else "")


def _follow(results: Path, run_id: str, reader: "_Reader") -> Iterator["_Line"]:
    """New lines until the run has ended; one that has not begun is waited for."""
    quiet = 0.0
    while quiet < _QUIET_S:
        time.sleep(_POLL_S)
        yield from reader.new()
        state = look_at(results, run_id).state
        if state in ("finished", "failed", "stopped"):
            break
        # A grid starts an interrupted run again; without one it stays so.
        lost = state == "interrupted" and not is_held(results / GRID_LOCK)
        quiet = quiet + _POLL_S if lost else 0.0
    yield from reader.new()


@dataclass(frozen=True)
class _Line:
    time: float
    text: str


class _Reader:
    """Reads what is new in the log and among the events of a run, and puts it in order."""

    def __init__(self, folder: Path, metrics: bool) -> None:
        self.metrics = metrics
        self.log, self.events = folder / FILE_NAME, folder / EVENTS_NAME
        self._log_at = self._events_at = 0
        self._last = 0.0

    def new(self) -> Iterator[_Line]:
        """Lines since the last call, in the order of their times."""
        return iter(sorted([*self._log_lines(), *self._event_lines()], key=lambda line: line.time))

    def _log_lines(self) -> Iterator[_Line]:
        try:
            if self.log.stat().st_size < self._log_at:
                # Its first half was cut off; what was left has been read.
                self._log_at = self.log.stat().st_size
            with self.log.open("rb") as file:
                file.seek(self._log_at)
                data = file.read()
        except OSError:
            return
        complete = data[: data.rfind(b"\n") + 1]
        self._log_at += len(complete)
        for line in complete.decode(errors="replace").splitlines():
            self._last = line_time(line) or self._last
            yield _Line(self._last, line)

    def _event_lines(self) -> Iterator[_Line]:
        for event, end in read_from(self.events, self._events_at):
            self._events_at = end
            if event.kind != "system":
                yield _Line(event.time / 1000, _event_text(event, self.metrics))


def _event_text(event: Event, every: bool) -> str:
    seconds = event.time / 1000
    stamp = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))
    metrics = dict(event.metrics)
    if event.kind == "step":
        speed = metrics.pop("steps_per_second", None)
        kept = {k: v for k, v in metrics.items() if every or k in _SHORT}
        shown = ", ".join(f"{name} {value:.4g}" for name, value in kept.items())
        text = f"step {event.step}: {shown}" + (f", {speed:.2f} steps/s" if speed else "")
    elif event.kind == "eval":
        shown = ", ".join(f"{name} {value:.2f}" for name, value in metrics.items())
        text = f"evaluation at step {event.step}: {shown}"
    else:
        means = {name: value for name, value in metrics.items() if name.startswith("final/")}
        shown = ", ".join(f"{name[6:]} {value:.2f}" for name, value in means.items())
        text = f"final, step {event.step}: {shown}"
    return f"{stamp}.{event.time % 1000:03d} {text}"
