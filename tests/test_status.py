import json
import os
import socket
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.store.paths import record_file, run_directory
from pipeline.store.status import STATES, RunStatus, mark_failed, read_status, write_status

NUMBERS = st.floats(0, 1e9) | st.none()


@given(
    state=st.sampled_from(STATES),
    step=st.integers(0, 10**6),
    loss=NUMBERS,
    speed=NUMBERS,
    eta=NUMBERS,
    message=st.text(),
)
def test_what_is_written_is_read(
    tmp_path_factory: pytest.TempPathFactory,
    state: str,
    step: int,
    loss: float | None,
    speed: float | None,
    eta: float | None,
    message: str,
) -> None:
    folder = tmp_path_factory.mktemp("run")
    status = RunStatus(
        state=state, step=step, loss=loss, steps_per_second=speed, eta_s=eta, message=message
    )
    write_status(folder, status)
    assert read_status(folder) == status
    assert os.listdir(folder) == ["status.json"]


def test_fills_in_who_writes_it() -> None:
    status = RunStatus()
    assert (status.host, status.pid) == (socket.gethostname(), os.getpid())


def test_an_unknown_state_is_refused() -> None:
    with pytest.raises(ValueError, match=r"state: got 'done', allowed queued, running"):
        RunStatus(state="done")


@pytest.mark.parametrize("content", [None, "", "{", "[]", "3", '{"state": "done"}'])
def test_no_readable_status_is_none(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "status.json").write_text(content)
    assert read_status(tmp_path) is None


def test_fields_of_another_version_are_passed_over(tmp_path: Path) -> None:
    (tmp_path / "status.json").write_text(json.dumps({"state": "running", "step": 3, "mood": "x"}))
    status = read_status(tmp_path)
    assert status is not None
    assert (status.state, status.step, status.loss) == ("running", 3, None)


def test_a_failure_keeps_how_far_the_run_was(tmp_path: Path) -> None:
    write_status(tmp_path, RunStatus(state="running", step=7, steps=9, node="a", eta_s=2.0, pid=1))
    mark_failed(tmp_path, "no more data")
    status = read_status(tmp_path)
    assert status is not None
    assert (status.state, status.step, status.node, status.pid) == ("failed", 7, "a", 1)
    assert (status.message, status.eta_s) == ("no more data", None)


def test_a_failure_before_the_first_status(tmp_path: Path) -> None:
    mark_failed(tmp_path / "runs" / "a", "no node")
    status = read_status(tmp_path / "runs" / "a")
    assert status is not None
    assert (status.state, status.message) == ("failed", "no node")


def test_a_reader_never_sees_half_a_file(tmp_path: Path) -> None:
    write_status(tmp_path, RunStatus(step=0))
    stop = threading.Event()

    def write() -> None:
        step = 0
        while not stop.is_set():
            step += 1
            write_status(tmp_path, RunStatus(step=step, message="x" * (step % 5000)))

    writer = threading.Thread(target=write)
    writer.start()
    try:
        assert all(read_status(tmp_path) is not None for _ in range(300))
    finally:
        stop.set()
        writer.join()


def test_where_things_lie(tmp_path: Path) -> None:
    assert run_directory(tmp_path, "a-1") == tmp_path / "runs" / "a-1"
    assert record_file(tmp_path, "a-1") == tmp_path / "records" / "a-1.json"
