"""The real thing in small: `dvc repro` over a copy of the project, killed at every level."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
import yaml
from small_project import copy_project

from pipeline.runner.run import execute_run
from pipeline.store.record import comparable, read_record, read_records
from pipeline.tracking import TrackingConfig, list_runs

TINY = [
    "schedule.labelled_batch=2",
    "schedule.unlabelled_batch=2",
    "schedule.log_every=2",
    "schedule.evaluate_every=20",
    "schedule.checkpoint_every=4",
    "model=small",
    "model.decoder_channels=16",
    "benchmark.labelled_transform.crop=[32,64]",
    "benchmark.unlabelled_transform.crop=[32,64]",
]


class Project:
    """A copy of the project with tiny data, in which commands run as a user types them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        copy_project(folder)
        self.environment = os.environ | {
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "PYTHONPATH": str(folder),
        }
        self.run("git", "init", "-q")

    def params(self, **changes: object) -> None:
        path = self.folder / "params.yaml"
        values = yaml.safe_load(path.read_text())
        for key, value in changes.items():
            node = values
            *parents, name = key.split("__")
            for parent in parents:
                node = node[parent]
            node[name] = value
        path.write_text(yaml.safe_dump(values))

    def start(self, *command: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            command,
            cwd=self.folder,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def run(self, *command: str, code: int = 0) -> str:
        process = self.start(*command)
        output, _ = process.communicate(timeout=400)
        assert process.returncode == code, f"{command} gave {process.returncode}:\n{output}"
        return output

    def path(self, name: str) -> Path:
        return self.folder / name

    def runs(self) -> list[dict]:
        return [
            json.loads(line) for line in self.path("results/plan.jsonl").read_text().splitlines()
        ]


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    found = Project(tmp_path_factory.mktemp("project"))
    found.params(
        experiments=["streets_uda"],
        seeds=[0],
        overrides=[*TINY, "schedule.steps=8"],
        search__trials=2,
        search__overrides=[],
    )
    return found


def test_dvc_repro_makes_everything_and_then_nothing(project):
    project.run("dvc", "repro")
    for ending in ("md", "tex", "csv", "html"):
        assert project.path(f"results/tables/streets_uda.{ending}").stat().st_size > 0
    table = project.path("results/tables/streets_uda.md").read_text()
    assert all(word in table for word in ("Source-only", "DACS", "Oracle", "bicycle", "one seed"))
    assert project.path("results/report.html").stat().st_size > 10_000
    assert len(read_records(project.path("results/records"))) == 5
    best = yaml.safe_load(project.path("results/search/best.yaml").read_text())
    assert all(text.startswith("encoding.") for text in best["overrides"])
    again = project.run("dvc", "repro")
    # Of files that only configurations name DVC knows nothing: to plan again takes seconds.
    assert re.findall(r"Running stage '(\w+)'", again) == ["plan", "search_inputs"]
    assert again.count("didn't change, skipping") == 5


def test_dvc_shows_metrics_and_plots(project):
    shown = project.run("dvc", "metrics", "show", "--json")
    metrics = json.loads(shown)[""]["data"]["results/metrics.json"]["data"]
    assert metrics["streets_uda"]["oracle"]["n"] == 1
    project.run("dvc", "plots", "show", "--out", "plots")
    assert project.path("plots/index.html").is_file()


def test_a_dvc_experiment_with_another_seed_adds_runs_and_keeps_the_finished_ones(project):
    finished = {path.stem for path in project.path("results/records").iterdir()}
    project.run("git", "-c", "user.email=a@b", "-c", "user.name=t", "add", "-A")
    project.run("git", "-c", "user.email=a@b", "-c", "user.name=t", "commit", "-qm", "start")
    project.run("dvc", "exp", "run", "-S", "seeds=[0,1]", "plan")
    planned = {row["run_id"] for row in project.runs()}
    assert len(planned) == 2 * len(finished)
    assert finished < planned
    assert {path.stem for path in project.path("results/records").iterdir()} == finished


def test_a_prediction_of_a_finished_run(project):
    run_id = next(row["run_id"] for row in project.runs() if row["cell"] == "dacs_ecoc")
    image = next(project.path("data/processed/streets_camera/images/val").iterdir())
    project.run("ecocseg", "predict", run_id, str(image), "--out", "out", "--weights", "teacher")
    assert len(list(project.path("out").glob("*.png"))) == 2


def test_doctor_and_verify_find_nothing_wrong(project):
    assert "fault" not in project.run("ecocseg", "doctor")
    assert "no fault" in project.run("ecocseg", "verify")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["cluster.device=cuda"], "torch sees 0 GPUs"),
        (["seeds=[0,1]"], "the plan decides what is run"),
        (["cluster.device=tpu"], "device: got 'tpu', allowed is auto, cpu or cuda"),
        (["data.root=/nowhere"], "/nowhere/processed/streets_camera: the data set"),
    ],
)
def test_what_is_not_there_is_said_and_nothing_is_written(project, overrides, message):
    before = sorted(project.path("results/records").iterdir())
    if "data.root=/nowhere" in overrides:
        text = project.run(
            "ecocseg", "train", "experiment=streets_uda", "cell=oracle", *overrides, code=1
        )
    else:
        project.params(seeds=[0, 1, 2])
        project.run("ecocseg", "plan", "--out")
        text = project.run("ecocseg", "grid", *overrides, code=1)
    assert message in text
    assert "Traceback" not in text
    assert sorted(project.path("results/records").iterdir()) == before


