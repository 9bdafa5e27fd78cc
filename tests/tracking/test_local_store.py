import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import uuid
from pathlib import Path

import numpy as np
import pytest
from mlflow.tracking import MlflowClient
from PIL import Image
from tracking_support import curve, make_record, only_run, track_small_run, wait_for

from pipeline.store.events import read
from pipeline.store.record import write_record
from pipeline.store.stopping import Stopped
from pipeline.tracking import (
    RunTracker,
    TrackingConfig,
    list_runs,
    prepare_store,
    replay,
    wait_for_sending,
)

PROCESS = Path(__file__).with_name("logging_process.py")


def start_logging(folder: Path, run_id: str, first: int, last: int, pause: float, uri: str = "-"):
    arguments = [str(folder), run_id, str(first), str(last), str(pause), uri]
    return subprocess.Popen([sys.executable, str(PROCESS), *arguments], start_new_session=True)


def state_of(folder: Path, run_id: str) -> dict:
    path = folder / "runs" / run_id / "tracking.json"
    return json.loads(path.read_text()) if path.exists() else {}


def test_a_finished_run_shows_all_that_is_known_of_it(tmp_path: Path, local: TrackingConfig):
    assert prepare_store(local, {"streets_uda": "Game to camera."}) is None
    picture = np.random.default_rng(0).integers(0, 255, (8, 8, 3), np.uint8)
    Image.fromarray(picture).save(tmp_path / "panel.png")
    record = make_record()
    tags = {"cell": "dacs_ecoc", "seed": "0", "git": "0" * 40, "data.streets_game": "a" * 64}
    spec = {"method": {"name": "dacs", "lr": 6e-5}, "size": [96, 192], "note": "x" * 9000}
    with RunTracker(local, tmp_path / "run", "abc123", "streets_uda", tags, spec) as tracker:
        tracker.events.append("step", 10, {"loss": 1.5, "loss/source": 1.0, "odd(name)%": 3.0})
        tracker.events.append("eval", 10, {"student/miou": 40.0})
        tracker.artifact(tmp_path / "panel.png", "pictures/step 10")
        tracker.record(record)
        assert tracker.finish("FINISHED", wait_s=60)
    run = only_run(local, "abc123")
    assert run.info.run_name == "dacs_ecoc, seed 0"
    assert run.info.status == "FINISHED"
    assert {key: run.data.tags[key] for key in tags} == tags
    assert run.data.tags["mlflow.source.git.commit"] == "0" * 40
    assert [(d.dataset.name, d.dataset.digest) for d in run.inputs.dataset_inputs] == [
        ("streets_game", "a" * 36)
    ]
    assert run.data.params == {
        "method.name": "dacs",
        "method.lr": "6e-05",
        "size": "[96, 192]",
        "note": "x" * 6000,
    }
    # From make_record's student [[8, 2, 0], [1, 9, 0], [0, 0, 0]]; the bus is absent.
    expected = {
        "train/loss": 1.5,
        "train/loss_source": 1.0,
        "train/odd_name__": 3.0,
        "eval/student_miou": 40.0,
        "iou/road": 100 * 8 / 11,
        "iou/traffic light": 100 * 9 / 12,
        "final/miou_last_student": 100 * (8 / 11 + 9 / 12) / 2,
        "final/miou_last_teacher": 100 * (9 / 11 + 9 / 11) / 2,
        "final/miou_best_student": 100 * (8 / 11 + 9 / 12) / 2,
        "final/best_step": 200,
    }
    assert run.data.metrics == pytest.approx(expected)
    experiment = MlflowClient(local.store_uri).get_experiment(run.info.experiment_id)
    assert experiment.tags["mlflow.note.content"] == "Game to camera."
    place = local.artifact_root / "streets_uda" / run.info.run_id / "artifacts"
    assert json.loads((place / "spec.json").read_text()) == spec
    assert json.loads((place / "record.json").read_text()) == record
    confusion = json.loads((place / "confusion" / "confusion_last.json").read_text())
    assert confusion["student"] == record["results"]["last"]["student"]
    assert confusion["classes"] == record["classes"]
    assert np.array_equal(np.asarray(Image.open(place / "pictures/step 10/panel.png")), picture)


