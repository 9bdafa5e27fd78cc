"""One run from its plan row to its record: the consumer of the engine's events.

State lies in the run's directory only, so it may be killed at any moment and called again, here
or on another machine that sees the same storage: it goes on from the last checkpoint.
"""

import json
import logging
import platform
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from numpy.typing import ArrayLike

from ecocseg.diagnostics import diagnose, evenly_spaced
from ecocseg.engine import checkpoint
from ecocseg.engine.distributed import current_group
from ecocseg.engine.evaluate import overall_score
from ecocseg.engine.events import CheckpointEvent, EvaluationEvent, StageEvent, StepEvent
from ecocseg.files import atomic_write, require_space
from pipeline.config.run_spec import RunSpec
from pipeline.machine.environment import describe, peak_memory_mb, used_memory
from pipeline.runner.build import Prepared
from pipeline.runner.diverged import batch_kept
from pipeline.runner.exhausted import full_disk_explained, out_of_memory_explained
from pipeline.runner.group import begin, call_off, device_of, follow, scratch
from pipeline.runner.pictures import save_panel, save_pseudo_labels
from pipeline.store.lock import RunLock
from pipeline.store.log import end_told, run_log
from pipeline.store.paths import DIVERGED, record_file, run_directory
from pipeline.store.pull import store_mark
from pipeline.store.push import NotStored, StoredRun, stored_run
from pipeline.store.record import SCHEMA, is_finished, write_record
from pipeline.store.status import CHECKPOINT, RunStatus, read_status, write_status
from pipeline.store.stopping import StopWatch
from pipeline.tracking import RunTracker, TrackingConfig

log = logging.getLogger(__name__)

LAST, BEST, STAGES = CHECKPOINT, "best.pt", "stages"
"""Files of a run: its last checkpoint, its best weights, and the folder of a method's stages."""
_STATUS_EVERY_S = 1.0
_REMEDY = (
    "wait for it, or end it with `ecocseg stop` and the run's id, and start the same command again"
)
_SMOKE_STEPS, _SMOKE_IMAGES = 2, 2


