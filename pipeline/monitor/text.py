"""How runs, their progress and times are written for people."""

from collections.abc import Mapping
from typing import Any

from pipeline.store.status import RunStatus

HEADINGS = ("step", "loss", "speed", "ETA", "node")
"""Of `progress_cells`."""
_BAR = 10
_LONGEST_NODE = 12


def shorten(text: str, room: int) -> str:
    """`text` in `room` characters; the middle goes, since names differ at their ends."""
    if len(text) <= room:
        return text
    head = (room - 1) // 2
    return f"{text[:head]}…{text[len(text) - (room - 1 - head) :]}"


def run_name(row: Mapping[str, Any]) -> str:
    """How people call a run: experiment, cell and seed; the run id where those are not given."""
    if "cell" not in row:
        return str(row["run_id"])
    return f"{row.get('experiment', '')} {row['cell']} s{row.get('seed', 0)}".strip()


def duration(seconds: float) -> str:
    """Seconds as `0:42`, `1:05:09` or `2d 03h`."""
    whole = round(seconds)
    hours, minutes = whole // 3600, whole % 3600 // 60
    if hours >= 48:
        return f"{hours // 24}d {hours % 24:02d}h"
    return f"{hours}:{minutes:02d}:{whole % 60:02d}" if hours else f"{minutes}:{whole % 60:02d}"


def progress_cells(state: str, status: RunStatus, bar: bool) -> list[str]:
    """Step, loss, speed, ETA and node of a run in `state`; empty where it has none yet."""
    step = f"{status.step}/{status.steps}" if status.steps else ""
    if bar and step:
        filled = _BAR * status.step // status.steps
        step = f"{step} {'━' * filled}{'─' * (_BAR - filled)}"
    loss = "" if status.loss is None else f"{status.loss:.3g}"
    if state != "running":
        node = status.node if state == "finished" else ""
        return [step, loss, "", "", shorten(node, _LONGEST_NODE)]
    if status.activity:
        loss = status.activity
    speed = status.steps_per_second
    rate = "" if not speed else (f"{speed:.1f}/s" if speed >= 1 else f"{1 / speed:.1f} s/step")
    to_go = "" if status.eta_s is None else duration(status.eta_s)
    place = " ".join(part for part in (status.node, status.device) if part)
    return [step, loss, rate, to_go, shorten(place, _LONGEST_NODE)]