def wait_for(condition, seconds=120):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if found := condition():
            return found
        time.sleep(0.1)
    raise AssertionError("waited in vain")


@pytest.mark.timeout(600)
def test_killed_at_every_level_it_finishes_with_the_results_of_an_undisturbed_run(
    project, tmp_path, single_thread
):
    longer = [*TINY, "schedule.steps=80"]
    project.params(seeds=[5], overrides=longer, experiment_overrides={})
    project.run("dvc", "repro", "plan")
    rows = {row["cell"]: row["run_id"] for row in project.runs()}

    seen = set()

    def running():
        for run_id in rows.values():
            folder = project.path("results/runs") / run_id
            if not (folder / "last.pt").is_file():
                continue
            status = json.loads((folder / "status.json").read_text())
            # The worker of a driver that was killed lives on for seconds: it is not the next one.
            if (
                status["state"] == "running"
                and status["pid"] not in seen
                and psutil.pid_exists(status["pid"])
            ):
                seen.add(status["pid"])
                return status
        return None

    def grid(dvc):
        """The driver below a dvc, which writes no lock file of its own any more by then."""
        for child in psutil.Process(dvc.pid).children(recursive=True):
            with suppress(psutil.NoSuchProcess):
                if "grid" in child.cmdline() and "ecocseg" in " ".join(child.cmdline()):
                    return child
        return None

    # A worker: its run starts again in the same command.
    first = project.start("dvc", "repro", "train")
    os.kill(wait_for(running)["pid"], signal.SIGKILL)
    # The driver.
    wait_for(running)
    grid(first).kill()
    assert first.wait(60) != 0
    # dvc itself.
    second = project.start("dvc", "repro", "train")
    wait_for(lambda: grid(second))
    wait_for(running)
    time.sleep(1)
    os.kill(second.pid, signal.SIGKILL)
    second.wait()
    project.run("dvc", "repro", "train")

    for row in project.runs():
        undisturbed = tmp_path / row["run_id"]
        settings = {
            "data_root": str(project.path("data")),
            "results": str(undisturbed),
            "device": "cpu",
            "git": "none",
            "tracking": {"enabled": False, "uri": None, "folder": str(undisturbed)},
        }
        execute_run(row, settings)
        expected = read_record(undisturbed / "records" / f"{row['run_id']}.json")
        record = read_record(project.path(f"results/records/{row['run_id']}.json"))
        assert comparable(record) == comparable(expected)

    tracked = [
        run
        for run in list_runs(TrackingConfig(folder=str(project.path("results/mlflow"))))
        if run.run_id in rows.values()
    ]
    assert sorted(run.run_id for run in tracked) == sorted(rows.values())
    assert {run.status for run in tracked} == {"FINISHED"}
    for run in tracked:
        assert loss_curve(project, run.mlflow_run_id) == list(range(2, 81, 2))


def loss_curve(project, mlflow_run_id):
    """Steps of the loss as MLflow has them, in the order they were logged."""
    from mlflow import MlflowClient

    store = TrackingConfig(folder=str(project.path("results/mlflow"))).store_uri
    history = MlflowClient(store).get_metric_history(mlflow_run_id, "train/loss")
    return [point.step for point in sorted(history, key=lambda p: (p.timestamp, p.step))]
