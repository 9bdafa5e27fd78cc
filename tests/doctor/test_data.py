import json
import shutil
from pathlib import Path

import pytest

from pipeline.doctor import data
from pipeline.doctor.finding import FAULT, OK

CAMERA = "streets_camera"


@pytest.fixture
def camera(project: Path, streets_data: Path) -> Path:
    """A prepared data set of this project's own."""
    target = project / "data/processed" / CAMERA
    return Path(shutil.copytree(streets_data / "processed" / CAMERA, target))


def test_data_is_prepared_unchanged_and_there(params, streets_data: Path) -> None:
    found = list(data.datasets(params(data__root=str(streets_data))))
    assert [(f.state, f.text.partition(":")[0]) for f in found] == [
        (OK, "streets_game"),
        (OK, CAMERA),
    ]


def test_a_changed_manifest_or_a_lost_file_is_a_fault(camera: Path) -> None:
    assert data._examined(camera, CAMERA).state == OK
    image = sorted((camera / "images").rglob("*.*"))[0]
    content = image.read_bytes()
    image.write_bytes(b"")
    found = data._examined(camera, CAMERA)
    assert (found.state, str(image) in found.text) == (FAULT, True)
    image.write_bytes(content)
    file = camera / "dataset.json"
    file.write_text(file.read_text().replace("sidewalk", "pavement"))
    found = data._examined(camera, CAMERA)
    assert found.state == FAULT
    assert "manifest was changed" in found.text
    assert found.remedy.startswith(f"rm -r {camera}")


def test_a_plan_that_was_made_with_other_data_is_a_fault(camera: Path, params, manifests) -> None:
    (none,) = data.plan(params())
    assert none.state == OK
    row = {"run_id": "a", "spec": {"data": {CAMERA: manifests[CAMERA].fingerprint, "x/y.txt": "1"}}}
    plan = Path("results/plan.jsonl")
    plan.parent.mkdir()
    plan.write_text(json.dumps(row))
    assert [f.state for f in data.plan(params())] == [OK]
    row["spec"]["data"][CAMERA] = "0" * 64
    plan.write_text(json.dumps(row))
    (stale,) = data.plan(params())
    assert (stale.state, stale.remedy) == (FAULT, "type `dvc repro plan`")
    # What is finished was done with the data of then.
    Path("results/records").mkdir()
    Path("results/records/a.json").write_text("{}")
    assert [f.state for f in data.plan(params())] == [OK]
    plan.write_text("{")
    assert [f.state for f in data.plan(params())] == [FAULT]
