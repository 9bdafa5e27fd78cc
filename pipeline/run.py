"""One run from its plan row to its record: the consumer of the engine's events.

State lies in the run's directory only, so it may be killed at any moment and called again, here
or on another machine that sees the same storage: it goes on from the last checkpoint.
"""

import platform
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from ecocseg.data.benchmark import build_streams, source_rows
from ecocseg.data.manifest import Manifest, load_manifest, processed_dir
from ecocseg.encodings import build_encoding
from ecocseg.encodings.base import Encoding
from ecocseg.engine import checkpoint
from ecocseg.engine.evaluate import evaluate
from ecocseg.engine.fit import CheckpointEvent, EvaluationEvent, StepEvent, Trainer
from ecocseg.engine.seed import seeded
from ecocseg.errors import DataError
from ecocseg.files import atomic_write, require_space
from ecocseg.iou import mean_iou
from ecocseg.methods import build_method
from ecocseg.models.segmenter import build_model
from pipeline.environment import describe, peak_memory_mb, pick_device
from pipeline.locks import RunLock
from pipeline.pictures import save_panel
from pipeline.records import SCHEMA, is_finished, write_record
from pipeline.spec import Components, RunSpec, validate
from pipeline.status import RunStatus, read_status, record_file, run_directory, write_status
from pipeline.tracking import RunTracker, TrackingConfig

LAST, BEST = "last.pt", "best.pt"
_STATUS_EVERY_S = 1.0
_SMOKE_STEPS, _SMOKE_IMAGES = 2, 2


class Prepared:
    """A run's data, encoding and trainer, built from its specification."""

    def __init__(self, spec: RunSpec, data_root: Path, device: torch.device) -> None:
        self.spec = spec
        self.components: Components = validate(spec.config)
        self.device = device
        benchmark = self.components.benchmark
        self.manifests = {
            name: _checked_manifest(data_root, name, spec.data.get(name))
            for name in benchmark.datasets
        }
        self.manifest: Manifest = self.manifests[benchmark.evaluated.dataset]
        self.rows = source_rows(benchmark.evaluated, self.manifests)
        encoding = dict(spec.config["encoding"])
        self.encoding: Encoding = build_encoding(
            encoding.pop("name"), encoding, self.manifest.names
        )
        method = dict(spec.config["method"])
        self.method = build_method(method.pop("name"), method)
        # The first weights depend on the seed alone, so that cells of one seed compare.
        with seeded(spec.seed, "weights"):
            self.model = build_model(self.components.model, self.encoding.channels)

    def trainer(self, steps: int | None = None) -> Trainer:
        """The trainer over the schedule, or over its first `steps` steps."""
        schedule = self.components.schedule
        if steps is not None:
            schedule = replace(
                schedule, steps=steps, log_every=1, evaluate_every=steps, checkpoint_every=steps
            )
        return Trainer(
            schedule,
            model=self.model,
            encoding=self.encoding,
            method=self.method,
            device=self.device,
            seed=self.spec.seed,
        )

    def events(self, trainer: Trainer, images: int | None = None) -> Any:
        """Iterate the trainer's events; evaluation on the first `images` images or all."""
        schedule = self.components.schedule
        streams = build_streams(
            self.components.benchmark,
            self.manifests,
            self.method.streams,
            schedule.labelled_batch,
            schedule.unlabelled_batch,
        )
        return trainer.fit(
            streams,
            lambda model: evaluate(
                model,
                self.encoding,
                self.rows[:images],
                self.components.benchmark.evaluation,
                self.device,
                trainer.autocast,
            ),
        )

    def protocol(self) -> dict[str, Any]:
        """What a score must share with another one to be compared with it."""
        evaluated = self.components.benchmark.evaluated
        evaluation = self.spec.config["benchmark"]["evaluation"]
        return {
            "dataset": evaluated.dataset,
            "split": evaluated.split,
            "images": len(self.rows),
            # How many images at a time is a matter of speed.
            **{k: v for k, v in evaluation.items() if k != "batch_size"},
            "image_size": list(self.manifest.size or ()) or "original",
            "label_size": "original" if self._original_labels() else "stored",
            "fingerprint": self.manifest.fingerprint,
        }

    def _original_labels(self) -> bool:
        """Whether the evaluated split was prepared with its labels at their own size."""
        return self.manifest.size is None or any(r.label_size != r.image_size for r in self.rows)


