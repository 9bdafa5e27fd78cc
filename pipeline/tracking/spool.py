"""What a run's folder remembers of tracking: who the run is, what has been sent, what waits.

events.jsonl     every point (pipeline.store.events)
tracked/         a copy of every artifact, in the folders that MLflow shows
tracking.json    RunState
tracking.log     what went wrong, once each
tracking.lock    held while a process tracks the run
"""

import dataclasses
import fcntl
import json
import math
import os
import re
import shutil
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

from ecocseg.files import atomic_path, atomic_write
from pipeline.store.events import EVENTS_NAME, EventLog

STATE_NAME = "tracking.json"
SPEC_NAME = "spec.json"
STATUSES = ("FINISHED", "FAILED", "KILLED")
PARENT_TAG = "ecocseg.parent"
"""Holds our id of the run, of the same experiment, below which MLflow shows a run."""
_ARTIFACTS = "tracked"
_MAX_KEY, _MAX_VALUE = 250, 6000
_SAVING = threading.Lock()


@dataclass(kw_only=True)
class RunState:
    """Content of tracking.json. Times are ms since epoch; `offset` is a byte of events.jsonl.

    status: None while the run goes on, else one of STATUSES. `artifacts` maps what was sent to
    its SHA-256. delivered: everything including the status is in the MLflow run `mlflow_run_id`.
    """

    run_id: str
    experiment: str
    name: str
    started: int
    tags: dict[str, str] = field(default_factory=dict)
    params: dict[str, str] = field(default_factory=dict)
    mlflow_run_id: str | None = None
    offset: int = 0
    artifacts: dict[str, str] = field(default_factory=dict)
    status: str | None = None
    ended: int | None = None
    delivered: bool = False

    def save(self, run_dir: Path) -> None:
        """Write it into the run's folder."""
        # The training thread and the sending one both do, under one temporary name.
        with _SAVING:
            atomic_write(Path(run_dir) / STATE_NAME, json.dumps(dataclasses.asdict(self), indent=1))

    @classmethod
    def load(cls, run_dir: Path) -> "RunState | None":
        """The state in the run's folder; None when there is none that can be read."""
        try:
            return cls(**json.loads((Path(run_dir) / STATE_NAME).read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return None


def events_path(run_dir: Path) -> Path:
    """The event log of the run in `run_dir`."""
    return Path(run_dir) / EVENTS_NAME


def now_ms() -> int:
    """The present time in ms since epoch."""
    return time.time_ns() // 1_000_000


def take_tracking_lock(run_dir: Path) -> TextIO | None:
    """Become the process that tracks the run; None when another one is.

    Closing the returned file frees the lock; the system does so when the holder dies, however.
    """
    file = (Path(run_dir) / "tracking.lock").open("a")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.close()
        return None
    return file


def log_problem(run_dir: Path, problem: str) -> None:
    """Append a line to tracking.log unless its last line says the same; never raises."""
    path = Path(run_dir) / "tracking.log"
    text = " ".join(problem.split())
    try:
        last = path.read_text(encoding="utf-8").splitlines()[-1:] if path.exists() else []
        if not (last and last[0].endswith(f" {text}")):
            with path.open("a", encoding="utf-8") as file:
                file.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {text}\n")
    except OSError:
        # A full disk is the training's own trouble; it will say so itself.
        return


def spool_file(run_dir: Path, source: Path, folder: str = "") -> None:
    """Copy the file `source` to where artifacts wait, in `folder` as MLflow shall show it."""
    target = Path(run_dir) / _ARTIFACTS / _safe_folder(folder) / Path(source).name
    with atomic_path(target) as temporary:
        shutil.copyfile(source, temporary)


def spool_json(run_dir: Path, name: str, content: Any, folder: str = "") -> None:
    """Write `content` as the JSON artifact `name`."""
    target = Path(run_dir) / _ARTIFACTS / _safe_folder(folder) / name
    atomic_write(target, json.dumps(content, indent=1) + "\n")


def spooled_files(run_dir: Path) -> list[tuple[Path, str]]:
    """All artifacts of the run: (file, its path in MLflow), ordered."""
    root = Path(run_dir) / _ARTIFACTS
    return [
        (path, path.relative_to(root).as_posix())
        for path in sorted(root.rglob("*"))
        if path.is_file() and not path.name.startswith(".")
    ]


def spool_record(run_dir: Path, events: EventLog, record: Mapping[str, Any]) -> None:
    """Queue what a finished run shows: final scores, confusion matrix, the record itself.

    The scores, in percent, are those of the last checkpoint's student (`iou/<class>`, or
    `dice/<class>` where the protocol scores so, absent classes left out); the means of the teacher
    and of the best step stand beside them, and the diagnostics of both networks
    (`ecocseg.calibration.summary`), where the record has them.
    """
    # Brings torch with it, which a driver that has nothing to set right can do without.
    import numpy as np

    from ecocseg.calibration import summary
    from ecocseg.iou import class_scores, mean_score

    results, classes, protocol = record["results"], record["classes"], record["protocol"]
    last, best, score = results["last"], results["best"], protocol.get("score", "iou")
    scored = protocol.get("classes")
    places = None if scored is None else [classes.index(name) for name in scored]
    per_class = class_scores(np.asarray(last["student"]["confusion"]), score)
    scores = {
        f"{score}/{name}": float(value) for name, value in zip(classes, per_class, strict=True)
    }
    for when, result in (("last", last), ("best", best)):
        for who in ("student", "teacher"):
            if result.get(who) is not None:
                confusion = np.asarray(result[who]["confusion"])
                scores[f"final/m{score}_{when}_{who}"] = mean_score(confusion, score, places)
    scores["final/best_step"] = float(best["step"])
    for who in ("student", "teacher"):
        network = record.get("diagnostics", {}).get(who)
        for name, value in (summary(network) if network else {}).items():
            scores[f"diagnostics/{name}_{who}"] = value
    present = {name: value for name, value in scores.items() if not math.isnan(value)}
    events.append("final", int(last["step"]), present)
    for when, result in (("last", last), ("best", best)):
        content = {"classes": classes, "rows": "true class", "columns": "predicted class", **result}
        spool_json(run_dir, f"confusion_{when}.json", content, "confusion")
    spool_json(run_dir, "record.json", record)


def flatten_params(spec: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """A nested mapping as MLflow parameters: dotted names, texts cut to MLflow's lengths."""
    flat: dict[str, str] = {}
    for key, value in spec.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping) and value:
            flat.update(flatten_params(value, f"{name}."))
        else:
            text = value if isinstance(value, str) else json.dumps(value, default=str)
            flat[safe_name(name)] = text[:_MAX_VALUE]
    return flat


def safe_name(name: str) -> str:
    """`name` as MLflow takes it for a metric, parameter or tag."""
    cleaned = re.sub(r"[^\w\-. :/]", "_", name, flags=re.ASCII)
    parts = [part for part in cleaned.split("/") if part.strip(". ")]
    return "/".join(parts)[:_MAX_KEY].rstrip("/") or "_"


def _safe_folder(folder: str) -> Path:
    parts = [part for part in folder.replace(os.sep, "/").split("/") if part not in ("", ".", "..")]
    return Path(*parts)
