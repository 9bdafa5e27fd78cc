"""Damaged checkpoints and full disks: what a run makes of them, and that its results are equal."""

import logging
import subprocess
import sys

import pytest

from pipeline.config.run_spec import RunSpec
from pipeline.planning.plan import compose_cell, load_experiment, plan_row
from pipeline.runner.run import execute_run
from pipeline.store.events import EventLog, read
from pipeline.store.record import comparable, read_record, record_path

TINY = [
    "schedule.labelled_batch=2",
    "schedule.unlabelled_batch=2",
    "schedule.log_every=1",
    "schedule.evaluate_every=3",
    "model=small",
    "model.decoder_channels=16",
    "benchmark.labelled_transform.crop=[32,64]",
    "benchmark.unlabelled_transform.crop=[32,64]",
]
CASES = {
    "dacs": ("streets_uda", "dacs_ecoc", ["schedule.steps=6", "schedule.checkpoint_every=2"]),
    "stpp": (
        "streets_uda",
        "dacs_ecoc",
        [
            "method=stpp",
            "method.stage_shares=[0.34,0.33,0.33]",
            "schedule.steps=9",
            "schedule.checkpoint_every=2",
        ],
    ),
}


@pytest.fixture(scope="module", params=CASES)
def finished(request, streets_data, manifests, tmp_path_factory):
    """(row of the plan, settings, folder of results) of a run that has ended."""
    experiment, cell, overrides = CASES[request.param]
    results = tmp_path_factory.mktemp("results")
    overrides = [*TINY, *overrides]
    config, components = compose_cell(load_experiment(experiment), cell, overrides)
    data = {name: manifests[name].fingerprint for name in components.benchmark.datasets}
    spec = RunSpec(experiment=experiment, cell=cell, seed=0, config=config, data=data)
    settings = {
        "data_root": str(streets_data),
        "results": str(results),
        "device": "cpu",
        "git": "none",
        "tracking": {"enabled": False, "uri": None, "folder": str(results)},
    }
    row = plan_row(spec, components, {"overrides": overrides})
    execute_run(row, settings)
    return row, settings, results


@pytest.mark.parametrize("damaged", [["last.pt"], ["last.pt", "previous.pt"]])
def test_unreadable_checkpoints_are_set_aside_and_the_end_is_equal(finished, damaged, caplog):
    row, settings, results = finished
    path, folder = record_path(results / "records", row["run_id"]), results / "runs" / row["run_id"]
    before, events = read_record(path), read(folder / "events.jsonl")
    path.unlink()
    for name in damaged:
        (folder / name).write_bytes((folder / name).read_bytes()[:1000])
    with caplog.at_level(logging.WARNING):
        execute_run(row, settings)
    (message,) = [r.getMessage() for r in caplog.records if r.name == "pipeline.runner.run"]
    staged = row["spec"]["method"]["name"] == "stpp"
    # What stages left goes with their end: such a run begins anew then.
    first = 0 if staged or len(damaged) == 2 else 4
    assert message.endswith(f"the run goes on from step {first}")
    for name in damaged:
        assert f"{name} cannot be read (" in message
        assert (folder / f"{name}.unreadable").stat().st_size == 1000
    assert comparable(read_record(path)) == comparable(before)
    assert read(folder / "events.jsonl") == events


def test_an_event_that_fits_in_half_leaves_nothing(tmp_path):
    path = tmp_path / "events.jsonl"
    code = (
        "import resource, signal, sys\n"
        "from pipeline.store.events import EventLog\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (250, 250))\n"
        "log = EventLog(sys.argv[1])\n"
        "for step in range(9):\n"
        "    try:\n"
        "        log.append('step', step, {'loss': 0.5})\n"
        "    except OSError as error:\n"
        "        print(step, error.strerror)\n"
        "        resource.setrlimit(resource.RLIMIT_FSIZE, (-1, -1))\n"
        "        break\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True)
    assert done.stdout == "3 No space left on device\n", done.stderr
    with EventLog(path) as log:
        for step in range(2, 9):
            log.append("step", step, {"loss": 0.5})
    assert [event.step for event in read(path)] == list(range(9))
    assert path.read_bytes().count(b"\n") == 9
