import json
import signal
import time
from pathlib import Path

import numpy as np
from mlflow.artifacts import download_artifacts
from mlflow.tracking import MlflowClient
from PIL import Image
from tracking_support import (
    Server,
    curve,
    free_port,
    make_record,
    only_run,
    track_small_run,
    wait_for,
)

from pipeline.tracking import RunTracker, TrackingConfig, list_runs, prepare_store, replay


def download(config: TrackingConfig, run_id: str, path: str, to: Path) -> Path:
    run = only_run(config, run_id).info.run_id
    return Path(
        download_artifacts(
            run_id=run, artifact_path=path, dst_path=str(to), tracking_uri=config.store_uri
        )
    )


def offset(run_dir: Path) -> int:
    """How far the run's event log has been sent."""
    return int(json.loads((run_dir / "tracking.json").read_text())["offset"])


def log_steps(tracker: RunTracker, first: int, last: int) -> float:
    """Log steps as a training would; the seconds that tracking's own calls took."""
    spent = 0.0
    for step in range(first, last + 1):
        tracker.events.append("step", step, {"loss": 1 / step})
        begun = time.monotonic()
        tracker.sync()
        if step % 50 == 0:
            tracker.document(f"{step}.json", {"step": step}, "notes")
        spent += time.monotonic() - begun
    return spent


def test_a_moved_folder_is_served_with_its_runs_and_artifacts(
    server: Server, served: TrackingConfig, tmp_path: Path
):
    assert [run.run_id for run in list_runs(served, "moved")] == ["moved_run"]
    assert [run.run_id for run in list_runs(server.store, "moved")] == ["moved_run"]
    assert curve(served, "moved_run", "train/loss") == [(s, 1 / s) for s in range(1, 6)]
    note = download(served, "moved_run", "notes/note.json", tmp_path)
    assert json.loads(note.read_text()) == {"hello": "world"}
    # A run that goes on in its moved folder stays the run it was, and the store takes the rest.
    run_dir = Path(server.store.folder).parent / "runs" / "moved_run"
    before = only_run(served, "moved_run").info.run_id
    with RunTracker(server.store, run_dir, "moved_run", "moved", {}, {"lr": 0.5}) as tracker:
        tracker.events.append("step", 6, {"loss": 1 / 6})
        tracker.document("later.json", [1], "notes")
        assert tracker.finish(wait_s=60)
    assert only_run(served, "moved_run").info.run_id == before
    assert curve(served, "moved_run", "train/loss")[-1] == (6, 1 / 6)
    later = download(served, "moved_run", "notes/later.json", tmp_path)
    assert json.loads(later.read_text()) == [1]


def test_pictures_and_records_go_through_the_server(served: TrackingConfig, tmp_path: Path):
    assert prepare_store(served, {"http": "through the server"}) is None
    picture = np.random.default_rng(1).integers(0, 255, (16, 32, 3), np.uint8)
    Image.fromarray(picture).save(tmp_path / "panel.png")
    record = make_record("http1")
    with RunTracker(served, tmp_path / "run", "http1", "http", {"cell": "c"}, {"a": 1}) as tracker:
        log_steps(tracker, 1, 2500)
        tracker.artifact(tmp_path / "panel.png", "pictures")
        tracker.record(record)
        assert tracker.finish(wait_s=60)
    assert curve(served, "http1", "train/loss") == [(s, 1 / s) for s in range(1, 2501)]
    panel = Image.open(download(served, "http1", "pictures/panel.png", tmp_path / "back"))
    assert np.array_equal(np.asarray(panel), picture)
    back = download(served, "http1", "record.json", tmp_path / "back")
    assert json.loads(back.read_text()) == record
    run = only_run(served, "http1")
    assert run.data.metrics["iou/road"] == 100 * 8 / 11
    assert run.info.status == "FINISHED"