def execute_smoke(row: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
    """Two steps and a small evaluation of a cell; leaves a mark so that it is not done again.

    The mark holds what memory they took. Raises UserError when the GPU has too little.
    """
    spec, group = RunSpec.from_dict(row["spec"]), current_group()
    device = device_of(settings, group)
    results = Path(settings["results"])
    with full_disk_explained(results), out_of_memory_explained(spec, device):
        run = Prepared(spec, Path(settings["data_root"]), device)
        with scratch(results, group) as folder:
            for _ in run.events(run.trainer(folder, _SMOKE_STEPS), _SMOKE_IMAGES):
                pass
        if not group.first:
            return
        mark = record_file(results / "smoke", row["run_id"])
        atomic_write(mark, json.dumps(used_memory(device)) + "\n")
    store_mark(settings.get("storage"), row["run_id"], mark)


def execute_run(row: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
    """Train `row` of the plan to its record, from its last checkpoint if there is one.

    `settings`: data_root and results (absolute folders), device, tracking (fields of
    TrackingConfig), git (revision of the code), storage (null, or the URI of a store where the run
    is kept as well). Raises UserError for what the user can mend; the status then says why the run
    failed, as it does after any other exception. A run that diverges leaves the batch in
    diverged.pt. Raises Stopped when somebody asked the run to stop, before it started or since. In
    torch's process group the first process does all this; the others train with it.
    """
    results, group = Path(settings["results"]), current_group()
    records, run_dir = results / "records", run_directory(results, row["run_id"])
    if not group.first:
        follow(row, settings, run_dir / STAGES, group)
        return
    with full_disk_explained(run_dir):
        run_dir.mkdir(parents=True, exist_ok=True)
        with (
            RunLock(run_dir / "lock", announce=log.warning, remedy=_REMEDY),
            stored_run(settings.get("storage"), run_dir, records, row["run_id"]) as stored,
        ):
            if is_finished(records, row["run_id"]):
                call_off(group)
                return
            with end_told(run_dir):
                StopWatch(run_dir).check()
                device, spec = device_of(settings, group), RunSpec.from_dict(row["spec"])
                explained = out_of_memory_explained(spec, device)
                with run_log(run_dir), full_disk_explained(run_dir), explained, batch_kept(run_dir):
                    _Execution(row, settings, run_dir, records, device, stored).go()


class _Execution:
    """The state of one attempt at a run."""

    def __init__(
        self,
        row: Mapping[str, Any],
        settings: Mapping[str, Any],
        run_dir: Path,
        records: Path,
        device: torch.device,
        stored: NotStored | StoredRun,
    ) -> None:
        self.row, self.settings, self.run_dir, self.records = row, settings, run_dir, records
        self.device, self.stored = device, stored
        self.begun = time.time()
        earlier = read_status(run_dir)
        self.status = RunStatus(
            state="running", attempt=earlier.attempt + 1 if earlier else 1, node=platform.node()
        )
        write_status(run_dir, self.status)
        self.run = Prepared(
            RunSpec.from_dict(row["spec"]), Path(settings["data_root"]), self.device
        )
        self.trainer = self.run.trainer(run_dir / STAGES)
        self.results: dict[str, Any] = {"train": [], "eval": [], "last": None, "best": None}
        self.earlier_seconds = 0.0
        self.best_score = float("-inf")
        self.stop = StopWatch(run_dir)
        self._written = 0.0
        self._speed: float | None = None
        self._peak_mb = 0.0

    def go(self) -> None:
        """Train, record, track."""
        weights = sum(v.numel() * 4 for v in self.run.model.state_dict().values())
        require_space(self.run_dir, 12 * weights + 10_000_000)
        self._resume()
        spec = self.run.spec
        with RunTracker(
            TrackingConfig(**self.settings["tracking"]),
            self.run_dir,
            self.row["run_id"],
            spec.experiment,
            tags=self._tags(),
            params=spec.to_dict(),
        ) as tracker:
            if self.trainer.step < self.trainer.config.steps:
                for event in self.run.events(self.trainer):
                    if isinstance(event, StepEvent):
                        self._on_step(event, tracker)
                    elif isinstance(event, EvaluationEvent):
                        self._on_evaluation(event, tracker)
                    elif isinstance(event, StageEvent):
                        self._on_stage(event)
                    else:
                        self._on_checkpoint(event, tracker)
                    self.stop.check()
            for picture in self._pictures():
                tracker.artifact(picture, "pictures")
            for table in sorted((self.run_dir / STAGES).glob("*.csv")):
                tracker.artifact(table, STAGES)
            record = self._record()
            tracker.record(record)
            # Last: from now on the run counts as finished.
            write_record(self.records, record)
        for name in ("error.txt", DIVERGED):
            # Of an attempt that failed before.
            (self.run_dir / name).unlink(missing_ok=True)
        steps = self.trainer.config.steps
        self._write_status(state="finished", step=steps, eta_s=0.0, force=True)
        self.stored.finish()

    def _resume(self) -> None:
        found = checkpoint.newest(self.run_dir / LAST)
        state, messages = found.state, found.messages
        if state is not None and found.previous and not self._stages_are_there():
            state = None
            messages.append(f"{checkpoint.PREVIOUS} needs what the end of the last stage removed")
        if state is not None:
            self.trainer.restore(state["trainer"])
            self.results = state["results"]
            self.earlier_seconds = state["seconds"]
            self._speed, self._peak_mb = state.get("steps_per_second"), state.get("peak_mb", 0.0)
            if self.results["best"] is not None:
                self.best_score = self._score(self.results["best"]["student"]["confusion"])
        if messages:
            log.warning("%s: the run goes on from step %d", "; ".join(messages), self.trainer.step)
        elif self.trainer.step:
            log.info("the run goes on from step %d", self.trainer.step)
        begin(self.trainer.group, None if state is None else state["trainer"])
        self._write_status(step=self.trainer.step, force=True)

    def _stages_are_there(self) -> bool:
        """Whether a method with stages finds the weights that earlier ones left to later ones."""
        kept = (self.run_dir / STAGES).glob("weights_*.pt")
        return not self.trainer.method.restarts or any(kept)

    def _on_step(self, event: StepEvent, tracker: RunTracker) -> None:
        self.stored.check()
        self.results["train"].append({"step": event.step, **event.metrics})
        speed = event.steps / event.seconds
        self._speed = speed if self._speed is None else 0.7 * self._speed + 0.3 * speed
        tracker.events.append("step", event.step, {**event.metrics, "steps_per_second": speed})
        tracker.sync()
        left = (self.trainer.config.steps - event.step) / self._speed
        self._write_status(
            step=event.step,
            loss=event.metrics["loss"],
            steps_per_second=self._speed,
            eta_s=left,
            activity="",
        )

    def _on_stage(self, event: StageEvent) -> None:
        """Show what happens between two stages; the estimate of the time left waits."""
        self._write_status(
            step=event.step,
            activity=f"{event.activity} {event.done} of {event.total}",
            eta_s=None,
            force=event.done == event.total,
        )

    def _on_evaluation(self, event: EvaluationEvent, tracker: RunTracker) -> None:
        found: dict[str, Any] = {"step": event.step, "student": None, "teacher": None}
        point: dict[str, Any] = {"step": event.step}
        for role, confusion in event.confusions.items():
            found[role] = {"confusion": confusion.tolist()}
            # The protocol's score, whatever it is; records and tracking know it by this name.
            point[f"{role}/miou"] = self._score(confusion)
        self.results["eval"].append(point)
        self.results["last"] = found
        better = self.results["best"] is None or point["student/miou"] > self.best_score
        # Of several stages the last one's networks are what the run is about.
        if event.final and better:
            self.best_score, self.results["best"] = point["student/miou"], found
            weights = {"step": event.step, "student": self.trainer.student.state_dict()}
            checkpoint.save(self.run_dir / BEST, weights)
        tracker.events.append("eval", event.step, {k: v for k, v in point.items() if k != "step"})
        tracker.sync()

    def _score(self, confusion: ArrayLike) -> float:
        evaluation = self.run.components.benchmark.evaluation
        return overall_score(confusion, evaluation, self.run.manifest.names)

    def _on_checkpoint(self, event: CheckpointEvent, tracker: RunTracker) -> None:
        # Points before checkpoint: what a checkpoint says is done must be in the curves.
        tracker.events.flush()
        state = {
            "trainer": event.state,
            "results": self.results,
            "seconds": self._seconds(),
            "steps_per_second": self._speed,
            "peak_mb": self._peak(),
        }
        checkpoint.save(self.run_dir / LAST, state, keep_previous=True)
        self._write_status(step=event.step, force=True)
        self.stored.push(event.step)
        tracker.sync()

    def _pictures(self) -> list[Path]:
        """Draw what the run sees of three images; the files."""
        folder, teacher = self.run_dir / "pictures", self.trainer.teacher or self.trainer.student
        shown = (evenly_spaced(self.run.rows, 3), self.run.manifest, self.run.encoding)
        panel, labels = folder / "panel.png", folder / "pseudo_labels.png"
        save_panel(panel, *shown, self.trainer.student, teacher, self.device)
        save_pseudo_labels(labels, *shown, teacher, self.device)
        return [panel, labels]

    def _diagnostics(self) -> dict[str, Any]:
        """Diagnostics of the last weights on evenly spaced evaluated images."""
        rows = evenly_spaced(self.run.rows)
        found: dict[str, Any] = {"images": len(rows), **self.run.encoding.facts()}
        for role, model in (("student", self.trainer.student), ("teacher", self.trainer.teacher)):
            if model is None:
                found[role] = None
                continue
            found[role] = diagnose(
                model,
                self.run.encoding,
                rows,
                self.run.components.benchmark.evaluation,
                self.device,
                self.trainer.autocast,
            )
        return found

    def _record(self) -> dict[str, Any]:
        spec = self.run.spec
        return {
            "schema": SCHEMA,
            "run_id": self.row["run_id"],
            "experiment": spec.experiment,
            "cell": spec.cell,
            "seed": spec.seed,
            "spec": spec.to_dict(),
            "classes": list(self.run.manifest.names),
            "protocol": self.run.protocol(),
            "results": {"last": self.results["last"], "best": self.results["best"]},
            "curves": {"train": self.results["train"], "eval": self.results["eval"]},
            "diagnostics": self._diagnostics(),
            "data": dict(spec.data),
            "network": self.run.network(),
            "environment": describe(self.device, self.settings["git"])
            | {"precision": "bf16" if self.trainer.autocast == torch.bfloat16 else "fp32"},
            "timing": {
                "seconds": self._seconds(),
                "steps_per_second": self._speed or 0.0,
                "peak_memory_mb": self._peak(),
                "attempts": self.status.attempt,
            },
        }

    def _peak(self) -> float:
        """Of all attempts up to their last checkpoint, and of this one so far."""
        return max(self._peak_mb, peak_memory_mb(self.device))

    def _seconds(self) -> float:
        """Time of all attempts up to their last checkpoint, and of this one so far."""
        return self.earlier_seconds + time.time() - self.begun

    def _tags(self) -> dict[str, str]:
        spec = self.run.spec
        return {
            "cell": spec.cell,
            "seed": str(spec.seed),
            "method": spec.config["method"]["name"],
            "encoding": spec.config["encoding"]["name"],
            "git": self.settings["git"],
            **{f"data.{name}": digest or "" for name, digest in spec.data.items()},
        }

    def _write_status(self, *, force: bool = False, **changes: Any) -> None:
        now = time.time()
        self.status = replace(
            self.status,
            steps=self.trainer.config.steps,
            device=str(self.device),
            updated=now,
            **changes,
        )
        if force or now - self._written >= _STATUS_EVERY_S:
            write_status(self.run_dir, self.status)
            self._written = now