def test_diagnostics_are_metrics_of_the_last_step(tmp_path: Path, local: TrackingConfig):
    prepare_store(local, ["streets_uda"])
    sure = {"count": [[0] * 9 + [4]], "confidence": [[0] * 9 + [4.0]], "correct": [[0] * 9 + [3]]}
    labels = {"correction": 8, "right_correction": 6}
    student = {"pixels": 4, "rank": [3, 1, 0], "bits": sure, "classes": sure, "labels": labels}
    record = make_record()
    record["diagnostics"] = {"images": 1, "student": student, "teacher": None}
    with RunTracker(local, tmp_path / "run", "abc123", "streets_uda", {}, {}) as tracker:
        tracker.record(record)
        assert tracker.finish("FINISHED", wait_s=60)
    found = only_run(local, "abc123").data.metrics
    assert {name: value for name, value in found.items() if name.startswith("diag")} == {
        "diagnostics/ece_bits_student": 25.0,
        "diagnostics/ece_classes_student": 25.0,
        "diagnostics/top1_accuracy_student": 75.0,
        "diagnostics/top2_accuracy_student": 100.0,
        "diagnostics/top3_accuracy_student": 100.0,
        "diagnostics/right_corrections_student": 75.0,
    }
    assert curve(local, "abc123", "diagnostics/ece_bits_student") == [(300, 25.0)]


def test_no_absolute_path_is_stored(tmp_path: Path, local: TrackingConfig):
    prepare_store(local, ["streets_uda"])
    track_small_run(local, tmp_path / "run", "abc", "streets_uda")
    assert local.database is not None
    stored = local.database.read_bytes()
    assert str(tmp_path).encode() not in stored
    assert b"mlflow-artifacts:/streets_uda" in stored


def test_killed_and_resumed_it_is_one_run_with_one_unbroken_curve(
    tmp_path: Path, local: TrackingConfig
):
    prepare_store(local, ["kills"])
    process = start_logging(tmp_path, "k1", 1, 100_000, 0.005)
    wait_for(lambda: state_of(tmp_path, "k1").get("offset", 0) > 5000, "points in the store")
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    reached = max(e.step for e in read(tmp_path / "runs/k1/events.jsonl") if e.kind == "step")
    first = only_run(local, "k1").info
    assert first.status == "RUNNING"

    outcome = replay(local, tmp_path / "runs")
    assert (outcome.sent, outcome.problem) == (1, None)
    assert only_run(local, "k1").info.status == "KILLED"
    assert [step for step, _ in curve(local, "k1", "train/loss")] == list(range(1, reached + 1))

    # As from a checkpoint that is older than what had been logged.
    last = reached + 40
    resumed = start_logging(tmp_path, "k1", reached - 15, last, 0)
    assert resumed.wait(120) == 0
    run = only_run(local, "k1")
    assert (run.info.run_id, run.info.status) == (first.run_id, "FINISHED")
    assert curve(local, "k1", "train/loss") == [(s, 1 / s) for s in range(1, last + 1)]
    assert [s for s, _ in curve(local, "k1", "eval/student_miou")] == list(range(20, last + 1, 20))
    samples = [s for s, _ in curve(local, "k1", "system/process_memory_mb")]
    assert samples == list(range(len(samples)))
    assert len(samples) > 1
    assert replay(local, tmp_path / "runs").sent == 0


def test_a_machine_that_goes_on_from_a_copy_of_the_folder_adds_no_second_point(
    tmp_path: Path, local: TrackingConfig
):
    prepare_store(local, ["any"])

    def attempt(machine: str, steps: range) -> None:
        with RunTracker(local, tmp_path / machine, "moved", "any", {}, {}) as tracker:
            for step in steps:
                tracker.events.append("step", step, {"loss": 1 / step})
                if step % 4 == 0:
                    tracker.events.append("eval", step, {"student/miou": step / 100})
            tracker.finish(wait_s=60)

    attempt("first", range(1, 5))
    shutil.copytree(tmp_path / "first", tmp_path / "second")
    # Sent by the first machine, which is lost before its folder is stored again.
    attempt("first", range(5, 12))
    attempt("second", range(3, 21))
    assert curve(local, "moved", "train/loss") == [(s, 1 / s) for s in range(1, 21)]
    assert [s for s, _ in curve(local, "moved", "eval/student_miou")] == [4, 8, 12, 16, 20]


