"""What DVC takes for the inputs of a stage is what the stage reads."""

import json
import subprocess
import sys
from pathlib import Path

import grimp
import pytest
import yaml

ROOT = Path(__file__).parents[1]
MADE = ("data/", "results/")
# Exceptions and ways to write a file: no table looks different for them.
PLUMBING = {
    "ecocseg.errors",
    "ecocseg.files",
    "ecocseg.data.parallel",
}


def output(*command: str) -> str:
    return subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=200
    ).stdout


def test_the_lock_fits_the_code():
    """Else the first `dvc repro` of a fresh clone rewrites it, and who reads it is misled."""
    sources = ("dvc.yaml", "params.yaml", "pipeline", "ecocseg")
    if output("git", "status", "--porcelain", "--", *sources):
        pytest.skip("there are changes that are not committed; `make repro` renews dvc.lock")
    status = json.loads(output(sys.executable, "-m", "dvc", "status", "--json"))
    wrong = []
    for stage, changes in status.items():
        for change in changes:
            if isinstance(change, dict):
                deps = change.get("changed deps", {})
                wrong += [f"{stage}: {dep}" for dep in deps if not dep.startswith(MADE)]
            elif change != "always changed":
                wrong.append(f"{stage}: {change}")
    assert not wrong, f"type `make repro` and commit dvc.lock; it is not of this code: {wrong}"


def test_tables_are_made_again_when_what_makes_them_changes():
    stage = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]["aggregate"]
    graph = grimp.build_graph("pipeline", "ecocseg", cache_dir=None)
    read = {"pipeline.stages.aggregate"} | graph.find_upstream_modules("pipeline.stages.aggregate")
    watched = {Path(dep).with_suffix("").as_posix().replace("/", ".") for dep in stage["deps"]}
    missing = [
        module
        for module in sorted(read - PLUMBING)
        if not any(module == name or module.startswith(f"{name}.") for name in watched)
    ]
    assert not missing
