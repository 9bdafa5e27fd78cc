"""One run in this process: what its record and folder hold, and that a resumed end equals it."""

import json

import numpy as np
import pytest

from ecocseg.iou import mean_iou
from pipeline.events import read
from pipeline.planning import compose_cell, load_experiment, plan_row
from pipeline.records import comparable, read_record, record_path
from pipeline.run import execute_run
from pipeline.spec import RunSpec

TINY = [
    "schedule.steps=4",
    "schedule.labelled_batch=2",
    "schedule.unlabelled_batch=2",
    "schedule.log_every=2",
    "schedule.evaluate_every=4",
    "schedule.checkpoint_every=4",
    "model.decoder_channels=16",
    "benchmark.labelled_transform.crop=[32,64]",
    "benchmark.unlabelled_transform.crop=[32,64]",
]


@pytest.fixture(scope="module", params=["source-only", "dacs_ecoc"])
def finished(request, streets_data, manifests, tmp_path_factory):
    """(cell, row of the plan, settings, results folder) of a run that has ended."""
    config, components = compose_cell(load_experiment("streets_uda"), request.param, TINY)
    data = {name: manifests[name].fingerprint for name in components.benchmark.datasets}
    spec = RunSpec(experiment="streets_uda", cell=request.param, seed=0, config=config, data=data)
    row = plan_row(spec, components, {"overrides": TINY})
    results = tmp_path_factory.mktemp("results")
    settings = {
        "data_root": str(streets_data),
        "results": str(results),
        "device": "cpu",
        "git": "none",
        "tracking": {"enabled": False, "uri": None, "folder": str(results)},
    }
    execute_run(row, settings)
    return request.param, row, settings, results


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


def test_killed_before_its_record_it_ends_with_an_equal_one(finished):
    _, row, settings, results = finished
    path = record_path(results / "records", row["run_id"])
    before = read_record(path)
    path.unlink()
    execute_run(row, settings)
    assert comparable(read_record(path)) == comparable(before)
    events = read(results / "runs" / row["run_id"] / "events.jsonl")
    assert [event.step for event in events if event.kind == "step"] == [2, 4]
    confusion = json.loads(path.read_text())["results"]["last"]["student"]["confusion"]
    (point,) = [event for event in events if event.kind == "eval"]
    assert point.metrics["student/miou"] == pytest.approx(mean_iou(confusion))
