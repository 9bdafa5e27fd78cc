import subprocess
import sys
from typing import Any

import pytest

from ecocseg.errors import ConfigError
from pipeline.cluster.session import ClusterConfig

CHECK = """
import sys
import pipeline
from ecocseg.errors import UserError
from pipeline.cluster.session import ClusterConfig, connect
try:
    with connect(ClusterConfig(address=sys.argv[1])):
        pass
except UserError as error:
    print(error)
"""


@pytest.mark.parametrize(
    "field, value",
    [
        ("address", "here"),
        ("address", "ray://head:10001"),
        ("num_cpus", 0),
        ("object_store_mb", 10),
    ],
)
def test_bad_values_are_refused_by_name(field: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=rf"^cluster\.{field}: got {value!r}"):
        ClusterConfig(**{field: value})


@pytest.mark.parametrize("address", ["127.0.0.1:1", "127.0.0.1:head"])
def test_no_cluster_to_join_is_told_in_words(address: str) -> None:
    answer = subprocess.run(
        [sys.executable, "-c", CHECK, address], capture_output=True, text=True, check=True
    )
    assert f"cluster.address: no usable Ray cluster at '{address}'" in answer.stdout
    assert "ray start --head" in answer.stdout


LOST_HEAD = """
import socket, threading, time
from pipeline.cluster import head
head._POLL_S, head._SILENT_S = 0.1, 1.0
server = socket.create_server(("127.0.0.1", 0))
head.watch_head(f"127.0.0.1:{server.getsockname()[1]}", threading.Event())
time.sleep(2)
print("still here", flush=True)
server.close()
time.sleep(60)
"""


def test_a_head_that_is_lost_ends_the_command_in_words() -> None:
    ended = subprocess.run([sys.executable, "-c", LOST_HEAD], capture_output=True, text=True)
    assert ended.returncode == 1
    assert ended.stdout == "still here\n"
    assert "has not answered for 1 s; start it and its nodes again" in ended.stderr