def test_four_processes_write_to_one_store_that_the_driver_made(
    tmp_path: Path, local: TrackingConfig
):
    assert prepare_store(local, ["kills"]) is None
    processes = [start_logging(tmp_path, f"p{i}", 1, 300, 0.003) for i in range(4)]
    assert [process.wait(240) for process in processes] == [0, 0, 0, 0]
    for i in range(4):
        assert only_run(local, f"p{i}").info.status == "FINISHED"
        assert curve(local, f"p{i}", "train/loss") == [(s, 1 / s) for s in range(1, 301)]
        assert not (tmp_path / "runs" / f"p{i}" / "tracking.log").exists()
    assert sorted(run.run_id for run in list_runs(local, "kills")) == ["p0", "p1", "p2", "p3"]


def test_a_finished_run_reopens_keeps_its_params_and_says_so(tmp_path: Path, local):
    prepare_store(local, ["any"])
    tags = {"attempt": "1"}
    with RunTracker(local, tmp_path / "run", "abc", "any", tags, {"lr": 1, "k": 40}) as tracker:
        tracker.events.append("step", 1, {"loss": 1.0})
        assert tracker.finish(wait_s=60)
    first = only_run(local, "abc").info
    assert first.status == "FINISHED"
    tags = {"attempt": "2"}
    tracker = RunTracker(local, tmp_path / "run", "abc", "any", tags, {"lr": 2, "k": 40, "new": 3})
    wait_for(lambda: only_run(local, "abc").info.status == "RUNNING", "the run's reopening")
    tracker.events.append("step", 1, {"loss": 7.0})
    tracker.events.append("step", 2, {"loss": 0.5})
    assert tracker.finish("failed", wait_s=60)
    run = only_run(local, "abc")
    assert (run.info.run_id, run.info.status) == (first.run_id, "FAILED")
    assert run.data.params == {"lr": "1", "k": "40", "new": "3"}
    assert run.data.tags["attempt"] == "2"
    assert curve(local, "abc", "train/loss") == [(1, 1.0), (2, 0.5)]
    assert "parameters keep their first value: lr" in (tmp_path / "run/tracking.log").read_text()


@pytest.mark.parametrize(
    "error, status",
    [(RuntimeError, "FAILED"), (KeyboardInterrupt, "KILLED"), (Stopped, "KILLED")],
)
def test_an_exception_decides_the_status(tmp_path: Path, local: TrackingConfig, error, status):
    prepare_store(local, ["any"])

    def train() -> None:
        with RunTracker(local, tmp_path / "run", "abc", "any", {}, {}):
            raise error

    with pytest.raises(error):
        train()
    # The run itself waits for no more than a share of its time.
    wait_for_sending(60)
    assert only_run(local, "abc").info.status == status


def test_all_runs_are_listed_beyond_mlflows_page_of_1000(tmp_path: Path, local: TrackingConfig):
    prepare_store(local, ["many", "few"])
    track_small_run(local, tmp_path / "run", "model", "many")
    track_small_run(local, tmp_path / "run2", "other", "few")
    template = only_run(local, "model").info.run_id
    assert local.database is not None
    with sqlite3.connect(local.database) as store:
        columns = [row[1] for row in store.execute("PRAGMA table_info(runs)")]
        model = store.execute("SELECT * FROM runs WHERE run_uuid = ?", [template]).fetchone()
        for i in range(1100):
            row = {**dict(zip(columns, model, strict=True)), "run_uuid": uuid.uuid4().hex}
            marks = ", ".join("?" * len(columns))
            store.execute(f"INSERT INTO runs VALUES ({marks})", list(row.values()))
            store.execute(
                "INSERT INTO tags (key, value, run_uuid) VALUES (?, ?, ?)",
                ["ecocseg.run_id", f"copy{i}", row["run_uuid"]],
            )
    store.close()
    everything = {run.run_id for run in list_runs(local, "many")}
    assert everything == {"model"} | {f"copy{i}" for i in range(1100)}
    assert len(list_runs(local)) == 1102


