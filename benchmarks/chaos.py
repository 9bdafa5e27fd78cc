"""A grid under faults: 3 Ray nodes, an MLflow server, `dvc repro`, and everything that can happen.

    python benchmarks/chaos.py --seed 0 [--runs 12] [--faults 100] [--keep FOLDER]

A copy of the project with short runs is trained by `dvc repro train`, typed again whenever it ends,
while workers, nodes, the driver, dvc and the MLflow server are killed or cut off, the disk fills,
checkpoints are truncated, the GPU "runs out of memory" and data files disappear. Kinds, order,
gaps and victims are drawn from the seed; a fault comes earlier where the grid would end before all
have come, later where the grid hardly moves, and one that finds nothing to hit waits while others
come. The table says what must hold; the exit code is 0 only if all of it does.

The full disk is a tmpfs that holds the project where this user may mount one (root), else a limit
on what the training processes may write. Out of memory is raised inside a network by
chaos_plugin/sitecustomize.py. A node is a `ray start` with its workers, all on this machine.
"""

import argparse
import os
import shutil
import signal
import sys
import tempfile
import time
import uuid
from collections import deque
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import chaos_checks as checks
from chaos_faults import Effect, Fault, Injector, draw
from chaos_project import STEPS, Project, Repro
from chaos_services import MARK, Cluster, Disk, Server, marked, signal_all, wait_for

_TICK_S = 0.25
_EARLY = 0.85
"""Share of the grid's progress by which the last fault has come."""
_AHEAD = 0.2
_SHORTEST_GAP_S, _LONGEST_GAP_S, _PATIENCE_S = 1.0, 9.0, 60.0
_COMMANDS = ("driver killed", "dvc killed")
_DISK_MB = 1500


class Storm:
    """The faults that have begun, and those that come."""

    def __init__(self, faults: Sequence[Fault], injector: Injector, say: bool) -> None:
        self.waiting = deque(faults)
        self.count = len(faults)
        self.injector, self.say = injector, say
        self.running: list[Effect] = []
        self.effects: list[Effect] = []
        self.begun = self.last = time.monotonic()

    def tick(self, progress: float) -> None:
        """End what is over, and begin the next fault when its time has come."""
        for effect in [effect for effect in self.running if effect.over()]:
            self.end(effect)
        if self.waiting and self._due(progress):
            self._begin(progress)

    def _due(self, progress: float) -> bool:
        """Whether the next fault comes now: neither before the grid moves nor after its end."""
        since = time.monotonic() - self.last
        pace = _EARLY * (len(self.effects) + 1) / self.count
        moves = progress >= pace - _AHEAD or since >= _LONGEST_GAP_S
        gap = _SHORTEST_GAP_S if progress >= pace else self.waiting[0].gap_s
        return since >= gap and (moves or progress >= pace)

    def _begin(self, progress: float) -> None:
        for fault in list(self.waiting):
            # What finds nothing to hit is overtaken, but by none that would put that off further.
            patient = time.monotonic() - self.last < _PATIENCE_S
            if fault is not self.waiting[0] and fault.kind in _COMMANDS and patient:
                continue
            effect = self.injector.inject(fault)
            if effect is not None:
                break
        else:
            return
        self.waiting.remove(fault)
        self.effects.append(effect)
        self.running.append(effect)
        self.last = time.monotonic()
        if self.say:
            since = self.last - self.begun
            print(f"{since:6.1f} s  {progress:4.0%}  {effect.kind}", flush=True)

    def end(self, effect: Effect) -> None:
        self.running.remove(effect)
        if effect.undo is not None:
            effect.undo()


