import getpass
import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from ecocseg.errors import UserError
from pipeline.store.lock import RunLock, command_line, holder_of, is_held, read_holder

HOLDER = """
    import sys, time
    from pathlib import Path
    from pipeline.store.lock import RunLock
    with RunLock(Path(sys.argv[1])):
        print("held", flush=True)
        {body}
"""


def hold(path: Path, body: str = "time.sleep(60)") -> subprocess.Popen[str]:
    """Another process that has the lock when this returns."""
    code = textwrap.dedent(HOLDER.format(body=body))
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_the_message_names_the_holder(tmp_path: Path) -> None:
    holder = hold(tmp_path / "run" / "lock")
    try:
        with pytest.raises(UserError) as caught, RunLock(tmp_path / "run" / "lock", wait_s=0.3):
            pass
    finally:
        holder.kill()
        holder.wait()
    message = str(caught.value)
    assert str(tmp_path / "run") in message
    assert f"process {holder.pid} on {os.uname().nodename}" in message


def test_the_second_is_told_at_once_who_is_first(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    holder = hold(path)
    told: list[str] = []

    def announce(text: str) -> None:
        told.append(text)
        holder.kill()

    # Waits as long as it takes for the holder that ends only because it was announced.
    with RunLock(path, wait_s=60, announce=announce):
        pass
    holder.wait()
    (text,) = told
    user = getpass.getuser()
    assert f"in use by process {holder.pid} on {os.uname().nodename} (user {user}, since " in text
    assert "`-c import sys, time from pathlib" in text
    with RunLock(path, announce=told.append):
        assert told == [text]
    with (
        pytest.raises(UserError, match="; ask anna"),
        RunLock(path),
        RunLock(path, wait_s=0, remedy="ask anna"),
    ):
        pass


def test_whether_a_lock_is_held_is_seen_without_taking_it(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    assert not is_held(path)
    assert not path.exists()
    with RunLock(path):
        assert is_held(path)
        assert read_holder(path).pid == os.getpid()
    # The file stays, with who had it last.
    assert read_holder(path) is not None
    assert not is_held(path)
    with RunLock(path, wait_s=0):
        pass


@pytest.mark.parametrize(
    "words, text",
    [
        (["/opt/venv/bin/python3.11", "/opt/venv/bin/ecocseg", "grid"], "ecocseg grid"),
        (["/usr/bin/ecocseg", "train", "cell=a"], "ecocseg train cell=a"),
        (["ray::run a-b-s0   ", "", ""], "ray::run a-b-s0"),
        (["python"], "python"),
        ([], ""),
    ],
)
def test_a_command_is_shown_as_it_was_typed(words: list[str], text: str) -> None:
    assert command_line(words) == text


def test_the_lock_falls_with_a_killed_holder(tmp_path: Path) -> None:
    holder = hold(tmp_path / "lock")
    holder.send_signal(signal.SIGKILL)
    with RunLock(tmp_path / "lock", wait_s=30):
        assert f"process {os.getpid()} " in holder_of(tmp_path / "lock")
    holder.wait()


def test_waits_for_a_holder_that_ends_in_time(tmp_path: Path) -> None:
    holder = hold(tmp_path / "lock", body="time.sleep(0.5)")
    with RunLock(tmp_path / "lock", wait_s=30):
        # It could only be taken once the other process had let go.
        assert f"process {os.getpid()} " in holder_of(tmp_path / "lock")
    assert holder.wait() == 0


def test_a_second_lock_of_the_same_process_waits_too(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    with RunLock(lock), pytest.raises(UserError), RunLock(lock, wait_s=0):
        pass
    with RunLock(tmp_path / "lock", wait_s=0):
        pass


def test_the_lock_is_let_go_after_an_exception(tmp_path: Path) -> None:
    with pytest.raises(KeyError), RunLock(tmp_path / "lock"):
        raise KeyError("x")
    with RunLock(tmp_path / "lock", wait_s=0):
        pass


def test_a_forked_child_does_not_keep_the_lock(tmp_path: Path) -> None:
    # A data loader's worker outlives its killed parent by seconds.
    body = "import os; pid = os.fork(); print(pid, flush=True) if pid else None; time.sleep(60)"
    holder = hold(tmp_path / "lock", body=body)
    assert holder.stdout is not None
    child = int(holder.stdout.readline())
    try:
        holder.kill()
        holder.wait()
        os.kill(child, 0)  # still there
        with RunLock(tmp_path / "lock", wait_s=2):
            pass
    finally:
        os.kill(child, signal.SIGKILL)


def _increment(path: Path, times: int) -> None:
    counter = path.with_name("counter")
    for _ in range(times):
        with RunLock(path, wait_s=60):
            counter.write_text(str(int(counter.read_text()) + 1))


def test_many_processes_never_hold_it_together(tmp_path: Path) -> None:
    (tmp_path / "counter").write_text("0")
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=_increment, args=(tmp_path / "lock", 5)) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert (tmp_path / "counter").read_text() == "20"


@pytest.mark.parametrize("content", ["", "{", "[]", "{}"])
def test_a_lock_file_without_a_readable_holder_still_gives_a_message(
    tmp_path: Path, content: str
) -> None:
    (tmp_path / "lock").write_text(content)
    assert holder_of(tmp_path / "lock") == "another process"
