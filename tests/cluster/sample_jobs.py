"""Work functions that Ray workers import (their folder is put on PYTHONPATH): a run that counts.

They behave as a real run does: take the run's lock, go on from the last checkpoint, write
status.json, and write the record last. `executed.log` gets a line for every step that was really
executed, so that a test can tell a resumed run from a restarted one.
"""

import importlib
import json
import os
import signal
import time
from pathlib import Path
from typing import Any

from ecocseg.files import atomic_write
from pipeline.store.lock import RunLock
from pipeline.store.status import CHECKPOINT, RunStatus, write_status


class Unpicklable(Exception):
    """Cannot be unpickled: its constructor does not take what `args` holds."""

    def __init__(self, first: str, second: str) -> None:
        super().__init__(f"{first} {second}")


def count(row: dict[str, Any], settings: dict[str, Any]) -> dict[str, Any]:
    results = Path(settings["results_dir"])
    folder = results / "runs" / row["run_id"]
    folder.mkdir(parents=True, exist_ok=True)
    record = results / "records" / f"{row['run_id']}.json"
    with RunLock(folder / "lock", wait_s=30), (folder / "executed.log").open("a") as log:
        if record.exists():
            return json.loads(record.read_text())
        checkpoint = folder / "checkpoint.json"
        step = json.loads(checkpoint.read_text())["step"] if checkpoint.exists() else 0
        atomic_write(folder / "attempts.txt", _text(folder / "attempts.txt") + f"{os.getpid()}\n")
        while step < row["steps"]:
            if row.get("raise_at") == step:
                raise Unpicklable("the run", "met a bad sample: image 00012.png, class 77")
            time.sleep(row.get("step_s", 0.02))
            step += 1
            log.write(f"{step} {os.getpid()}\n")
            log.flush()
            atomic_write(checkpoint, json.dumps({"step": step}))
            write_status(
                folder,
                RunStatus(
                    state="running",
                    step=step,
                    steps=row["steps"],
                    loss=1 / step,
                    steps_per_second=1 / row.get("step_s", 0.02),
                    eta_s=(row["steps"] - step) * row.get("step_s", 0.02),
                    node=row.get("node", "box"),
                ),
            )
        while "until" in row and not Path(row["until"]).exists():
            time.sleep(0.05)
        result = {"run_id": row["run_id"], "sum": sum(range(row["steps"] + 1))}
        if "environment" in row:
            result["threads"] = os.environ["OMP_NUM_THREADS"]
        write_status(folder, RunStatus(state="finished", step=step, steps=row["steps"]))
        atomic_write(record, json.dumps(result))
        return result


def die(row: dict[str, Any], settings: dict[str, Any]) -> None:
    _attempt(row, settings)
    os.kill(os.getpid(), signal.SIGKILL)


def die_after_a_checkpoint(row: dict[str, Any], settings: dict[str, Any]) -> None:
    folder = _attempt(row, settings)
    checkpoint = folder / CHECKPOINT
    step = int(_text(checkpoint) or 0)
    if step < row["steps"]:
        atomic_write(checkpoint, str(step + 1))
        os.kill(os.getpid(), signal.SIGKILL)


def fail(row: dict[str, Any], settings: dict[str, Any]) -> None:
    _attempt(row, settings)
    module, _, name = row["raise"].partition(":")
    raise getattr(importlib.import_module(module), name)(row["message"])


def _attempt(row: dict[str, Any], settings: dict[str, Any]) -> Path:
    folder = Path(settings["results_dir"]) / "runs" / row["run_id"]
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "attempts.txt").open("a") as log:
        log.write(f"{os.getpid()}\n")
    return folder


def _text(path: Path) -> str:
    return path.read_text() if path.exists() else ""


def climb(row: dict[str, Any], values: dict[str, Any], settings: dict[str, Any]) -> Any:
    """An objective whose score at the last step is `100 - distance of x to 3`, if y is `good`.

    `settings["log"]` gets a line for every step that was really executed.
    """
    checkpoint = Path(settings["trial_dir"]) / "checkpoint.json"
    step = json.loads(checkpoint.read_text())["step"] if checkpoint.exists() else 0
    good = values.get("y", "good") == "good"
    score = 100.0 - abs(values["x"] - 3.0) - (0 if good else 50)
    while step < row["steps"]:
        time.sleep(settings.get("step_s", 0.01))
        step += 1
        if values.get("y") == row.get("raise_on", "nothing"):
            raise ValueError(f"y: got {values['y']}")
        with Path(settings["log"]).open("a") as log:
            log.write(json.dumps([values, step]) + "\n")
        atomic_write(checkpoint, json.dumps({"step": step}))
        died = Path(settings["log"]).with_name("died")
        if row.get("die_at") == step and not died.exists():
            died.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        yield {"step": step, "miou": score * step / row["steps"]}


def meet(row: dict[str, Any], values: dict[str, Any], settings: dict[str, Any]) -> Any:
    """Two trials: the bad one starts late, the good one waits in its midst for a file `freed`."""
    folder, good = Path(settings["folder"]), values["y"] == "good"
    (Path(settings["trial_dir"]) / "weights.pt").touch()
    for step in range(1, row["steps"] + 1):
        while not good and not (folder / "waits").exists():
            time.sleep(0.05)
        yield {"step": step, "miou": 2.0 if good else 1.0}
        if good and step == row["steps"] - 1:
            (folder / "waits").touch()
            while not (folder / "freed").exists():
                time.sleep(0.05)


def gather(row: dict[str, Any], values: dict[str, Any], settings: dict[str, Any]) -> Any:
    """An objective whose score is the sum over its steps of the `x` it had at each."""
    checkpoint = Path(settings["trial_dir"]) / "checkpoint.json"
    state = json.loads(checkpoint.read_text()) if checkpoint.exists() else {"step": 0, "sum": 0.0}
    while state["step"] < row["steps"]:
        time.sleep(0.01)
        state = {"step": state["step"] + 1, "sum": state["sum"] + values["x"]}
        atomic_write(checkpoint, json.dumps(state))
        if state["step"] % row["every"] == 0:
            yield {"step": state["step"], "miou": state["sum"]}
