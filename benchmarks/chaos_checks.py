"""What must hold after the chaos, each a line of the closing table."""

import os
import re
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from chaos_faults import KINDS, Effect
from chaos_project import LOG_EVERY, Project, Repro
from chaos_services import Server, marked

from pipeline.store.record import comparable, read_record
from pipeline.tracking import TrackedRun, TrackingConfig, list_runs

if TYPE_CHECKING:
    from mlflow import MlflowClient

CAUSES = {
    "the GPU ran out of memory": r"the GPU ran out of memory",
    "the disk is full": r"disk is full|MB are needed and|No space left|File too large",
    "a data file is gone": r"the file is gone|is not what the run was planned with",
    "its worker or node was lost again and again": r"lost its worker or node \d+ times",
    "held by a process that was cut off": r"in use by process",
}
"""What a failed run may say, and by which words it is known."""


@dataclass(frozen=True, kw_only=True)
class Line:
    """One condition: what was counted, and whether it holds (None: that is only told)."""

    condition: str
    found: str
    holds: bool | None = None


@dataclass(kw_only=True)
class Watch:
    """Looks at the records while the grid runs: what is finished must not change any more."""

    project: Project
    seen: dict[str, tuple[int, int, int]] = field(default_factory=dict)
    changed: set[str] = field(default_factory=set)

    def look(self) -> None:
        for row in self.project.rows():
            run_id = row["run_id"]
            try:
                record = os.stat(self.project.record(run_id))
            except FileNotFoundError:
                if run_id in self.seen:
                    self.changed.add(run_id)
                continue
            attempt = self.project.status(run_id).get("attempt", 0)
            now = (record.st_ino, record.st_mtime_ns, attempt)
            if self.seen.setdefault(run_id, now) != now:
                self.changed.add(run_id)


def faults_line(effects: Sequence[Effect], wanted: int) -> list[Line]:
    """A line for each kind, then all together."""
    lines = []
    for kind in KINDS:
        of_kind = [effect for effect in effects if effect.kind == kind]
        if of_kind:
            hits = sum(effect.hit for effect in of_kind)
            lines.append(Line(condition=kind, found=f"{hits} of {len(of_kind)} hit"))
    hits = sum(effect.hit for effect in effects)
    found = f"{len(effects)} injected, {hits} hit"
    return [*lines, Line(condition="faults", found=found, holds=hits >= wanted)]


def finished_line(project: Project, repro: Repro) -> list[Line]:
    """Every run has a record; what failed in between said why, with a known cause."""
    rows = project.rows()
    done = sum(project.record(row["run_id"]).is_file() for row in rows)
    causes: Counter[str] = Counter()
    for run_id, text in repro.failures():
        known = [cause for cause, words in CAUSES.items() if re.search(words, text)]
        causes[known[0] if known else f"UNKNOWN ({run_id}): {text}"] += 1
    told = "; ".join(f"{count} {cause}" for cause, count in causes.most_common()) or "none"
    return [
        Line(
            condition="runs finished", found=f"{done} of {len(rows)}", holds=done == len(rows) > 0
        ),
        Line(
            condition="failures told with their cause, then finished",
            found=told,
            # As many as the grids counted: otherwise their messages have another form by now.
            holds=causes.total() == repro.announced()
            and not any(cause.startswith("UNKNOWN") for cause in causes),
        ),
        Line(
            condition="no stack trace on the terminal",
            found=f"{repro.text().count('Traceback')} in {repro.started} commands",
            holds="Traceback" not in repro.text(),
        ),
    ]


def once_line(watch: Watch) -> Line:
    """No run with a record was computed again."""
    watch.look()
    return Line(
        condition="finished runs that ran again",
        found=f"{len(watch.changed)} of {len(watch.seen)}",
        holds=not watch.changed,
    )


def records_line(project: Project, reference: Path) -> Line:
    """Records equal those of undisturbed runs, bit by bit."""
    rows = project.rows()
    equal = 0
    for row in rows:
        if project.record(row["run_id"]).is_file():
            record = read_record(project.record(row["run_id"]))
            expected = read_record(reference / "records" / f"{row['run_id']}.json")
            equal += comparable(record) == comparable(expected)
    return Line(
        condition="records equal to the undisturbed grid's, bit by bit",
        found=f"{equal} of {len(rows)}",
        holds=equal == len(rows),
    )


def tracking_line(project: Project, server: Server, steps: int) -> list[Line]:
    """One MLflow run per run id, FINISHED, with the record's curve in it, without gap or double."""
    from mlflow import MlflowClient

    rows = {row["run_id"]: row for row in project.rows()}
    config = TrackingConfig(uri=server.uri)
    every = [run for run in list_runs(config) if run.run_id in rows]
    runs = [run for run in every if not run.deleted]
    wanted = set(range(LOG_EVERY, steps + 1, LOG_EVERY))
    client = MlflowClient(server.uri)
    faults = [fault for run in runs if (fault := _curve_fault(client, run, project, wanted))]
    whole = len(runs) - len(faults)
    surplus = f", {len(every) - len(runs)} doubles removed" if len(every) > len(runs) else ""
    finished = sum(run.status == "FINISHED" for run in runs)
    return [
        Line(
            condition="MLflow runs, one per run id",
            found=f"{len(runs)} of {len({run.run_id for run in runs})} run ids{surplus}",
            holds=sorted(run.run_id for run in runs) == sorted(rows),
        ),
        Line(
            condition="curves in MLflow whole, in order, equal to the record's",
            found="; ".join([f"{whole} of {len(rows)}", *faults]),
            holds=whole == len(rows) and not faults,
        ),
        Line(
            condition="final status in MLflow FINISHED",
            found=f"{finished} of {len(rows)}",
            holds=finished == len(rows),
        ),
    ]


def _curve_fault(
    client: "MlflowClient", run: TrackedRun, project: Project, wanted: set[int]
) -> str | None:
    """What is wrong with a run's curve in MLflow."""
    history = client.get_metric_history(run.mlflow_run_id, "train/loss")
    points = sorted(history, key=lambda point: (point.timestamp, point.step))
    record = read_record(project.record(run.run_id))
    losses = [(point["step"], point["loss"]) for point in record["curves"]["train"]]
    found = [(point.step, point.value) for point in points]
    # A stage of a run ends with a point too, wherever that is.
    if found == losses and wanted <= {step for step, _ in found}:
        return None
    return f"{run.run_id} has {found}, its record {losses}"


def processes_line(mark: str, patience_s: float = 30) -> Line:
    """Nothing that carries the mark is alive; asked when cluster and server have been ended."""
    deadline = time.monotonic() + patience_s
    while (left := marked(mark)) and time.monotonic() < deadline:
        time.sleep(0.2)
    names = ", ".join(sorted({process.name() for process in left}))
    return Line(
        condition="processes left over",
        found=f"{len(left)}{f' ({names})' if names else ''}",
        holds=not left,
    )
