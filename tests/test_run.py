"""One run in this process: what its record and folder hold, and that a resumed end equals it."""

import json
import math
import threading
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny_runs import SMALL_RUN

from ecocseg.engine import checkpoint
from ecocseg.engine.events import Diverged
from ecocseg.errors import UserError
from ecocseg.iou import mean_iou
from ecocseg.models.cost import network_cost
from ecocseg.models.segmenter import Segmenter, build_model
from pipeline.config.params import ClusterParams, DataParams, TrackingParams, load_params
from pipeline.config.run_spec import RunSpec, validate
from pipeline.monitor.stop import stop
from pipeline.runner.diverged import save_batch
from pipeline.runner.run import execute_run, execute_smoke
from pipeline.stages import single
from pipeline.store.events import read
from pipeline.store.record import comparable, read_record, record_path
from pipeline.store.status import read_status
from pipeline.store.stopping import Stopped, clear_stop, request_stop

SHORT = ["schedule.steps=4", "schedule.evaluate_every=4", "schedule.checkpoint_every=4"]


@pytest.fixture(scope="module")
def planned(plan_streets):
    """Make (row of the plan, settings) of a cell, for a results folder."""
    return lambda cell, results, *overrides: plan_streets(cell, results, [*SHORT, *overrides])


@pytest.fixture(scope="module", params=["source-only", "dacs_ecoc"])
def finished(request, planned, tmp_path_factory):
    """(cell, row of the plan, settings, results folder) of a run that has ended."""
    results = tmp_path_factory.mktemp("results")
    row, settings = planned(request.param, results)
    execute_run(row, settings)
    return request.param, row, settings, results


def raising(error):
    """A network's `outputs` that fails, except where sizes alone are asked for."""
    original = Segmenter.outputs

    def outputs(self, images, random):
        if images.is_meta:
            return original(self, images, random)
        raise error

    return outputs


CUDA = (
    "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 23.69 GiB of "
    "which 1.00 GiB is free."
)


@pytest.mark.parametrize(
    "error",
    [torch.OutOfMemoryError(CUDA), RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when")],
)
@pytest.mark.parametrize("execute", [execute_run, execute_smoke])
def test_out_of_gpu_memory_is_told_with_what_helps(planned, tmp_path, monkeypatch, error, execute):
    monkeypatch.setattr("ecocseg.models.network.Segmenter.outputs", raising(error))
    row, settings = planned("dacs_ecoc", tmp_path)
    with pytest.raises(UserError, match="the GPU ran out of memory") as told:
        execute(row, settings)
    text = str(told.value)
    assert "the run needs about" in text
    for name in ("activation_checkpointing=true", "precision=bf16", "micro_batches=2"):
        assert f"schedule.{name}" in text
    assert not (tmp_path / "smoke").exists()
    if execute is execute_run:
        status = read_status(tmp_path / "runs" / row["run_id"])
        assert (status.state, status.message) == ("failed", text)


def test_a_bug_is_no_lack_of_memory(planned, tmp_path, monkeypatch):
    monkeypatch.setattr(
        "ecocseg.models.network.Segmenter.outputs", raising(RuntimeError("shapes do not fit"))
    )
    row, settings = planned("source-only", tmp_path)
    with pytest.raises(RuntimeError, match="shapes do not fit"):
        execute_run(row, settings)
    status = read_status(tmp_path / "runs" / row["run_id"])
    assert (status.state, status.message) == ("failed", "RuntimeError: shapes do not fit")


def test_a_run_that_diverges_keeps_the_batch(planned, tmp_path):
    row, settings = planned("dacs_ecoc", tmp_path, "schedule.optim.lr=1.0e+30")
    folder = tmp_path / "runs" / row["run_id"]
    with pytest.raises(Diverged, match=r"at step 2 .*diverged\.pt") as caught:
        execute_run(row, settings)
    status = read_status(folder)
    assert (status.state, status.message) == ("failed", str(caught.value))
    assert str(folder / "diverged.pt") in status.message
    found = torch.load(folder / "diverged.pt", weights_only=True)
    assert found["step"] == 2
    assert not all(math.isfinite(value) for value in found["terms"].values())
    assert found["batch"]["labelled"]["images"].shape == (2, 3, 32, 64)
    assert found["batch"]["unlabelled"]["valid"].dtype == torch.bool
    assert [len(keys) for keys in found["images"].values()] == [2, 2]


def test_a_full_disk_does_not_hide_that_a_run_diverged(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("ecocseg.engine.checkpoint.save", full)
    told = save_batch(Diverged("the loss became nan at step 3", step=3), tmp_path)
    assert "the loss became nan at step 3; its batch could not be saved" in str(told)
    assert told.step == 3


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (KeyError("crop"), r"KeyError: 'crop'\n\(traceback in .*error.txt\)"),
        (torch.OutOfMemoryError(CUDA), "the GPU ran out of memory"),
    ],
)
def test_a_single_run_ends_in_a_message(streets_data, tmp_path, monkeypatch, error, message):
    monkeypatch.setattr("ecocseg.models.network.Segmenter.outputs", raising(error))
    params = replace(
        load_params(),
        data=DataParams(root=str(streets_data)),
        cluster=ClusterParams(device="cpu"),
        tracking=TrackingParams(enabled=False),
    )
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=message):
        single.run(params, ["experiment=streets_uda", "cell=source-only", *SMALL_RUN, *SHORT])
    (folder,) = (tmp_path / "results/runs").iterdir()
    assert read_status(folder).state == "failed"
    if isinstance(error, KeyError):
        assert "in outputs" in (folder / "error.txt").read_text()