def execute_smoke(row: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
    """Two steps and a small evaluation of a cell; leaves a mark so that it is not done again."""
    spec = RunSpec.from_dict(row["spec"])
    run = Prepared(spec, Path(settings["data_root"]), pick_device(settings["device"]))
    for _ in run.events(run.trainer(_SMOKE_STEPS), _SMOKE_IMAGES):
        pass
    atomic_write(record_file(Path(settings["results"]) / "smoke", row["run_id"]), "{}\n")


def execute_run(row: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
    """Train `row` of the plan to its record, from its last checkpoint if there is one.

    `settings`: data_root and results (absolute folders), device, tracking (fields of
    TrackingConfig), git (revision of the code). Raises UserError for what the user can mend.
    """
    results = Path(settings["results"])
    records, run_dir = results / "records", run_directory(results, row["run_id"])
    run_dir.mkdir(parents=True, exist_ok=True)
    with RunLock(run_dir / "lock"):
        if is_finished(records, row["run_id"]):
            return
        _Execution(row, settings, run_dir, records).go()


class _Execution:
    """The state of one attempt at a run."""

    def __init__(
        self, row: Mapping[str, Any], settings: Mapping[str, Any], run_dir: Path, records: Path
    ) -> None:
        self.row, self.settings, self.run_dir, self.records = row, settings, run_dir, records
        self.begun = time.time()
        earlier = read_status(run_dir)
        self.status = RunStatus(
            state="running", attempt=earlier.attempt + 1 if earlier else 1, node=platform.node()
        )
        write_status(run_dir, self.status)
        self.device = pick_device(settings["device"])
        self.run = Prepared(
            RunSpec.from_dict(row["spec"]), Path(settings["data_root"]), self.device
        )
        self.trainer = self.run.trainer()
        self.results: dict[str, Any] = {"train": [], "eval": [], "last": None, "best": None}
        self.earlier_seconds = 0.0
        self.best_score = float("-inf")
        self._written = 0.0
        self._speed: float | None = None

    def go(self) -> None:
        """Train, record, track."""
        weights = sum(v.numel() * 4 for v in self.run.model.state_dict().values())
        require_space(self.run_dir, 8 * weights + 10_000_000)
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
                    else:
                        self._on_checkpoint(event, tracker)
            panel = self.run_dir / "pictures" / "panel.png"
            chosen = self.run.rows[:: max(1, len(self.run.rows) // 3)][:3]
            save_panel(
                panel,
                chosen,
                self.run.manifest,
                self.run.encoding,
                self.trainer.student,
                self.trainer.teacher or self.trainer.student,
                self.device,
            )
            tracker.artifact(panel, "pictures")
            record = self._record()
            tracker.record(record)
            # Last: from now on the run counts as finished.
            write_record(self.records, record)
        steps = self.trainer.config.steps
        self._write_status(state="finished", step=steps, eta_s=0.0, force=True)

    def _resume(self) -> None:
        path = self.run_dir / LAST
        if path.is_file():
            state = checkpoint.load(path)
            self.trainer.restore(state["trainer"])
            self.results = state["results"]
            self.earlier_seconds = state["seconds"]
            if self.results["best"] is not None:
                self.best_score = _score(self.results["best"]["student"]["confusion"])
        self._write_status(step=self.trainer.step, force=True)

    def _on_step(self, event: StepEvent, tracker: RunTracker) -> None:
        self.results["train"].append({"step": event.step, **event.metrics})
        covered = (event.step - 1) % self.trainer.config.log_every + 1
        speed = covered / event.seconds
        self._speed = speed if self._speed is None else 0.7 * self._speed + 0.3 * speed
        tracker.events.append("step", event.step, {**event.metrics, "steps_per_second": speed})
        tracker.sync()
        left = (self.trainer.config.steps - event.step) / self._speed
        self._write_status(
            step=event.step,
            loss=event.metrics["loss"],
            steps_per_second=self._speed,
            eta_s=left,
        )

    def _on_evaluation(self, event: EvaluationEvent, tracker: RunTracker) -> None:
        found: dict[str, Any] = {"step": event.step, "student": None, "teacher": None}
        point: dict[str, Any] = {"step": event.step}
        for role, confusion in event.confusions.items():
            found[role] = {"confusion": confusion.tolist()}
            point[f"{role}/miou"] = mean_iou(confusion)
        self.results["eval"].append(point)
        self.results["last"] = found
        if self.results["best"] is None or point["student/miou"] > self.best_score:
            self.best_score, self.results["best"] = point["student/miou"], found
            weights = {"step": event.step, "student": self.trainer.student.state_dict()}
            checkpoint.save(self.run_dir / BEST, weights)
        tracker.events.append("eval", event.step, {k: v for k, v in point.items() if k != "step"})
        tracker.sync()

    def _on_checkpoint(self, event: CheckpointEvent, tracker: RunTracker) -> None:
        # Points before checkpoint: what a checkpoint says is done must be in the curves.
        tracker.events.flush()
        state = {"trainer": event.state, "results": self.results, "seconds": self._seconds()}
        checkpoint.save(self.run_dir / LAST, state)
        tracker.sync()

    def _record(self) -> dict[str, Any]:
        spec = self.run.spec
        report = self.row["report"]
        overrides = list(report.get("overrides", ()))
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
            "data": dict(spec.data),
            "paper_exact": report.get("paper") is not None and not overrides,
            "deviations": overrides,
            "environment": describe(self.device, self.settings["git"]),
            "timing": {
                "seconds": self._seconds(),
                "steps_per_second": self._speed or 0.0,
                "peak_memory_mb": peak_memory_mb(self.device),
                "attempts": self.status.attempt,
            },
        }

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


def _score(confusion: list[list[int]]) -> float:
    return mean_iou(torch.tensor(confusion))


def _checked_manifest(data_root: Path, name: str, fingerprint: str | None) -> Manifest:
    manifest = load_manifest(processed_dir(data_root, name))
    if manifest.fingerprint != fingerprint:
        raise DataError(
            f"{manifest.folder}: the prepared data is not what the run was planned with "
            f"({manifest.fingerprint[:12]} instead of {(fingerprint or 'none')[:12]}); run "
            "`dvc repro plan` for a plan with the present data"
        )
    return manifest
