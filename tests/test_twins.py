"""Runs of equal content: one is computed, the others are copies of its record."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.config.params import ClusterParams, DataParams, TrackingParams, load_params
from pipeline.planning.duplicates import digest_of, originals
from pipeline.planning.plan import plan, write_plan
from pipeline.report.runs import load_experiments
from pipeline.runner.predict import predict
from pipeline.stages import single, train
from pipeline.stages.plan import legend
from pipeline.store.deviations import changing, deviations
from pipeline.store.record import comparable, read_record, read_records

TINY = (
    "schedule.steps=2",
    "schedule.labelled_batch=2",
    "schedule.unlabelled_batch=2",
    "schedule.log_every=2",
    "schedule.evaluate_every=2",
    "schedule.checkpoint_every=2",
    "model=small",
    "benchmark.labelled_transform.crop=[32,64]",
    "benchmark.unlabelled_transform.crop=[32,64]",
)
CHANGING = [text for text in TINY if "checkpoint_every" not in text]
"""Those of them that change numbers."""
ROOT = Path(__file__).parents[1]
CELLS = {"dacs_one-hot", "one-hot-encoding", "source-only"}


@pytest.fixture(scope="module")
def params(streets_data):
    return replace(
        load_params(path=ROOT / "params.yaml"),
        experiments=["streets_uda", "streets_codebooks"],
        seeds=[0],
        overrides=list(TINY),
        # Decides nothing but speed: no other run and no deviation.
        experiment_overrides={"streets_codebooks": ["schedule.loader_workers=0"]},
        data=DataParams(root=str(streets_data)),
        cluster=ClusterParams(device="cpu"),
        tracking=TrackingParams(enabled=False),
    )


@pytest.fixture(scope="module")
def planned(params):
    """Cell -> plan row, of two equal cells and another one."""
    return {row["cell"]: row for row in plan(params) if row["cell"] in CELLS}


@pytest.fixture(scope="module")
def grid(params, planned, tmp_path_factory):
    """The folder in which a grid has run."""
    folder = tmp_path_factory.mktemp("grid")
    write_plan(list(planned.values()), folder / "results/plan.jsonl")
    shutil.copy(ROOT / "params.yaml", folder)
    # A process of its own: other tests of this one may have a Ray running.
    settings = [f"data.root={params.data.root}", "cluster.device=cpu", "tracking.enabled=false"]
    command = [sys.executable, "-m", "pipeline.cli", "grid", *settings]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_the_content_of_a_run_knows_no_names(planned):
    digests = {cell: digest_of(row) for cell, row in planned.items()}
    assert digests["dacs_one-hot"] == digests["one-hot-encoding"] != digests["source-only"]
    ids = [row["run_id"] for row in planned.values()]
    assert len(set(ids)) == 3


def test_of_equal_runs_one_is_trained_and_the_other_has_its_record(grid, planned):
    records = {r["cell"]: r for r in read_records(grid / "results/records")}
    assert set(records) == CELLS
    first, copy = records["dacs_one-hot"], records["one-hot-encoding"]
    assert copy["same_as"] == first["run_id"]
    assert "same_as" not in first
    for experiment in load_experiments(grid / "results/plan.jsonl", grid / "results/records"):
        assert all(cell.deviations == CHANGING for cell in experiment.cells)
    assert copy["run_id"] == planned["one-hot-encoding"]["run_id"]
    assert (copy["experiment"], copy["spec"]["cell"]) == ("streets_codebooks", "one-hot-encoding")
    for field in ("results", "curves", "timing", "diagnostics", "network"):
        assert copy[field] == first[field]
    trained = {path.name for path in (grid / "results/runs").iterdir()}
    assert trained == {first["run_id"], records["source-only"]["run_id"]}
    smoked = {path.stem for path in (grid / "results/smoke/records").iterdir()}
    assert smoked == {planned[cell]["smoke_id"] for cell in ("dacs_one-hot", "source-only")}


def test_a_further_seed_needs_no_further_smoke_run(params, planned):
    later = plan(replace(params, seeds=[0, 7]))
    assert {row["smoke_id"] for row in later if row["cell"] in CELLS} == {
        row["smoke_id"] for row in planned.values()
    }
    assert planned["dacs_one-hot"]["smoke_id"] == planned["one-hot-encoding"]["smoke_id"]


def test_a_smoke_run_leaves_what_it_took(grid):
    for path in (grid / "results/smoke/records").iterdir():
        mark = json.loads(path.read_text())
        assert mark["allocated_mb"] > 50
        assert mark["device_mb"] is None


def test_what_cells_take_of_their_gpu_is_printed(tmp_path, monkeypatch, capsys, planned):
    monkeypatch.chdir(tmp_path)
    row, other = planned["source-only"], planned["dacs_one-hot"]
    marks = tmp_path / "results/smoke/records"
    marks.mkdir(parents=True)
    measured = {"reserved_mb": 21_300.0, "device_mb": 24_268.0}
    (marks / f"{row['run_id']}.json").write_text(json.dumps(measured))
    (marks / f"{other['run_id']}.json").write_text("{}")
    train.print_memory([row, other])
    assert capsys.readouterr().out == "streets_uda/source-only: 21.3 of 24 GB\n"


def test_the_grid_says_how_many_are_copies(grid, params, planned, monkeypatch, capsys):
    monkeypatch.chdir(grid)
    path = grid / "results/records" / f"{planned['one-hot-encoding']['run_id']}.json"
    before = read_record(path)
    path.unlink()
    train.run(params)
    out = capsys.readouterr().out
    assert "3 runs planned, 2 finished, 0 to do; 1 of 3 runs are copies of others" in out
    assert read_record(path) == before
    assert "1 of 3 runs are copies of others" in legend(list(planned.values()))


def test_a_single_run_takes_the_record_of_an_earlier_plan(grid, params, monkeypatch, capsys):
    monkeypatch.chdir(grid)
    typed = ["experiment=streets_uda", "cell=source-only", "seed=0", "schedule.gpus=2"]
    records = grid / "results/records"
    (path,) = (p for p in records.iterdir() if "source-only" in p.name)
    record = json.loads(path.read_text())
    # As an earlier plan would have named it.
    earlier = record | {"run_id": "earlier-run"}
    path.unlink()
    (records / "earlier-run.json").write_text(json.dumps(earlier))
    single.run(params, typed)
    assert "its record is copied" in capsys.readouterr().out
    copy = read_record(path)
    assert copy["same_as"] == "earlier-run"
    # Its time and memory are the original's, and so is what decides them.
    assert copy["spec"]["schedule"]["gpus"] == 1
    left_out = ("run_id", "same_as", "spec")
    plain, other = ({k: v for k, v in r.items() if k not in left_out} for r in (copy, record))
    assert comparable(plain) == comparable(other)
    path.write_text(json.dumps(record))
    (records / "earlier-run.json").unlink()


def test_the_network_of_a_copy_is_that_of_its_original(grid, planned, streets_data):
    image = next((streets_data / "processed/streets_camera/images/val").iterdir())
    found = []
    for cell in ("dacs_one-hot", "one-hot-encoding"):
        out = grid / f"labels_{cell}"
        predict(grid / "results", planned[cell]["run_id"], [image], out, "teacher", "cpu")
        found.append((out / f"{image.stem}.png").read_bytes())
    assert found[0] == found[1]


def test_a_begun_run_is_the_one_that_goes_on(planned, tmp_path):
    rows = list(planned.values())
    begun = planned["one-hot-encoding"]["run_id"]
    assert originals(rows, tmp_path) == {begun: planned["dacs_one-hot"]["run_id"]}
    (tmp_path / "runs" / begun).mkdir(parents=True)
    (tmp_path / "runs" / begun / "last.pt").touch()
    assert originals(rows, tmp_path) == {planned["dacs_one-hot"]["run_id"]: begun}


def test_a_record_that_cannot_be_read_is_nobodys_original(planned, tmp_path):
    (tmp_path / "records").mkdir()
    (tmp_path / "records/old.json").write_text('{"schema": 0}')
    assert list(originals(list(planned.values()), tmp_path)) == [
        planned["one-hot-encoding"]["run_id"]
    ]


def test_records_of_other_content_are_not_even_opened(planned, tmp_path):
    (tmp_path / "records").mkdir()
    row = planned["source-only"]
    other = row["run_id"][:-10] + "0" * 10
    (tmp_path / "records" / f"{other}.json").mkdir()
    assert originals([row], tmp_path) == {}
    (tmp_path / "records" / f"earlier-{row['run_id'][-10:]}.json").mkdir()
    with pytest.raises(IsADirectoryError):
        originals([row], tmp_path)


@pytest.mark.parametrize(
    ("paper", "overrides", "schedule", "bf16", "expected"),
    [
        (True, [], {}, False, []),
        (True, [], {"precision": "auto"}, True, ["schedule.precision: bf16 (auto)"]),
        (True, [], {"precision": "bf16"}, True, ["schedule.precision: bf16"]),
        (True, [], {"micro_batches": 2}, False, ["schedule.micro_batches: 2"]),
        (
            True,
            ["schedule.precision=bf16", "schedule.micro_batches=2"],
            {"precision": "bf16", "micro_batches": 2},
            True,
            ["schedule.precision=bf16", "schedule.micro_batches=2"],
        ),
        (True, ["schedule.activation_checkpointing=true", "schedule.gpus=1"], {}, False, []),
        (True, ["schedule.steps=5"], {}, False, ["schedule.steps=5"]),
        (False, [], {"precision": "auto", "micro_batches": 2}, True, []),
    ],
)
def test_what_changes_numbers_is_a_deviation(paper, overrides, schedule, bf16, expected):
    report = {"paper": {"table": "table01_uda"} if paper else None, "overrides": overrides}
    settings = {"precision": "fp32", "micro_batches": 1} | schedule
    assert deviations(report, settings, bf16=bf16) == expected


def test_a_field_whose_name_begins_alike_is_another():
    assert changing(["+schedule.gpus=2", "schedule.gpus_=2"]) == ["schedule.gpus_=2"]
