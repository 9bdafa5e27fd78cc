import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import pipeline  # noqa: F401  (switches usage reporting off before Ray is imported)

HERE = Path(__file__).parent
# Tests, workers and the drivers started below import the modules beside this file by bare name.
sys.path.insert(0, str(HERE))
os.environ["PYTHONPATH"] = os.pathsep.join(
    filter(None, [str(HERE), os.environ.get("PYTHONPATH", "")])
)


@pytest.fixture(scope="package")
def local_ray() -> Iterator[None]:
    """One local Ray for all tests that run in this process: a start takes seconds."""
    from pipeline.cluster.session import ClusterConfig, connect

    # A stale address must not be attached to.
    os.environ["RAY_ADDRESS"] = "127.0.0.1:1"
    try:
        with connect(ClusterConfig(num_cpus=2)):
            yield
    finally:
        del os.environ["RAY_ADDRESS"]


@pytest.fixture
def drive() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Start `drive.py` with arguments; what is left of it afterwards is killed."""
    started: list[subprocess.Popen[str]] = []

    def start(*arguments: object, **environment: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, str(HERE / "drive.py"), *map(str, arguments)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=os.environ | environment,
            start_new_session=True,
            # Tests that were started in the background have Ctrl-C switched off, and a driver
            # would inherit that.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
