"""What tracking takes of a training's time, with the server up, down and hanging.

    python benchmarks/tracking.py [--steps 400]

One run of the tiny streets data is trained in this process for each state of a real `mlflow
server`: answering; away (connections are refused); cut off (stopped, so that connections are taken
and nothing is answered) from the start, and from a third of the run on. "In calls" is the time that
the training thread spends in anything of tracking: writing the event log and bringing it to the
disk, spooling pictures and the record, waiting for the server at the end. What the sending thread
takes of the processor beside it, the import of mlflow (once a process) included, stands beside.
"""

import argparse
import os
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import wraps
from pathlib import Path
from typing import Any

import torch
from chaos_project import OVERRIDES, Project
from chaos_services import Server, free_port, wait_for

from pipeline.runner.run import execute_run
from pipeline.store.events import EventLog
from pipeline.tracking import RunTracker, TrackingConfig, prepare_store

_CALLS: tuple[tuple[type, tuple[str, ...]], ...] = (
    (RunTracker, ("__init__", "sync", "artifact", "document", "record", "finish")),
    (EventLog, ("append", "flush")),
)


class Clock:
    """Time that the training thread spends in tracking, and the longest call."""

    def __init__(self) -> None:
        self.thread = threading.get_ident()
        self.seconds = self.longest = 0.0
        self.calls = 0
        self._inside = False

    @contextmanager
    def attached(self) -> Iterator[None]:
        originals = [(kind, name, getattr(kind, name)) for kind, names in _CALLS for name in names]
        for kind, name, original in originals:
            setattr(kind, name, self._timed(original))
        try:
            yield
        finally:
            for kind, name, original in originals:
                setattr(kind, name, original)

    def _timed(self, original: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(original)
        def call(*args: Any, **options: Any) -> Any:
            if self._inside or threading.get_ident() != self.thread:
                return original(*args, **options)
            self._inside, begun = True, time.perf_counter()
            try:
                return original(*args, **options)
            finally:
                spent = time.perf_counter() - begun
                self._inside = False
                self.calls += 1
                self.seconds += spent
                self.longest = max(self.longest, spent)

        return call


def measure(
    row: dict[str, Any], project: Project, results: Path, uri: str | None
) -> tuple[float, str]:
    """Train `row` with tracking to `uri` (None: off); its seconds, and a row of the table."""
    settings = {
        "data_root": str(project.folder / "data"),
        "results": str(results),
        "device": "cpu",
        "git": "none",
        "tracking": {"enabled": uri is not None, "uri": uri, "folder": str(results)},
    }
    clock = Clock()
    begun, process, own = time.perf_counter(), time.process_time(), time.thread_time()
    with clock.attached():
        execute_run(row, settings)
    wall = time.perf_counter() - begun
    beside = (time.process_time() - process) - (time.thread_time() - own)
    return wall, (
        f"{wall:.1f} s | {clock.seconds:.2f} s | {100 * clock.seconds / wall:.2f} % | "
        f"{1000 * clock.longest:.0f} ms | {clock.calls} | {beside:.1f} s"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=400)
    options = parser.parse_args()
    torch.set_num_threads(1)
    folder = Path(tempfile.mkdtemp(prefix="tracking-"))
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        (folder / "project").mkdir()
        environment = os.environ | {
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "PYTHONPATH": str(folder / "project"),
        }
        server = Server(folder / "mlflow", environment)
        project = Project(folder / "project", environment)
        # Curves, evaluations and checkpoints as often as the default experiments have them.
        small = [text for text in OVERRIDES if "_every=" not in text]
        project.configure(1, options.steps, "local", server.uri, small)
        project.run("dvc", "repro", "plan")
        (row,) = project.rows()
        server.start()
        stack.callback(server.kill)
        wait_for(server.answers, "the MLflow server")
        prepare_store(TrackingConfig(uri=server.uri), ["chaos"])

        print("| server | training | in calls | share | longest | calls | sending thread, CPU |")
        print("| --- | ---: | ---: | ---: | ---: | ---: | ---: |")

        def show(state: str, uri: str | None) -> float:
            wall, text = measure(row, project, folder / state.replace(" ", "_"), uri)
            print(f"| {state} | {text} |", flush=True)
            return wall

        # Imports and caches of the first run are nobody's.
        measure(row, project, folder / "warm", None)
        show("none (tracking off)", None)
        wall = show("up", server.uri)
        show("down", f"http://127.0.0.1:{free_port()}")
        server.hold()
        show("hanging", server.uri)
        server.go_on()
        later = threading.Timer(wall / 3, server.hold)
        later.start()
        show("hanging after a third", server.uri)
        later.cancel()


if __name__ == "__main__":
    main()
