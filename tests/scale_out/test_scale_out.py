"""The README's "Scale out" as it stands there; `python -m pytest -m slow tests/scale_out`."""

import importlib.util
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import yaml

SCRIPT = Path(__file__).with_name("run.py")
ROOT = SCRIPT.parents[2]


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("scale_out_run", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_section_has_the_blocks_that_the_script_runs(script):
    blocks = script.blocks((ROOT / "README.md").read_text())
    begins = ("export HEAD=", "mkdir -p $SERVICES", "ray get-auth-token", "ray start --address=")
    begins += ("cluster:", "ecocseg doctor", "ray stop")
    assert [b.startswith(begin) for b, begin in zip(blocks, begins, strict=True)] == [True] * 7


def test_the_example_for_ray_up_fits_rays_own_schema():
    from ray.autoscaler._private.util import prepare_config, validate_config

    example = yaml.safe_load((ROOT / "pipeline/cluster/ray_up.yaml").read_text())
    validate_config(prepare_config(example))
    workers = example["provider"]["worker_ips"]
    assert example["min_workers"] == example["max_workers"] == len(workers)
    starts = [example[f"{kind}_start_ray_commands"][-1] for kind in ("head", "worker")]
    readme = (ROOT / "README.md").read_text()
    for command in starts:
        for option in re.findall(
            r"--(?:port|address|num-cpus|object-store-memory|labels)\b", command
        ):
            assert option in readme.partition("### Scale out")[2]
    with pytest.raises(Exception, match=r"was unexpected"):
        validate_config(prepare_config({**example, "worker_count": 2}))


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_the_commands_run_as_they_stand_in_the_readme(script):
    if lacking := script.missing():
        pytest.skip("the README has people install: " + "; ".join(lacking))
    # Short for Ray's sockets, and open to PostgreSQL's user; pytest's own folders are neither.
    with tempfile.TemporaryDirectory(prefix="scale-", ignore_cleanup_errors=True) as folder:
        Path(folder).chmod(0o755)
        command = [sys.executable, SCRIPT, "--work", f"{folder}/work"]
        done = subprocess.run(command, capture_output=True, text=True)
        log = Path(f"{folder}/work/log.txt").read_text()[-5000:]
    assert done.returncode == 0, done.stdout + done.stderr + log
    found = json.loads(done.stdout[done.stdout.index("{\n") :])
    assert len(found["records"]) == 4
    assert found["stored_records"] == found["records"]
    # No point is missing, and none is there twice.
    curve = {"status": "FINISHED", "steps": [10, 20, 30, 40, 50, 60]}
    assert found["tracked"] == [curve] * 4
    # The run of the machine that was lost went on elsewhere.
    assert max(found["attempts"].values()) == 2
    assert found["artifacts"] >= 4
    assert found["left_over"] == []
    if found["isolated"]:
        assert found["weights_on_the_head"] == 0
