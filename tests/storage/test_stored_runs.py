"""Real runs in a store: other machines, a store that is away, failures."""

import pytest

from ecocseg.engine.events import CheckpointEvent
from ecocseg.errors import UserError
from pipeline.runner.run import _Execution, execute_run, execute_smoke
from pipeline.store.pull import SMOKE, fetch_weights, mirrored, pull_finished
from pipeline.store.record import comparable, read_record
from pipeline.store.status import read_status


@pytest.fixture(scope="module")
def planned(plan_streets):
    """Make (row of the plan, settings) of a cell, for a results folder and a store."""
    return lambda results, uri: plan_streets("dacs_ecoc", results, storage=uri)


@pytest.fixture(scope="module")
def undisturbed(planned, tmp_path_factory):
    """The record of the run where nothing happens and there is no store."""
    results = tmp_path_factory.mktemp("alone")
    row, settings = planned(results, None)
    execute_run(row, settings)
    return comparable(read_record(results / "records" / f"{row['run_id']}.json"))


class Lost(BaseException):
    """What the end of a node looks like from inside: nothing more is done."""


def lose_the_node_at(step, monkeypatch):
    """The next run ends at `step`, after its checkpoint is here and before it is uploaded."""
    on_checkpoint = _Execution._on_checkpoint

    def lost(self, event: CheckpointEvent, tracker):
        if event.step == step:
            self.stored._upload()
            on_checkpoint(self, event, tracker)
            self.stored._upload = lambda: None
            raise Lost
        on_checkpoint(self, event, tracker)

    patch = pytest.MonkeyPatch()
    patch.setattr(_Execution, "_on_checkpoint", lost)
    return patch


def test_another_machine_goes_on_and_the_record_is_the_same(
    uri, planned, undisturbed, tmp_path, monkeypatch
):
    row, first = planned(tmp_path / "1", uri)
    patch = lose_the_node_at(4, monkeypatch)
    with pytest.raises(Lost):
        execute_run(row, first)
    patch.undo()
    began = []
    resume = _Execution._resume
    monkeypatch.setattr(
        _Execution, "_resume", lambda self: resume(self) or began.append(self.trainer.step)
    )
    _, second = planned(tmp_path / "2", uri)
    execute_run(row, second)
    assert began == [2]
    name = f"{row['run_id']}.json"
    assert comparable(read_record(tmp_path / "2/records" / name)) == undisturbed
    # The driver has neither run; finished here means finished there.
    pull_finished(uri, tmp_path / "driver", [row])
    run = tmp_path / "driver/runs" / row["run_id"]
    assert comparable(read_record(tmp_path / "driver/records" / name)) == undisturbed
    assert (run / "pictures/panel.png").is_file()
    assert not list(run.glob("*.pt"))
    fetch_weights(uri, tmp_path / "driver", row["run_id"], "best.pt")
    best = tmp_path / "2/runs" / row["run_id"] / "best.pt"
    assert (run / "best.pt").read_bytes() == best.read_bytes()
    # A third machine need not train it, nor need the first, whose own attempt is behind.
    for folder in ("3", "1"):
        _, again = planned(tmp_path / folder, uri)
        execute_run(row, again)
        assert comparable(read_record(tmp_path / folder / "records" / name)) == undisturbed
    assert began == [2]


def test_training_goes_on_while_the_store_is_away(folder_uri, planned, undisturbed, tmp_path):
    row, settings = planned(tmp_path / "1", folder_uri)
    store, away = tmp_path / "store", tmp_path / "away"
    resume = _Execution._resume

    def unplugged(self):
        resume(self)
        store.rename(away)
        store.write_text("a file where the folder was")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_Execution, "_resume", unplugged)
        with pytest.raises(UserError, match=r"finished, but its record could not be stored") as it:
            execute_run(row, settings)
    path = tmp_path / "1/records" / f"{row['run_id']}.json"
    assert str(path) in str(it.value)
    assert "cluster.storage" in str(it.value)
    assert comparable(read_record(path)) == undisturbed
    assert "not uploaded" in (tmp_path / "1/runs" / row["run_id"] / "storage.log").read_text()
    with pytest.raises(UserError, match=r"cluster.storage: .* cannot be used"):
        pull_finished(folder_uri, tmp_path / "driver", [row])
    store.unlink()
    away.rename(store)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_Execution, "go", lambda self: pytest.fail("it is finished"))
        execute_run(row, settings)
    pull_finished(folder_uri, tmp_path / "driver", [row])
    assert (tmp_path / "driver/records" / path.name).read_bytes() == path.read_bytes()


def test_a_failure_is_uploaded_with_what_explains_it(folder_uri, planned, tmp_path):
    row, settings = planned(tmp_path / "1", folder_uri)

    def fails(self, event, tracker):
        (self.run_dir / "diverged.pt").write_bytes(b"the batch")
        raise UserError("the loss is NaN")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_Execution, "_on_step", fails)
        with pytest.raises(UserError):
            execute_run(row, settings)
    with mirrored(folder_uri, tmp_path / "driver", [row]):
        pass
    run = tmp_path / "driver/runs" / row["run_id"]
    status = read_status(run)
    assert (status.state, status.message) == ("failed", "the loss is NaN")
    assert "the loss is NaN" in (run / "log.txt").read_text()
    fetch_weights(folder_uri, tmp_path / "driver", row["run_id"], "diverged.pt")
    assert (run / "diverged.pt").read_bytes() == b"the batch"


def test_smoke_runs_leave_their_marks_with_the_driver(folder_uri, planned, tmp_path):
    row, settings = planned(tmp_path / "1", folder_uri)
    execute_smoke(row, settings)
    with mirrored(folder_uri, tmp_path / "driver", [row], SMOKE):
        pass
    name = f"smoke/records/{row['run_id']}.json"
    assert (tmp_path / "driver" / name).read_bytes() == (tmp_path / "1" / name).read_bytes()
