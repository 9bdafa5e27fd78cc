"""`ecocseg stop RUN ...` and `stop --all`: ask runs to stop, and wait until they have."""

import signal
import socket
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import psutil

from ecocseg.errors import UserError
from pipeline.monitor.grid_state import GRID_LOCK, SEARCH, SEARCH_LOCK, find_run, look, look_at
from pipeline.monitor.states import Glance, RunSight, SearchSight
from pipeline.store.lock import Holder, is_held, read_holder
from pipeline.store.paths import record_file, run_directory
from pipeline.store.stopping import request_stop

_WAIT_S = 60.0
_POLL_S = 0.3
_KEPT = "the requests stand, and `ecocseg status` shows when they are met"


def stop(results: Path, names: Sequence[str], *, wait_s: float = _WAIT_S) -> int:
    """Ask the runs that `names` stand for to stop; 0 when they have, 1 when one goes on.

    Raises UserError when a name stands for no run or several; then nothing is stopped.
    """
    glance = look(results)
    ids = dict.fromkeys(find_run(results, name) for name in names)
    seen = {run.run_id: run for run in glance.runs}
    return _stop(results, glance, [seen[i] for i in ids if i in seen], wait_s) | _unknown(
        results, [i for i in ids if i not in seen]
    )


def stop_all(results: Path, *, wait_s: float = _WAIT_S) -> int:
    """End the search, the grid, and every run beside it; 0 when nothing runs any more.

    A driver on this machine gets what Ctrl-C sends. One on another machine cannot be reached: each
    of a grid's runs is asked to stop, a search goes on.
    """
    glance = look(results)
    search = glance.search
    goes_on = 0 if search is None else _stop_search(results, search, wait_s)
    driver = glance.driver
    if driver is not None and _interrupt(driver):
        print(f"Ctrl-C is sent to {driver}; waiting up to {wait_s:g} s")
        lock = Path(results) / GRID_LOCK
        if not _wait(lambda: not is_held(lock) or read_holder(lock) != driver, wait_s):
            print(f"it has not ended: {driver}; `kill {driver.pid}` if it hangs")
            return 1
        print("the grid has ended; `ecocseg grid` goes on from the last checkpoints")
        glance = look(results)
    elif driver is not None:
        print(f"the grid is driven by {driver}: its runs are asked to stop one by one")
    left = [run for run in glance.runs if run.state in ("running", "stopping")]
    if glance.driver is not None:
        left += [run for run in glance.runs if run.state in ("queued", "interrupted")]
    if not left and driver is None and search is None:
        print("nothing runs here")
    return goes_on | _stop(results, glance, left, wait_s)


def _stop_search(results: Path, search: SearchSight, wait_s: float) -> int:
    driver, lock = search.driver, Path(results) / SEARCH / SEARCH_LOCK
    if driver is None or not _interrupt(driver):
        who = driver or "another process"
        print(f"a search goes on: it is driven by {who}, which cannot be reached; end it there")
        return 1
    print(f"Ctrl-C is sent to the search, {driver}; waiting up to {wait_s:g} s")
    if not _wait(lambda: not is_held(lock) or read_holder(lock) != driver, wait_s):
        print(f"the search has not ended: {driver}; `kill {driver.pid}` if it hangs")
        return 1
    print("the search has ended; the same command goes on with it")
    return 0


def _stop(results: Path, glance: Glance, runs: Sequence[RunSight], wait_s: float) -> int:
    waited = []
    for run in runs:
        folder = run_directory(results, run.run_id)
        if run.state in ("finished", "copy"):
            print(f"{run.run_id}: {'is finished' if run.state == 'finished' else run.cause}")
        elif run.state in ("running", "stopping"):
            request_stop(folder)
            waited.append(run)
        elif glance.driver is not None and run.state in ("queued", "interrupted"):
            request_stop(folder)
            print(f"{run.run_id}: is {run.state}, and will not start under the present grid")
        else:
            print(f"{run.run_id}: is {run.state}; there is nothing to stop")
    if not waited:
        return 0
    names = ", ".join(run.run_id for run in waited)
    print(f"asked to stop: {names}; waiting up to {wait_s:g} s (Ctrl-C withdraws nothing)")
    open_ids = {run.run_id for run in waited}

    def all_ended() -> bool:
        for run_id in sorted(open_ids):
            if (end := _ended(results, run_id)) is not None:
                print(f"{run_id}: {end}", flush=True)
                open_ids.discard(run_id)
        return not open_ids

    try:
        if _wait(all_ended, wait_s):
            return 0
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"interrupted; {_KEPT}") from None
    for run_id in sorted(open_ids):
        holder = read_holder(run_directory(results, run_id) / "lock")
        print(
            f"{run_id}: has not stopped yet; it looks after every schedule.log_every steps and "
            f"after an evaluation, and is {holder or 'another process'}"
        )
    print(_KEPT)
    return 1


def _unknown(results: Path, run_ids: Sequence[str]) -> int:
    """Runs that are neither planned nor running."""
    for run_id in run_ids:
        finished = record_file(results, run_id).is_file()
        print(f"{run_id}: {'is finished' if finished else 'does not run; nothing to stop'}")
    return 0


def _ended(results: Path, run_id: str) -> str | None:
    """How a run that was asked to stop has ended, None while it goes on."""
    run = look_at(results, run_id)
    if run.state in ("running", "stopping"):
        return None
    if run.state == "finished":
        return "finished before it saw the request"
    status = run.status
    if status is None or status.state == "running":
        return "its process is gone"
    where = f" at step {status.step} of {status.steps}" if status.steps else ""
    return f"{status.state}{where}"


def _interrupt(driver: Holder) -> bool:
    """Send the driver what Ctrl-C sends, if it is a process of this machine that we may signal."""
    if driver.host != socket.gethostname():
        return False
    with suppress(psutil.Error, OSError):
        process = psutil.Process(driver.pid)
        # A process that started after the lock was taken has the number, and is another one.
        if process.create_time() <= driver.since + 1:
            process.send_signal(signal.SIGTERM if _ignores(driver.pid) else signal.SIGINT)
            return True
    return False


def _ignores(pid: int) -> bool:
    """Whether SIGINT does nothing there, as in a command that a script put in the background."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        mask = next(line for line in lines if line.startswith("SigIgn:"))
        return bool(int(mask.split()[1], 16) >> (signal.SIGINT - 1) & 1)
    except (OSError, StopIteration, ValueError, IndexError):
        return False


def _wait(condition: Callable[[], bool], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() >= deadline:
            return False
        time.sleep(_POLL_S)
    return True


def check_names(names: Sequence[str], everything: bool) -> None:
    """Raise UserError unless there is either a name or `--all`."""
    if names and everything:
        raise UserError(f"got both {names[0]!r} and --all; --all takes no names")
    if not names and not everything:
        raise UserError("name the runs to stop (`ecocseg status` lists them), or give --all")
