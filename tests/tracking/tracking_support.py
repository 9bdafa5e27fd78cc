"""What the tests of tracking share: a real MLflow server, small runs, MLflow's view of them."""

import os
import signal
import socket
import subprocess
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mlflow.tracking import MlflowClient

from pipeline.tracking import RunTracker, TrackingConfig, ui_command


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for(condition: Callable[[], object], what: str, seconds: float = 90) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"{what}: not within {seconds} s"
        time.sleep(0.1)


class Server:
    """MLflow's server as `ecocseg ui` starts it; it can be killed, stopped, started again."""

    def __init__(self, store: TrackingConfig, log: Path):
        self.store = store
        self.port = free_port()
        self.uri = f"http://127.0.0.1:{self.port}"
        self.log = log
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                ui_command(self.store, port=self.port),
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        wait_for(self._answers, f"the server's start, see {self.log}")

    def signal(self, number: int) -> None:
        assert self._process is not None
        os.killpg(self._process.pid, number)

    def kill(self) -> None:
        if self._process is not None:
            self.signal(signal.SIGKILL)
            self._process.wait()
            self._process = None

    def _answers(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, self.log.read_text()
        try:
            with urllib.request.urlopen(f"{self.uri}/health", timeout=5) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False


def track_small_run(config: TrackingConfig, run_dir: Path, run_id: str, experiment: str) -> None:
    tags = {"cell": "dacs_ecoc", "seed": "0"}
    with RunTracker(config, run_dir, run_id, experiment, tags, {"lr": 0.5}) as tracker:
        for step in range(1, 6):
            tracker.events.append("step", step, {"loss": 1 / step})
        tracker.document("note.json", {"hello": "world"}, "notes")
        tracker.finish(wait_s=60)


def only_run(config: TrackingConfig, run_id: str):
    """MLflow's own view of the one active run that carries `run_id`."""
    client = MlflowClient(tracking_uri=config.store_uri)
    everything = [experiment.experiment_id for experiment in client.search_experiments()]
    found = client.search_runs(everything, f"tags.`ecocseg.run_id` = '{run_id}'")
    assert len(found) == 1, f"{len(found)} runs carry {run_id}"
    return found[0]


def curve(config: TrackingConfig, run_id: str, metric: str) -> list[tuple[int, float]]:
    """All points that MLflow holds of a metric, as (step, value) in the order of steps."""
    client = MlflowClient(tracking_uri=config.store_uri)
    history = client.get_metric_history(only_run(config, run_id).info.run_id, metric)
    return sorted((point.step, point.value) for point in history)


def make_record(run_id: str = "abc123", classes: int = 3, seed: int = 0) -> dict[str, Any]:
    names = ["road", "traffic light", "bus"][:classes]
    student = [[8, 2, 0], [1, 9, 0], [0, 0, 0]]
    teacher = [[9, 1, 0], [1, 9, 0], [0, 0, 0]]
    result = {
        "step": 300,
        "student": {"confusion": [row[:classes] for row in student[:classes]]},
        "teacher": {"confusion": [row[:classes] for row in teacher[:classes]]},
    }
    return {
        "schema": 1,
        "run_id": run_id,
        "experiment": "streets_uda",
        "cell": "dacs_ecoc",
        "seed": seed,
        "spec": {"method": {"name": "dacs"}, "schedule": {"steps": 300}},
        "classes": names,
        "protocol": {
            "dataset": "streets_camera",
            "split": "val",
            "images": 4,
            "mode": "whole",
            "image_size": [96, 192],
            "label_size": "original",
            "fingerprint": "f" * 64,
        },
        "results": {"last": result, "best": {**result, "step": 200, "teacher": None}},
        "curves": {
            "train": [{"step": 10, "loss": 1.5}, {"step": 20, "loss": 1.25}],
            "eval": [{"step": 100, "student/miou": 40.0}],
        },
        "data": {"streets_game": "a" * 64},
        "environment": {"git": "0" * 40, "versions": {"torch": "2.15.0"}, "device": "cpu"},
        "timing": {"seconds": 12.5, "attempts": 1},
    }
