import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import results_folder as watching

from ecocseg.errors import UserError
from pipeline.monitor.stop import check_names, stop, stop_all
from pipeline.store.lock import RunLock
from pipeline.store.paths import run_directory
from pipeline.store.status import mark_stopped
from pipeline.store.stopping import Stopped, StopWatch, clear_stop, request_stop, stop_requested

DRIVER = """
    import signal, sys, time
    from pathlib import Path
    from pipeline.store.lock import RunLock
    def interrupt(*_):
        raise KeyboardInterrupt
    {before}
    signal.signal(signal.SIGTERM, interrupt)
    try:
        with RunLock(Path(sys.argv[1])):
            print("held", flush=True)
            time.sleep(120)
    except KeyboardInterrupt:
        print("interrupted")
"""
IGNORES = "signal.signal(signal.SIGINT, signal.SIG_IGN)"
LISTENS = "signal.signal(signal.SIGINT, signal.default_int_handler)"


@contextmanager
def driver(lock: Path, before: str):
    code = textwrap.dedent(DRIVER.format(before=before))
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(lock)], stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
    finally:
        process.kill()
        process.wait()


@contextmanager
def worker(folder: Path):
    """A run that looks for requests as a real one does."""
    done = threading.Event()

    def work() -> None:
        with RunLock(folder / "lock"):
            watch = StopWatch(folder)
            ready.set()
            while not done.wait(0.05):
                try:
                    watch.check()
                except Stopped as error:
                    mark_stopped(folder, str(error))
                    return

    ready = threading.Event()
    thread = threading.Thread(target=work)
    thread.start()
    ready.wait()
    try:
        yield
    finally:
        done.set()
        thread.join()


def test_a_request_is_seen_and_withdrawn(tmp_path: Path) -> None:
    StopWatch(tmp_path).check()
    request_stop(tmp_path)
    assert stop_requested(tmp_path)
    with pytest.raises(Stopped, match=rf"stopped by .* on {os.uname().nodename}"):
        StopWatch(tmp_path).check()
    clear_stop(tmp_path)
    clear_stop(tmp_path)
    StopWatch(tmp_path).check()


def test_stop_waits_until_the_run_says_so(tmp_path: Path, capsys) -> None:
    run_id, queued = watching.plan(tmp_path, {"a": 1.0, "b": 1.0})
    folder = watching.status(tmp_path, run_id, "running", step=3, steps=9)
    with worker(folder):
        assert stop(tmp_path, ["exp/a/0", run_id, queued], wait_s=30) == 0
    out = capsys.readouterr().out
    assert f"{run_id}: stopped at step 3 of 9" in out
    assert out.count(f"{run_id}: ") == 1
    # No grid runs that could come to it.
    assert f"{queued}: is queued; there is nothing to stop" in out
    assert not stop_requested(run_directory(tmp_path, queued))


def test_a_run_that_does_not_listen_is_told_with_its_process(tmp_path: Path, capsys) -> None:
    (run_id,) = watching.plan(tmp_path, {"a": 1.0})
    folder = watching.status(tmp_path, run_id, "running")
    with RunLock(folder / "lock"):
        assert stop(tmp_path, [run_id], wait_s=0.5) == 1
    out = capsys.readouterr().out
    assert "has not stopped yet" in out
    assert f"process {os.getpid()} on" in out
    assert "the requests stand" in out


