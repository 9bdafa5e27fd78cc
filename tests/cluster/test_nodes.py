import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path


def test_a_run_whose_node_is_removed_goes_on_on_another_node(
    tmp_path: Path, drive: Callable[..., subprocess.Popen[str]]
) -> None:
    # Ray's sockets do not fit below pytest's long temporary path.
    with tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp") as short:
        process = drive("nodes", tmp_path, RAY_TMPDIR=short)
        output, _ = process.communicate()
    assert process.returncode == 0, output
    assert "nodes 2" in output
    assert "finished ['run0', 'run1'] failed {}" in output
    assert "retries {'run" in output
    assert "Raylet is terminated" not in output
    steps = {
        folder.name: [line.split() for line in (folder / "executed.log").read_text().splitlines()]
        for folder in (tmp_path / "runs").iterdir()
    }
    for lines in steps.values():
        # At most the step between log and checkpoint was executed twice.
        assert {int(step) for step, _ in lines} == set(range(1, 26))
        assert len(lines) <= 26
    # The lost run by two processes, the other one by one.
    assert sorted(len({pid for _, pid in lines}) for lines in steps.values()) == [1, 2]


def test_a_run_waits_for_its_kind_of_node_and_nodes_that_join_are_used(
    tmp_path: Path, drive: Callable[..., subprocess.Popen[str]]
) -> None:
    with tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp") as short:
        process = drive("replace", tmp_path, RAY_TMPDIR=short)
        output, _ = process.communicate()
    assert process.returncode == 0, output
    lines = [line for line in output.splitlines() if line.startswith(("active", "notice", "fin"))]
    assert lines[0] == "active ['run0', 'run1']"
    assert lines[1].startswith("notice 1 runs wait 1"), output
    assert "for a node to come back: asked for 1 CPU, label kind=special" in lines[1]
    assert lines[2:] == [
        "active ['run0', 'run1', 'run2']",
        "finished ['run0', 'run1', 'run2'] failed {}",
    ], output
