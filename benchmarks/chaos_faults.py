"""The faults: drawn from a seed, done to a running grid, each with the evidence that it hit."""

import os
import random
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil
from chaos_project import Project, Repro
from chaos_services import Cluster, Disk, Server, family, signal_all

KINDS = {
    "worker killed": 20,
    "node killed, another joins": 8,
    "node cut off": 5,
    "driver killed": 8,
    "dvc killed": 8,
    "MLflow server killed": 10,
    "MLflow server cut off": 12,
    "disk full": 6,
    "checkpoint truncated": 12,
    "GPU out of memory": 6,
    "data file gone": 5,
}
"""What happens, and how often in about a hundred."""
_FULL = ("disk is full", "are needed and", "No space left", "File too large")


@dataclass(frozen=True, kw_only=True)
class Fault:
    """One entry of the schedule; `choice` and `length` are shares from 0 to 1."""

    kind: str
    gap_s: float
    """Time after the fault before."""
    choice: float
    length: float


def draw(seed: int, count: int, mean_gap_s: float) -> list[Fault]:
    """`count` faults in their order: each kind by its weight, at least once where there is room."""
    dice = random.Random(seed)
    total = sum(KINDS.values())
    kinds = [kind for kind in KINDS for _ in range(max(1, round(count * KINDS[kind] / total)))]
    dice.shuffle(kinds)
    kinds = (kinds + dice.choices(list(KINDS), list(KINDS.values()), k=count))[:count]
    return [
        Fault(
            kind=kind,
            gap_s=dice.uniform(0.2, 2 * mean_gap_s - 0.2),
            choice=dice.random(),
            length=dice.random(),
        )
        for kind in kinds
    ]


@dataclass(kw_only=True)
class Effect:
    """A fault that has begun: over at `until` (or once `seen` says that it hit), then undone."""

    kind: str
    until: float = 0.0
    hit: bool = True
    seen: Callable[[], bool] | None = None
    undo: Callable[[], object] | None = None

    def over(self) -> bool:
        if self.seen is not None and not self.hit:
            self.hit = self.seen()
            return self.hit or time.monotonic() >= self.until
        return time.monotonic() >= self.until