@pytest.fixture
def ctrl_c() -> Iterator[None]:
    """Tests that were started in the background have Ctrl-C switched off."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_ctrl_c_withdraws_nothing_and_says_so(tmp_path: Path, ctrl_c: None) -> None:
    (run_id,) = watching.plan(tmp_path, {"a": 1.0})
    folder = watching.status(tmp_path, run_id, "running")
    with RunLock(folder / "lock"):
        threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT)).start()
        with pytest.raises(KeyboardInterrupt, match="requests stand"):
            stop(tmp_path, [run_id], wait_s=60)
    assert stop_requested(folder)


def test_a_queued_run_under_a_grid_is_asked(tmp_path: Path, capsys) -> None:
    run_id, done = watching.plan(tmp_path, {"a": 1.0, "b": 1.0})
    watching.finish(tmp_path, done)
    with RunLock(tmp_path / "grid.lock"):
        assert stop(tmp_path, [run_id, done]) == 0
    out = capsys.readouterr().out
    assert f"{run_id}: is queued, and will not start under the present grid" in out
    assert f"{done}: is finished" in out
    assert stop_requested(run_directory(tmp_path, run_id))
    assert not stop_requested(run_directory(tmp_path, done))


@pytest.mark.parametrize("before", [LISTENS, IGNORES])
def test_stop_all_ends_the_driver_as_ctrl_c_does(tmp_path: Path, capsys, before: str) -> None:
    (run_id,) = watching.plan(tmp_path, {"a": 1.0})
    with driver(tmp_path / "grid.lock", before) as process:
        assert stop_all(tmp_path, wait_s=60) == 0
        assert process.wait(60) == 0
        assert process.stdout.read() == "interrupted\n"
    assert "the grid has ended" in capsys.readouterr().out
    assert not stop_requested(run_directory(tmp_path, run_id))


def test_stop_all_ends_a_search_without_a_plan(tmp_path: Path, capsys) -> None:
    lock = tmp_path / "search" / ".lock"
    with driver(lock, LISTENS) as process:
        assert stop_all(tmp_path, wait_s=60) == 0
        assert process.wait(60) == 0
        assert process.stdout.read() == "interrupted\n"
    assert "the search has ended" in capsys.readouterr().out
    with driver(lock, LISTENS):
        holder = json.loads(lock.read_text())
        lock.write_text(json.dumps(holder | {"host": "elsewhere"}))
        assert stop_all(tmp_path, wait_s=0.5) == 1
    out = capsys.readouterr().out
    assert "a search goes on" in out
    assert "on elsewhere" in out
    assert "nothing runs" not in out


def test_the_runs_of_a_driver_elsewhere_are_asked_one_by_one(tmp_path: Path, capsys) -> None:
    running, queued, done = watching.plan(tmp_path, dict.fromkeys("abc", 1.0))
    folder = watching.status(tmp_path, running, "running", step=1, steps=2)
    watching.finish(tmp_path, done)
    lock = tmp_path / "grid.lock"
    with RunLock(lock), worker(folder):
        lock.write_text(lock.read_text().replace(os.uname().nodename, "elsewhere"))
        assert stop_all(tmp_path, wait_s=30) == 0
    out = capsys.readouterr().out
    assert "driven by process" in out
    assert f"{running}: stopped at step 1 of 2" in out
    asked = [stop_requested(run_directory(tmp_path, i)) for i in (running, queued, done)]
    assert asked == [True, True, False]


def test_another_process_with_the_drivers_number_is_left_alone(tmp_path: Path) -> None:
    watching.plan(tmp_path, {"a": 1.0})
    lock = tmp_path / "grid.lock"
    with RunLock(lock):
        text = lock.read_text()
        since = text[text.index('"since": ') + 9 :].partition(",")[0]
        lock.write_text(text.replace(since, str(time.time() - 10**8)))
        assert stop_all(tmp_path, wait_s=1) == 0


def test_nothing_is_stopped_when_a_name_is_wrong(tmp_path: Path) -> None:
    (run_id,) = watching.plan(tmp_path, {"a": 1.0})
    with RunLock(tmp_path / "grid.lock"), pytest.raises(UserError, match="called 'exp-z'"):
        stop(tmp_path, [run_id, "exp-z"])
    assert not stop_requested(run_directory(tmp_path, run_id))
    for names, everything, message in (
        ([], False, "name the runs to stop"),
        (["a"], True, "got both 'a' and --all"),
    ):
        with pytest.raises(UserError, match=message):
            check_names(names, everything)
