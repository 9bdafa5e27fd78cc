"""What the chaos happens to: a Ray cluster, an MLflow server and a disk, each of real processes.

Every process that is started carries a mark in its environment, so that none can be overlooked.
"""

import os
import secrets
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import psutil

from pipeline.tracking import TrackingConfig, prepare_store, ui_command

MARK = "ECOCSEG_CHAOS"
_CPUS_PER_NODE = 1
_OBJECT_STORE = 80 << 20


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for(condition: Callable[[], object], what: str, seconds: float = 180) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise RuntimeError(f"{what}: not within {seconds:g} s")
        time.sleep(0.1)


def marked(mark: str) -> list[psutil.Process]:
    """All living processes that carry `mark`, but this one."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            alive = process.status() != psutil.STATUS_ZOMBIE
            if alive and process.pid != os.getpid() and process.environ().get(MARK) == mark:
                found.append(process)
    return found


def signal_all(processes: Sequence[psutil.Process], number: int) -> None:
    for process in processes:
        with suppress(psutil.Error):
            process.send_signal(number)


def family(process: subprocess.Popen[bytes]) -> list[psutil.Process]:
    """A process with all that descend from it."""
    try:
        parent = psutil.Process(process.pid)
        return [parent, *parent.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


class Cluster:
    """Ray nodes as `ray start` makes them, one after the other, on ports of their own."""

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        self.folder = folder
        self.port = free_port()
        self.address = f"127.0.0.1:{self.port}"
        self.nodes: list[subprocess.Popen[bytes]] = []
        # A node that does not answer for some seconds counts as lost; Ray's own half minute would
        # let the program last.
        self.environment = environment | {
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": secrets.token_hex(32),
            "RAY_health_check_period_ms": "2000",
            "RAY_health_check_timeout_ms": "5000",
            "RAY_health_check_failure_threshold": "3",
        }

    def start(self, nodes: int) -> None:
        """Start a head and the other nodes; returns when the head answers."""
        head = [f"--port={self.port}", "--include-dashboard=false", f"--temp-dir={self.folder}"]
        self.head = self._launch("--head", *head)
        wait_for(self._answers, f"the head of the cluster, see {self.folder}")
        for _ in range(nodes - 1):
            self.add()

    def add(self) -> None:
        """Have another node join; it is there some seconds later."""
        self.nodes.append(self._launch(f"--address={self.address}"))

    def kill(self, place: int) -> None:
        """Cut the power of a node that is not the head."""
        node = self.nodes.pop(place)
        signal_all(family(node), signal.SIGKILL)
        node.wait()

    def tidy(self) -> int:
        """Forget nodes that have ended by themselves, as one that was declared dead does."""
        gone = [node for node in self.nodes if node.poll() is not None]
        self.nodes = [node for node in self.nodes if node.poll() is None]
        return len(gone)

    def stop(self) -> None:
        """End all nodes as `ray stop` would."""
        for node in [*self.nodes, self.head]:
            with suppress(subprocess.TimeoutExpired):
                node.terminate()
                node.wait(30)

    def _launch(self, *options: str) -> subprocess.Popen[bytes]:
        command = [
            str(Path(sys.executable).with_name("ray")),
            "start",
            "--block",
            "--disable-usage-stats",
            "--node-ip-address=127.0.0.1",
            f"--num-cpus={_CPUS_PER_NODE}",
            "--num-gpus=0",
            f"--object-store-memory={_OBJECT_STORE}",
            "--min-worker-port=0",
            "--max-worker-port=0",
            *options,
        ]
        with (self.folder.parent / "ray.log").open("ab") as log:
            return subprocess.Popen(
                command, env=self.environment, stdout=log, stderr=log, start_new_session=True
            )

    def _answers(self) -> bool:
        if self.head.poll() is not None:
            raise RuntimeError((self.folder.parent / "ray.log").read_text()[-2000:])
        with suppress(OSError):
            socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
            return True
        return False


class Server:
    """`mlflow server` on a SQLite store, with two workers."""

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        self.store = TrackingConfig(folder=str(folder))
        self.environment = environment
        self.port = free_port()
        self.uri = f"http://127.0.0.1:{self.port}"
        self.log = folder.with_suffix(".log")
        self.process: subprocess.Popen[bytes] | None = None
        self.stopped = False
        if (problem := prepare_store(self.store, [])) is not None:
            raise RuntimeError(problem)

    def start(self) -> None:
        """Start it; it answers some seconds later."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                ui_command(self.store, port=self.port),
                env=self.environment,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def kill(self) -> None:
        if self.process is not None:
            signal_all(family(self.process), signal.SIGKILL)
            self.process.wait()
            self.process, self.stopped = None, False

    def hold(self) -> None:
        """Cut it off: connections are taken, and nothing is answered."""
        assert self.process is not None
        signal_all(family(self.process), signal.SIGSTOP)
        self.stopped = True

    def go_on(self) -> None:
        if self.process is not None:
            signal_all(family(self.process), signal.SIGCONT)
        self.stopped = False

    def answers(self) -> bool:
        if self.process is None or self.stopped:
            return False
        with suppress(OSError), urllib.request.urlopen(f"{self.uri}/health", timeout=2) as answer:
            return bool(answer.status == 200)
        return False

    def stop(self) -> None:
        if self.process is not None:
            self.process.terminate()
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(30)


class Disk:
    """A folder that can become full: a small file system where this user may mount one.

    Elsewhere `fill` limits the size of the files that the given processes may write instead, which
    the system refuses in the same way.
    """

    def __init__(self, folder: Path, megabytes: int) -> None:
        self.folder = folder
        folder.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "chaos", str(folder)]
        done = subprocess.run(command, capture_output=True)
        self.mounted = done.returncode == 0
        self.kind = f"a tmpfs of {megabytes} MB" if self.mounted else "a limit on the size of files"

    def fill(self, processes: Sequence[psutil.Process]) -> None:
        if not self.mounted:
            for process in processes:
                with suppress(psutil.Error):
                    process.rlimit(psutil.RLIMIT_FSIZE, (2000, psutil.RLIM_INFINITY))
            return
        with self._filler.open("ab", buffering=0) as file:
            for size in (1 << 20, 1 << 12):
                with suppress(OSError):
                    while True:
                        file.write(bytes(size))

    def free(self, processes: Sequence[psutil.Process]) -> None:
        self._filler.unlink(missing_ok=True)
        if not self.mounted:
            for process in processes:
                with suppress(psutil.Error):
                    process.rlimit(psutil.RLIMIT_FSIZE, (psutil.RLIM_INFINITY,) * 2)

    def remove(self) -> None:
        if self.mounted:
            subprocess.run(["umount", "--lazy", str(self.folder)], check=True)

    @property
    def _filler(self) -> Path:
        return self.folder / "filler"
