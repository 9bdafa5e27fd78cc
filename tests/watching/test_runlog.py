import io
import logging
import os
import re
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest

from ecocseg.errors import UserError
from pipeline.store.log import line_time, run_log
from pipeline.store.status import RunStatus, write_status
from pipeline.store.stopping import Stopped


def texts(folder: Path) -> list[str]:
    """The lines of the log without their times, all of which must be readable."""
    lines = (folder / "log.txt").read_text().splitlines()
    assert all(line_time(line) is not None for line in lines)
    return [line[24:] for line in lines]


def test_everything_that_is_said_is_kept_and_still_said(tmp_path: Path) -> None:
    with redirect_stdout(io.StringIO()) as out, redirect_stderr(io.StringIO()) as err:
        with run_log(tmp_path):
            print("printed, ", end="")
            print("in pieces")
            print("40 %\r80 %\r", file=sys.stderr)
            logging.getLogger("pipeline.x").info("loaded")
            logging.getLogger("library").info("too fine")
            logging.getLogger("library").warning("odd")
            print("no end of line", end="")
        print("after it")
    found = texts(tmp_path)
    assert found[0] == f"attempt 1 on {os.uname().nodename}, process {os.getpid()}"
    assert found[1:4] == ["printed, in pieces", "40 %", "80 %"]
    assert "INFO pipeline.x: loaded" in found
    assert "WARNING library: odd" in found
    assert "too fine" not in " ".join(found)
    assert found[-2:] == ["no end of line", "attempt 1 finished"]
    assert out.getvalue() == "printed, in pieces\nno end of lineafter it\n"
    assert "40 %\r80 %" in err.getvalue()


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (UserError("no data; run fetch"), ["no data; run fetch", "attempt 3 failed"]),
        (KeyError("crop"), ["KeyError: 'crop'", "attempt 3 failed"]),
        (Stopped("stopped by anna"), ["attempt 3 stopped by anna"]),
        (KeyboardInterrupt(), ["attempt 3 interrupted"]),
    ],
)
def test_the_end_of_an_attempt_is_told(
    tmp_path: Path, error: BaseException, words: list[str]
) -> None:
    write_status(tmp_path, RunStatus(state="running", attempt=2))
    before = sys.stdout, sys.stderr, logging.getLogger().handlers[:]
    with pytest.raises(type(error)), run_log(tmp_path):
        raise error
    assert texts(tmp_path)[-len(words) :] == words
    assert ("Traceback (most recent call last):" in texts(tmp_path)) == isinstance(error, KeyError)
    assert (sys.stdout, sys.stderr, logging.getLogger().handlers) == before


def test_attempts_follow_each_other(tmp_path: Path) -> None:
    for attempt in (0, 1):
        write_status(tmp_path, RunStatus(state="running", attempt=attempt))
        with run_log(tmp_path):
            pass
    starts = [line for line in texts(tmp_path) if " on " in line]
    assert [re.match(r"attempt \d", line)[0] for line in starts] == ["attempt 1", "attempt 2"]


def test_a_long_log_loses_its_beginning(tmp_path: Path) -> None:
    count = 40_000
    with redirect_stdout(io.StringIO()), run_log(tmp_path):
        for number in range(count):
            print(f"line {number:06d} {'x' * 30}")
    size = (tmp_path / "log.txt").stat().st_size
    assert size <= 1 << 20 < count * 66
    numbers = [int(line.split()[1]) for line in texts(tmp_path) if line.startswith("line")]
    assert numbers == list(range(numbers[0], count))
    assert numbers[0] > 0
    assert os.listdir(tmp_path) == ["log.txt"]


def test_a_full_disk_fails_no_run(tmp_path: Path) -> None:
    (tmp_path / "log.txt").symlink_to("/dev/full")
    with redirect_stdout(io.StringIO()) as out, run_log(tmp_path):
        print("goes on")
    assert out.getvalue() == "goes on\n"
    with run_log(tmp_path / "no such folder"):
        pass


def test_a_stream_that_was_kept_writes_to_no_ended_log(tmp_path: Path) -> None:
    with redirect_stdout(io.StringIO()):
        with run_log(tmp_path):
            kept = sys.stdout
        print("of another run", file=kept)
    assert texts(tmp_path)[-1] == "attempt 1 finished"
