"""The boundaries of the house, and that the guard that watches them bites."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
VIOLATIONS = {
    "ray in the core": ("ecocseg/metrics.py", "import ray\n"),
    "the pipeline in the core": ("ecocseg/engine/fit.py", "import pipeline.config.params\n"),
    "mlflow outside tracking": ("pipeline/runner/run.py", "import mlflow\n"),
    "ray outside cluster": ("pipeline/runner/run.py", "import ray\n"),
    "hydra outside compose": ("pipeline/planning/plan.py", "from omegaconf import OmegaConf\n"),
    "an import upwards": ("pipeline/store/status.py", "import pipeline.planning.plan\n"),
    "torch where runs are watched": ("pipeline/monitor/logs.py", "import torch\n"),
    "a service in the report": ("pipeline/report/scores.py", "import pipeline.tracking.store\n"),
}


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """A copy of the two packages, to plant violations in."""
    copy = tmp_path_factory.mktemp("tree")
    for package in ("ecocseg", "pipeline"):
        ignore = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / package, copy / package, ignore=ignore)
    shutil.copy(ROOT / "pyproject.toml", copy)
    return copy


def lint(tree):
    # The folder of the copy comes first on the path, before the installed packages.
    code = "import sys; sys.path.insert(0, '.'); from importlinter.cli import lint_imports_command"
    return subprocess.run(
        [sys.executable, "-c", f"{code}; lint_imports_command(['--no-cache'])"],
        cwd=tree,
        capture_output=True,
        text=True,
    )


def test_the_tree_as_it_is_keeps_every_contract(tree):
    found = lint(tree)
    assert found.returncode == 0, found.stdout + found.stderr
    assert "0 broken" in found.stdout


@pytest.mark.parametrize("name", VIOLATIONS)
def test_a_planted_violation_fails(tree, name):
    path, line = VIOLATIONS[name]
    before = (tree / path).read_text()
    (tree / path).write_text(before + line)
    try:
        found = lint(tree)
    finally:
        (tree / path).write_text(before)
    assert found.returncode == 1, found.stdout + found.stderr
    assert "BROKEN" in found.stdout
    assert str(Path(path).stem) in found.stdout