class Injector:
    """Does the faults; a method returns None while there is nothing that its fault could hit."""

    def __init__(
        self, project: Project, repro: Repro, cluster: Cluster, server: Server, disk: Disk
    ) -> None:
        self.project, self.repro, self.cluster = project, repro, cluster
        self.server, self.disk = server, disk

    def inject(self, fault: Fault) -> Effect | None:
        actions = {
            "worker killed": self._worker,
            "node killed, another joins": self._node,
            "node cut off": self._node_cut_off,
            "driver killed": self._driver,
            "dvc killed": self._dvc,
            "MLflow server killed": self._server,
            "MLflow server cut off": self._server_cut_off,
            "disk full": self._disk,
            "checkpoint truncated": self._checkpoint,
            "GPU out of memory": self._memory,
            "data file gone": self._data,
        }
        return actions[fault.kind](fault)

    def _worker(self, fault: Fault) -> Effect | None:
        workers = sorted(self.project.workers().items())
        if not workers:
            return None
        _, process = workers[int(fault.choice * len(workers))]
        return Effect(kind=fault.kind) if _kill(process) else None

    def _node(self, fault: Fault) -> Effect | None:
        if not self.cluster.nodes or not self.project.workers():
            return None
        self.cluster.kill(int(fault.choice * len(self.cluster.nodes)))
        return Effect(kind=fault.kind, until=_later(8 * fault.length), undo=self.cluster.add)

    def _node_cut_off(self, fault: Fault) -> Effect | None:
        """Stopped for a moment, or for so long that it counts as lost and must find that out."""
        if not self.cluster.nodes or not self.project.workers():
            return None
        node = self.cluster.nodes[int(fault.choice * len(self.cluster.nodes))]
        processes = family(node)
        signal_all(processes, signal.SIGSTOP)
        return Effect(
            kind=fault.kind,
            until=_later(2 + 28 * fault.length),
            undo=lambda: signal_all(processes, signal.SIGCONT),
        )

    def _driver(self, fault: Fault) -> Effect | None:
        driver = self.repro.driver()
        return Effect(kind=fault.kind) if driver is not None and _kill(driver) else None

    def _dvc(self, fault: Fault) -> Effect | None:
        process = self.repro.process
        if process is None or process.poll() is not None:
            return None
        process.kill()
        process.wait()
        return Effect(kind=fault.kind)

    def _server(self, fault: Fault) -> Effect | None:
        if not self.server.answers():
            return None
        self.server.kill()
        return Effect(kind=fault.kind, until=_later(10 * fault.length), undo=self.server.start)

    def _server_cut_off(self, fault: Fault) -> Effect | None:
        if not self.server.answers():
            return None
        self.server.hold()
        return Effect(kind=fault.kind, until=_later(2 + 20 * fault.length), undo=self.server.go_on)

    def _disk(self, fault: Fault) -> Effect | None:
        workers = list(self.project.workers().values())
        if not workers:
            return None
        said = self._saying(_FULL)
        self.disk.fill(workers)
        return Effect(
            kind=fault.kind,
            until=_later(60),
            hit=False,
            seen=said,
            undo=lambda: self.disk.free(workers),
        )

    def _checkpoint(self, fault: Fault) -> Effect | None:
        """Of a run that is killed first, so that it is read before it is replaced."""
        found = [
            (run_id, process)
            for run_id, process in sorted(self.project.workers().items())
            if (self.project.run_folder(run_id) / "last.pt").is_file()
        ]
        if not found:
            return None
        run_id, process = found[int(fault.choice * len(found))]
        folder = self.project.run_folder(run_id)
        if not _kill(process) or self.project.record(run_id).exists():
            return None
        # One in four loses the checkpoint before as well.
        names = ["last.pt", "previous.pt"] if fault.length < 0.25 else ["last.pt"]
        try:
            number = (folder / "last.pt").stat().st_ino
            for path in (folder / name for name in names):
                if path.exists():
                    os.truncate(path, int(fault.length * path.stat().st_size))
        except FileNotFoundError:
            return None
        aside = folder / "last.pt.unreadable"
        return Effect(
            kind=fault.kind,
            until=_later(150),
            hit=False,
            seen=lambda: aside.exists() and aside.stat().st_ino == number,
        )

    def _memory(self, fault: Fault) -> Effect | None:
        if not self.project.workers():
            return None
        order = Path(self.project.environment["CHAOS_OUT_OF_MEMORY"])
        order.touch()
        return Effect(
            kind=fault.kind,
            until=_later(90),
            hit=False,
            seen=lambda: not order.exists(),
            undo=lambda: order.unlink(missing_ok=True),
        )

    def _data(self, fault: Fault) -> Effect | None:
        """A prepared image is moved away, and back once somebody has missed it."""
        images = sorted((self.project.folder / "data/processed").glob("*/images/train/**/*.*"))
        if not self.project.workers() or not images:
            return None
        image = images[int(fault.choice * len(images))]
        hidden = self.project.folder / "hidden" / image.name
        hidden.parent.mkdir(exist_ok=True)
        said = self._saying([image.name])
        os.replace(image, hidden)

        def back() -> None:
            if not image.exists():
                hidden.rename(image)

        return Effect(
            kind=fault.kind,
            until=_later(60),
            hit=False,
            # `dvc repro` prepares anew what is missing.
            seen=lambda: said() or image.exists(),
            undo=back,
        )

    def _saying(self, words: Sequence[str]) -> Callable[[], bool]:
        """Whether from now on a command, or a run's status, says one of `words`."""
        place, before = len(self.repro.text()), self._messages()

        def said() -> bool:
            texts = [self.repro.text()[place:], *(m for *_, m in self._messages() - before)]
            return any(word in text for text in texts for word in words)

        return said

    def _messages(self) -> set[tuple[str, float, str]]:
        """(run id, time, why it failed) of the runs that have failed at this moment."""
        found = set()
        for row in self.project.rows():
            status = self.project.status(row["run_id"])
            if status.get("state") == "failed":
                found.add((row["run_id"], status["updated"], status["message"]))
        return found


def _kill(process: psutil.Process) -> bool:
    try:
        process.kill()
        process.wait(10)
    except psutil.NoSuchProcess:
        return False
    except psutil.TimeoutExpired:
        # Ended, and not yet noticed by its parent.
        return True
    return True


def _later(seconds: float) -> float:
    return time.monotonic() + seconds
