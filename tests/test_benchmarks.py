"""Every program of benchmarks/ runs as its docstring says, in small; its times say nothing here.

`chaos.py` has `test_chaos.py`, the simulated grid's promises are in `cluster/test_simulation.py`.
"""

import argparse
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from label_path import code_size

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
# Which arguments make it small, and the first cells of the table's rows that have to come.
CASES = {
    "kernels.py": (
        "--resources --codes 3,4 --types bf16",
        ["3, 4 | bf16 | decode | sm_86", "3, 4 | bf16 | loss, bits | sm_90"],
    ),
    "label_path.py": (
        "--size 8 --batch 1 --runs 1 --codes 5,8",
        ["easy, N=5, K=8 | one-hot | 8", "hard, N=5, K=8 | ours | 8", "hard, N=5, K=8 | direct"],
    ),
    "loading.py": (
        "--images 1 --seconds 0.01 --only gta cityscapes",
        ["gta, 512, passes", "gta, 512, rare classes", "cityscapes", "DAFormer, GTAv to City"],
    ),
    "scale.py": (
        "--runs 20 --gpus 1 --driver-runs 1",
        ["plan 20", "decide what to do 20", "aggregate 20", "1 20", "The driver on a re"],
    ),
    "scale_simulation.py": (
        "--runs 20 --gpus 1 2 --driver-runs 0",
        ["1 20", "2 20"],
    ),
    "tracking.py": (
        "--steps 4",
        ["none (tracking off)", "up", "down", "hanging", "hanging after a third"],
    ),
    "training_step.py dacs": (
        "--device cpu --method dacs --model small --size 64 --steps 1",
        ["one-hot", "ecoc"],
    ),
    "training_step.py mic": (
        "--device cpu --method mic --model small_hrda --size 96 --steps 1 --batch 1",
        ["one-hot", "ecoc"],
    ),
}
TESTED = {"chaos.py"}


def output(name: str, arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    environment |= {"PYTHONPATH": str(BENCHMARKS.parent), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, str(BENCHMARKS / name), *arguments.split()],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.timeout(600)
@pytest.mark.parametrize("case", CASES)
def test_it_runs_and_prints_its_table(case):
    arguments, rows = CASES[case]
    done = output(case.partition(" ")[0], arguments)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    # Tables in Markdown and in columns alike.
    printed = [re.sub(r" {2,}", " ", line).strip("| ") for line in done.stdout.splitlines()]
    for row in rows:
        lines = [line.removeprefix(row) for line in printed if line.startswith(row)]
        assert any(re.search(r"\d", line) for line in lines), (row, done.stdout)


def test_every_program_is_among_them():
    programs = {path.name for path in BENCHMARKS.glob("*.py") if "__main__" in path.read_text()}
    assert programs == {case.partition(" ")[0] for case in CASES} | TESTED


def test_sizes_of_codes_are_classes_and_bits():
    assert code_size("19,40") == (19, 40)
    for text in ("19", "19,40,2", "a,b"):
        with pytest.raises(argparse.ArgumentTypeError, match=f"got '{text}', allowed classes and"):
            code_size(text)
