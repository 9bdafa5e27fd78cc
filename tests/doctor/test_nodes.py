import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest

from ecocseg.errors import UserError
from pipeline.cluster.resources import Node
from pipeline.cluster.survey import Answer, Question, ask
from pipeline.doctor.cluster import _Ours, _placed, _wrong
from pipeline.doctor.finding import FAULT, OK, WARNING

OURS = _Ours(
    versions={"torch": "2.15.0", "ray": "2.60.0"},
    git="a" * 40,
    datasets={"game": "1", "camera": None},
    python="3.11.7",
)
NODE = Node(id="n", name="box", cpus=4.0, gpus=1, labels={"gpu-memory-gb": "25.8"})
GOOD = Answer(
    entry={},
    versions=dict(OURS.versions),
    git=OURS.git,
    datasets={"game": "1", "camera": None},
    python="3.11.2",
    clock_s=1.9,
)
CARD = {"index": 0, "memory_gb": 25.8, "used_gb": 20.0, "holders": ["process 7 (x) 20.0 GB"]}


def test_a_node_like_ours_has_nothing_wrong() -> None:
    assert list(_wrong(NODE, GOOD, OURS)) == []


@pytest.mark.parametrize(
    ("changes", "state", "words"),
    [
        ({"problem": "does not answer"}, FAULT, "does not answer"),
        ({"results": "/r is another folder"}, FAULT, "/r is another folder"),
        ({"datasets": {}}, FAULT, "the data set game is not there"),
        ({"datasets": {"game": "2"}}, FAULT, "the data set game is another one"),
        ({"clock_s": -2.5}, WARNING, "2.5 s behind"),
        ({"versions": {"torch": "2.15.0", "ray": None}}, FAULT, "ray None instead of 2.60.0"),
        ({"python": "3.12.1"}, FAULT, "Python 3.12.1 instead of 3.11.7"),
        ({"git": "b" * 40 + "+changes"}, FAULT, "bbbbbbbbbb with changes, here it is aaaaaaaaaa"),
        ({"tracking": "refused"}, WARNING, "does not reach the MLflow server (refused)"),
        ({"cards": [CARD]}, WARNING, "held by process 7"),
    ],
)
def test_what_differs_on_a_node_is_one_line_with_its_remedy(changes, state, words) -> None:
    (finding,) = _wrong(NODE, replace(GOOD, **changes), OURS)
    assert finding.state == state
    assert finding.text.startswith("box: ")
    assert words in finding.text
    assert finding.remedy


def test_a_clock_is_as_right_as_it_was_measured() -> None:
    slow = replace(GOOD, clock_s=4.0, clock_error_s=3.0)
    assert list(_wrong(NODE, slow, OURS)) == []


def test_a_gpu_without_a_label_is_told(params) -> None:
    (finding,) = _wrong(replace(NODE, labels={}), GOOD, OURS)
    assert (finding.state, "ecocseg labels" in finding.remedy) == (WARNING, True)


def test_runs_that_no_node_can_take_are_listed_by_reason(params) -> None:
    needs = {"gpus": 1, "gpu_memory_gb": 20.0, "cpus": 2, "memory_gb": 1.0}
    rows = [{"run_id": f"run{i}", "spec": {"data": {}}, "needs": needs} for i in range(5)]
    rows[0]["needs"] = needs | {"gpu_memory_gb": 60.0}
    Path("results").mkdir()
    Path("results/plan.jsonl").write_text("\n".join(map(json.dumps, rows)))
    node = replace(NODE, memory_mb=8000.0)
    (finding,) = _placed(params(), [node])
    assert finding.state == FAULT
    assert finding.text.startswith("1 of 5 runs to do (run0): asked for 2 CPU, 1 GPU with 60.0 GB")
    assert finding.text.endswith("gpu-memory-gb=25.8"), finding.text
    assert finding.remedy.startswith("set schedule.activation_checkpointing=true")
    assert [f.state for f in _placed(params(), [replace(node, labels={})])] == [OK]
    # On a CPU what would lie on the card lies in host memory.
    assert {f.state for f in _placed(params(cluster__device="cpu"), [node])} == {FAULT}


def test_no_cluster_is_told_at_once(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    question = Question(address=f"127.0.0.1:{port}", results=str(tmp_path), data_root="/")
    with pytest.raises(UserError, match=rf"no usable Ray cluster at '127.0.0.1:{port}'"):
        ask(question)


CLUSTER = """
import sys, time
import pipeline
from ray.cluster_utils import Cluster
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
cluster.add_node(num_cpus=2, labels={"gpu": "rtx3090"})
print(cluster.address, flush=True)
sys.stdin.read()
cluster.shutdown()
"""


def test_every_node_of_a_real_cluster_answers(tmp_path: Path, streets_data: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp") as short:
        process = subprocess.Popen(
            [sys.executable, "-c", CLUSTER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"RAY_TMPDIR": short},
            start_new_session=True,
        )
        try:
            address = process.stdout.readline().strip()
            assert ":" in address
            results = tmp_path / "results"
            answers = ask(
                Question(
                    address=address,
                    results=str(results),
                    data_root=str(streets_data),
                    datasets=["streets_game", "none"],
                    tracking="http://127.0.0.1:9",
                )
            )
        finally:
            process.stdin.close()
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
    assert sorted(answer.entry["Resources"]["CPU"] for answer in answers) == [1, 2]
    assert sum(answer.entry["Labels"].get("gpu") == "rtx3090" for answer in answers) == 1
    for answer in answers:
        assert (answer.problem, answer.results) == ("", "")
        assert answer.host == os.uname().nodename
        assert abs(answer.clock_s) <= 0.1 + answer.clock_error_s
        assert answer.datasets["none"] is None
        assert answer.datasets["streets_game"]
        assert answer.tracking
    # The probes are gone again.
    assert list(results.iterdir()) == []