def test_a_record_holds_what_its_network_costs(finished):
    _, row, _, results = finished
    record = read_record(record_path(results / "records", row["run_id"]))
    components = validate(RunSpec.from_dict(row["spec"]).config)
    channels = {"one-hot": 19, "ecoc": 40}[row["spec"]["encoding"]["name"]]
    network = build_model(components.model, channels)
    assert record["network"]["parameters"] == sum(p.numel() for p in network.parameters())
    assert record["network"]["size"] == [32, 64]
    cost = network_cost(components.model, channels, (32, 64))
    assert record["network"]["macs"] == cost.macs
    assert record["environment"]["precision"] == "fp32"


def test_a_record_holds_diagnostics_of_its_networks(finished):
    cell, row, _, results = finished
    record = read_record(record_path(results / "records", row["run_id"]))
    found = record["diagnostics"]
    assert found["images"] == record["protocol"]["images"] == 4
    assert (found["teacher"] is not None) == (cell == "dacs_ecoc")
    assert ("codebook" in found) == (cell == "dacs_ecoc")
    for role in ("student", "teacher"):
        if found[role] is None:
            continue
        confusion = np.array(record["results"]["last"][role]["confusion"])
        assert len(found[role]["rank"]) == 19
        # A part of the pixels, but of the same weights and images.
        accuracy = found[role]["rank"][0] / found[role]["pixels"]
        assert accuracy == pytest.approx(confusion.trace() / confusion.sum(), abs=0.03)
        assert bool(found[role]["labels"]) == (cell == "dacs_ecoc")


def test_a_run_leaves_its_pictures(finished):
    _, row, _, results = finished
    pictures = {path.name for path in (results / "runs" / row["run_id"] / "pictures").iterdir()}
    assert pictures >= {"panel.png", "pseudo_labels.png"}


def test_a_run_that_is_asked_to_stop_keeps_its_checkpoint_and_goes_on_later(planned, tmp_path):
    long = ["schedule.steps=2000", "schedule.evaluate_every=2000"]
    row, settings = planned("source-only", tmp_path, *long)
    folder = tmp_path / "runs" / row["run_id"]
    request_stop(folder)
    with pytest.raises(Stopped):
        execute_run(row, settings)
    assert (read_status(folder).state, read_status(folder).attempt) == ("stopped", 0)
    assert not (folder / "log.txt").exists()
    clear_stop(folder)

    def ask():
        while not (folder / "last.pt").is_file():
            time.sleep(0.05)
        stopped.append(stop(tmp_path, [row["run_id"]]))

    stopped = []
    thread = threading.Thread(target=ask)
    thread.start()
    with pytest.raises(Stopped, match="goes on"):
        execute_run(row, settings)
    thread.join()
    assert stopped == [0]
    status = read_status(folder)
    assert (status.state, status.attempt) == ("stopped", 1)
    assert 4 <= status.step < 2000
    assert not record_path(tmp_path / "records", row["run_id"]).exists()
    assert checkpoint.load(folder / "last.pt")["trainer"]["step"] <= status.step
    log = (folder / "log.txt").read_text().splitlines()
    assert "attempt 1 on" in log[0]
    assert "attempt 1 stopped by" in log[-1]


def test_killed_before_its_record_it_ends_with_an_equal_one(finished):
    _, row, settings, results = finished
    path = record_path(results / "records", row["run_id"])
    before = read_record(path)
    path.unlink()
    execute_run(row, settings)
    after = read_record(path)
    assert comparable(after) == comparable(before)
    # What was measured is of all attempts: this one did not train at all.
    assert after["timing"]["steps_per_second"] == before["timing"]["steps_per_second"] > 0
    assert after["timing"]["peak_memory_mb"] >= before["timing"]["peak_memory_mb"]
    events = read(results / "runs" / row["run_id"] / "events.jsonl")
    assert [event.step for event in events if event.kind == "step"] == [2, 4]
    confusion = json.loads(path.read_text())["results"]["last"]["student"]["confusion"]
    (point,) = [event for event in events if event.kind == "eval"]
    assert point.metrics["student/miou"] == pytest.approx(mean_iou(confusion))