def run(
    seed: int,
    runs: int,
    faults: int,
    *,
    nodes: int = 3,
    steps: int = STEPS,
    gap_s: float = 4.0,
    folder: Path,
    limit_s: float = 5400,
    say: bool = True,
) -> list[checks.Line]:
    """Let the chaos loose in `folder` (short: Ray's sockets are below it); the closing table.

    Nothing that was started or mounted is left behind, whatever happens.
    """
    mark = uuid.uuid4().hex
    plugin = Path(__file__).with_name("chaos_plugin")
    project_folder = folder / "project"
    environment = os.environ | {
        MARK: mark,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": f"{project_folder}:{plugin}",
        "CHAOS_OUT_OF_MEMORY": str(folder / "out_of_memory"),
        "DVC_SITE_CACHE_DIR": str(folder / "dvc"),
        "OMP_NUM_THREADS": "1",
    }
    with ExitStack() as stack:
        disk = Disk(project_folder, _DISK_MB)
        stack.callback(disk.remove)
        stack.callback(lambda: signal_all(marked(mark), signal.SIGKILL))
        cluster = Cluster(folder / "ray", environment)
        server = Server(folder / "mlflow", environment)
        project = Project(project_folder, environment | _token(cluster))
        project.configure(runs, steps, cluster.address, server.uri)
        repro = Repro(project, folder / "repro.log")
        _say(say, f"{disk.kind}, {folder}: preparing data, {runs} undisturbed runs")
        project.run("dvc", "repro", "plan")
        reference = folder / "reference"
        reference.mkdir()
        project.reference(reference)
        cluster.start(nodes)
        server.start()
        # Some may find nothing to hit.
        drawn = draw(seed, faults + max(2, faults // 10), gap_s)
        storm = Storm(drawn, Injector(project, repro, cluster, server, disk), say)
        watch = checks.Watch(project=project)
        _weather(storm, repro, cluster, watch, runs * steps, limit_s)
        wait_for(server.answers, "the MLflow server")
        if not project.tracked():
            # What runs could not send while the server was away.
            project.start("ecocseg", "grid", log=repro.log).wait(300)
        lines = [*checks.faults_line(storm.effects, faults), *checks.finished_line(project, repro)]
        lines += [checks.once_line(watch), checks.records_line(project, reference)]
        lines += checks.tracking_line(project, server, steps)
        cluster.stop()
        server.stop()
        lines.append(checks.processes_line(mark))
        return lines


def _weather(
    storm: Storm, repro: Repro, cluster: Cluster, watch: checks.Watch, steps: int, limit_s: float
) -> None:
    """Keep the grid going under the faults until every run is finished."""
    project = repro.project
    try:
        while not repro.succeeded:
            repro.keep_going()
            for _ in range(cluster.tidy()):
                cluster.add()
            watch.look()
            statuses = [project.status(row["run_id"]) for row in project.rows()]
            storm.tick(sum(status.get("step", 0) for status in statuses) / steps)
            if time.monotonic() - storm.begun > limit_s:
                print(f"given up after {limit_s:g} s", flush=True)
                break
            time.sleep(_TICK_S)
    finally:
        for effect in list(storm.running):
            storm.end(effect)


def _token(cluster: Cluster) -> dict[str, str]:
    """What commands need to be let into the cluster."""
    return {k: v for k, v in cluster.environment.items() if k.startswith("RAY_AUTH")}


def _say(say: bool, text: str) -> None:
    if say:
        print(text, flush=True)


def table(lines: Sequence[checks.Line]) -> str:
    """The closing table, in Markdown."""
    verdicts = {True: "yes", False: "**NO**", None: ""}
    rows = [f"| {line.condition} | {line.found} | {verdicts[line.holds]} |" for line in lines]
    return "\n".join(["| | found | holds |", "| --- | --- | --- |", *rows])


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--runs", type=int, default=12, help="runs of the grid, in sixes")
    parser.add_argument("--faults", type=int, default=100)
    parser.add_argument("--keep", help="a new folder that is kept, with all logs")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    folder = (
        Path(options.keep) if options.keep else Path(tempfile.mkdtemp(prefix="chaos-", dir="/tmp"))
    )
    folder.mkdir(exist_ok=True)
    begun = time.monotonic()
    try:
        lines = run(options.seed, options.runs, options.faults, folder=folder.absolute())
    finally:
        if not options.keep:
            shutil.rmtree(folder, ignore_errors=True)
    print(f"\nseed {options.seed}, {(time.monotonic() - begun) / 60:.0f} min\n\n{table(lines)}")
    return 1 if any(line.holds is False for line in lines) else 0


if __name__ == "__main__":
    sys.exit(main())