def test_a_new_store_is_filled_from_the_runs_and_a_double_is_removed(tmp_path: Path, local):
    runs = tmp_path / "runs"
    prepare_store(local, ["any"])
    track_small_run(local, runs / "abc", "abc", "any")
    new = TrackingConfig(folder=str(tmp_path / "new"), system_every_s=0)
    prepare_store(new, ["any"])
    # As after a reply that was lost: the run was made twice, its id noted not once.
    client = MlflowClient(new.store_uri)
    experiment = client.get_experiment_by_name("any").experiment_id
    doubles = [
        client.create_run(experiment, start, {"ecocseg.run_id": "abc"}).info.run_id
        for start in (2000, 1000)
    ]
    assert replay(new, runs).sent == 1
    run = only_run(new, "abc")
    assert run.info.run_id == doubles[1]
    assert run.info.status == "FINISHED"
    assert curve(new, "abc", "train/loss") == [(s, 1 / s) for s in range(1, 6)]
    place = new.artifact_root / "any" / run.info.run_id / "artifacts"
    assert json.loads((place / "notes" / "note.json").read_text()) == {"hello": "world"}


def test_a_run_that_a_server_made_late_is_removed_by_the_next_replay(tmp_path: Path, local):
    prepare_store(local, ["any"])
    track_small_run(local, tmp_path / "runs" / "abc", "abc", "any")
    ours = only_run(local, "abc").info
    # The request for it was given up while the server hung, and another one was made.
    MlflowClient(local.store_uri).create_run(ours.experiment_id, 1, {"ecocseg.run_id": "abc"})
    assert replay(local, tmp_path / "runs").waiting == 0
    assert only_run(local, "abc").info.run_id == ours.run_id


def test_replay_leaves_living_runs_and_believes_records(tmp_path: Path, local: TrackingConfig):
    runs, records = tmp_path / "runs", tmp_path / "records"
    prepare_store(local, ["any"])
    tracker = RunTracker(local, runs / "abc123", "abc123", "any", {}, {})
    wait_for(lambda: state_of(tmp_path, "abc123").get("mlflow_run_id"), "the run")
    assert replay(local, runs, records).sent == 0
    assert only_run(local, "abc123").info.status == "RUNNING"
    # Killed after its record was written, before the tracker was told.
    tracker.finish("KILLED", wait_s=60)
    write_record(records, make_record())
    assert replay(local, runs, records).sent == 1
    run = only_run(local, "abc123")
    assert run.info.status == "FINISHED"
    assert run.data.metrics["iou/road"] == pytest.approx(100 * 8 / 11)
    assert replay(local, runs, records).sent == 0


def test_a_run_deleted_in_mlflow_stays_deleted_and_training_goes_on(tmp_path: Path, local):
    prepare_store(local, ["any"])
    track_small_run(local, tmp_path / "run", "abc", "any")
    client = MlflowClient(local.store_uri)
    client.delete_run(only_run(local, "abc").info.run_id)
    track_small_run(local, tmp_path / "run", "abc", "any")
    assert [(run.run_id, run.deleted) for run in list_runs(local)] == [("abc", True)]
    assert "was deleted in MLflow" in (tmp_path / "run" / "tracking.log").read_text()


def test_without_a_prepared_store_no_worker_makes_one(tmp_path: Path, local: TrackingConfig):
    track_small_run(local, tmp_path / "runs" / "abc", "abc", "any")
    assert local.database is not None
    assert not local.database.exists()
    outcome = replay(local, tmp_path / "runs")
    assert (outcome.sent, outcome.waiting) == (0, 1)
    assert "prepare_store" in str(outcome.problem)
    prepare_store(local, ["any"])
    assert replay(local, tmp_path / "runs").sent == 1
    assert curve(local, "abc", "train/loss") == [(s, 1 / s) for s in range(1, 6)]
