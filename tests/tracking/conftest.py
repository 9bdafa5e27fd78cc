"""Fixtures: a store of the test's own, and one server for the whole session."""

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from tracking_support import Server, track_small_run

from pipeline.tracking import TrackingConfig, prepare_store


@pytest.fixture(scope="session")
def server(tmp_path_factory) -> Iterator[Server]:
    """The server, over a store whose folder was moved after `moved_run` was tracked into it."""
    first = tmp_path_factory.mktemp("first")
    store = TrackingConfig(folder=str(first / "mlflow"), system_every_s=0)
    assert prepare_store(store, {"moved": "was elsewhere"}) is None
    track_small_run(store, first / "runs" / "moved_run", "moved_run", "moved")
    second = tmp_path_factory.mktemp("second") / "copied"
    shutil.copytree(first, second)
    shutil.rmtree(first)
    moved = TrackingConfig(folder=str(second / "mlflow"), system_every_s=0)
    server = Server(moved, second / "server.log")
    try:
        server.start()
        yield server
    finally:
        server.kill()


@pytest.fixture
def served(server: Server) -> TrackingConfig:
    """A configuration that tracks to the server."""
    return TrackingConfig(uri=server.uri, system_every_s=0)


@pytest.fixture
def local(tmp_path: Path) -> TrackingConfig:
    """A configuration with a SQLite store of the test's own."""
    return TrackingConfig(folder=str(tmp_path / "mlflow"), system_every_s=0)
