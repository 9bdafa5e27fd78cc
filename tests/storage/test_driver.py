"""What the machine that drives a grid sees of runs in a store, and tells them."""

import pytest
from store_parts import RUN, on_node

from ecocseg.errors import UserError
from pipeline.store.pull import Mirror, mirrored
from pipeline.store.remote import require_store
from pipeline.store.status import RunStatus, read_status, write_status


def test_the_driver_sees_what_runs_do(uri, tmp_path):
    attempt, driver = on_node(uri, tmp_path / "1"), tmp_path / "driver"
    here, there = driver / "runs" / RUN, tmp_path / "1/runs" / RUN
    view = Mirror(uri, driver, [RUN])
    view.pull()
    assert read_status(here) is None
    # Another length: S3 tells times in whole seconds.
    for step in (1, 10):
        write_status(there, RunStatus(state="running", step=step, updated=float(step)))
        attempt._upload()
        view.pull()
        assert read_status(here).step == step
    # The driver's own word, later than the run's last.
    write_status(here, RunStatus(state="failed", message="node lost", updated=3.0))
    view.pull(last=True)
    assert read_status(here).message == "node lost"


def test_a_request_to_stop_reaches_the_machine_of_the_run(uri, tmp_path):
    attempt, driver = on_node(uri, tmp_path / "1"), tmp_path / "driver"
    asked, arrived = driver / "runs" / RUN / "stop", tmp_path / "1/runs" / RUN / "stop"
    with mirrored(uri, driver, [{"run_id": RUN}]):
        asked.parent.mkdir(parents=True)
        asked.write_text("by me\n")
    attempt._upload()
    assert arrived.read_text() == "by me\n"
    asked.unlink()
    with mirrored(uri, driver, [{"run_id": RUN}]):
        on_node(uri, tmp_path / "1")
    assert not arrived.exists()


def test_a_store_that_cannot_be_used_is_refused_with_its_remedy(tmp_path):
    (tmp_path / "file").write_text("")
    for name in ("file", "not mounted"):
        with pytest.raises(UserError, match=r"cluster.storage: file://.*AWS_ENDPOINT_URL.*ray st"):
            require_store(f"file://{tmp_path / name}")
    require_store(None)