def test_a_server_down_from_the_start_costs_nothing_and_loses_nothing(
    served: TrackingConfig, tmp_path: Path
):
    down = TrackingConfig(uri=f"http://127.0.0.1:{free_port()}", system_every_s=0)
    warning = prepare_store(down, ["late"])
    assert warning is not None
    assert "nothing answers" in warning
    run_dir = tmp_path / "runs" / "late1"
    tracker = RunTracker(down, run_dir, "late1", "late", {"cell": "c"}, {"a": 1})
    assert log_steps(tracker, 1, 3000) < 3
    tracker.record(make_record("late1"))
    assert not tracker.finish()
    assert (run_dir / "tracking.log").read_text().count("nothing answers") == 1
    outcome = replay(down, tmp_path / "runs")
    assert (outcome.sent, outcome.waiting) == (0, 1)
    assert "nothing answers" in str(outcome.problem)

    outcome = replay(served, tmp_path / "runs")
    assert (outcome.sent, outcome.waiting, outcome.problem) == (1, 0, None)
    history = MlflowClient(served.store_uri).get_metric_history(
        only_run(served, "late1").info.run_id, "train/loss"
    )
    # In order of time as well: the points carry the time at which they were measured.
    in_time = sorted(history, key=lambda point: (point.timestamp, point.step))
    assert [(p.step, p.value) for p in in_time] == [(s, 1 / s) for s in range(1, 3001)]
    run = only_run(served, "late1")
    assert (run.info.status, run.data.params) == ("FINISHED", {"a": "1"})
    assert run.info.start_time <= in_time[0].timestamp <= run.info.end_time
    assert json.loads(download(served, "late1", "notes/50.json", tmp_path).read_text())


def test_a_hung_server_holds_training_up_no_longer_than_a_dead_one(
    server: Server, served: TrackingConfig, tmp_path: Path
):
    run_dir = tmp_path / "runs" / "hung1"
    tracker = RunTracker(served, run_dir, "hung1", "hung", {}, {})
    log_steps(tracker, 1, 20)
    wait_for(lambda: offset(run_dir) > 0, "first points")
    server.signal(signal.SIGSTOP)
    try:
        assert log_steps(tracker, 21, 500) < 3
        begun = time.monotonic()
        assert not tracker.finish()
        assert time.monotonic() - begun < 8
    finally:
        server.signal(signal.SIGCONT)
    # Its thread lets go of the run once its request has ended.
    wait_for(
        lambda: (
            replay(served, tmp_path / "runs").waiting == 0
            and only_run(served, "hung1").info.status == "FINISHED"
        ),
        "the hung run's end",
    )
    assert curve(served, "hung1", "train/loss") == [(s, 1 / s) for s in range(1, 501)]


def test_a_server_that_dies_midway_is_caught_up_with_after_its_return(
    server: Server, served: TrackingConfig, tmp_path: Path, monkeypatch
):
    monkeypatch.setattr("pipeline.tracking.run._LAST_RETRY_S", 3.0)
    prepare_store(served, ["midway"])
    run_dir = tmp_path / "runs" / "midway1"
    tracker = RunTracker(served, run_dir, "midway1", "midway", {}, {})
    log_steps(tracker, 1, 100)
    wait_for(lambda: offset(run_dir) > 0, "first points")
    first = only_run(served, "midway1").info.run_id
    server.kill()
    try:
        assert log_steps(tracker, 101, 300) < 3
        wait_for(lambda: (run_dir / "tracking.log").exists(), "the note of the failure")
    finally:
        server.start()
    # The same tracker goes on by itself; nothing has to be replayed.
    log_steps(tracker, 301, 400)
    wait_for(lambda: curve(served, "midway1", "train/loss")[-1][0] == 400, "the rest")
    assert tracker.finish(wait_s=60)
    assert only_run(served, "midway1").info.run_id == first
    assert curve(served, "midway1", "train/loss") == [(s, 1 / s) for s in range(1, 401)]
    assert only_run(served, "midway1").info.status == "FINISHED"


def test_experiments_are_made_once_described_and_restored(served: TrackingConfig, tmp_path: Path):
    config = TrackingConfig(uri=served.uri, prefix="group/", system_every_s=0)
    prepare_store(config, {"again": "first text"})
    assert prepare_store(config, {"again": "second text"}) is None
    client = MlflowClient(served.store_uri)
    experiment = client.get_experiment_by_name("group/again")
    assert experiment.tags["mlflow.note.content"] == "second text"
    client.delete_experiment(experiment.experiment_id)
    track_small_run(config, tmp_path / "run", "prefixed", "again")
    restored = client.get_experiment_by_name("group/again")
    assert (restored.experiment_id, restored.lifecycle_stage) == (
        experiment.experiment_id,
        "active",
    )
    assert [run.run_id for run in list_runs(config, "again")] == ["prefixed"]
