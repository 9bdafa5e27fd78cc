import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import raw_trees

from ecocseg.data.manifest import load_manifest, read_fingerprint
from ecocseg.data.prepare import is_prepared, prepare
from ecocseg.errors import DataError, UserError
from ecocseg.files import sha256_file


def contents(folder):
    return {
        path.relative_to(folder).as_posix(): sha256_file(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture
def streets(tmp_path):
    raw_trees.cityscapes(tmp_path / "raw", {"train": 5, "val": 3})
    return tmp_path / "raw"


def test_a_finished_preparation_is_kept_and_a_changed_one_is_done_anew(streets, tmp_path):
    out = tmp_path / "out"
    config = raw_trees.config("cityscapes")
    prepare(config, streets, out, source="1")
    times = {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file()}
    prepare(config, streets, out, source="1")
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file()} == times
    assert is_prepared(config, out, "1")
    assert not is_prepared(config, out, "2")
    smaller = raw_trees.config("cityscapes", size=[12, 16], splits={"val": {"evaluate": True}})
    assert not is_prepared(smaller, out, "1")
    manifest = prepare(smaller, streets, out, source="1")
    assert manifest.splits == {"val": 3}
    assert not (out / "images/train").exists()
    assert not (out / "overlay_train.png").exists()


def test_data_prepared_by_an_earlier_version_is_prepared_again(streets, tmp_path):
    out = tmp_path / "out"
    config = raw_trees.config("cityscapes")
    manifest = prepare(config, streets, out)
    path = out / "dataset.json"
    path.write_text(path.read_text().replace('"schema": 3', '"schema": 2'))
    assert not is_prepared(config, out)
    for read in (load_manifest, read_fingerprint):
        with pytest.raises(DataError, match=r"of schema 3.*run the stages fetch and preprocess"):
            read(out)
    assert prepare(config, streets, out).fingerprint == manifest.fingerprint


def test_only_missing_files_are_made_again(streets, tmp_path):
    out = tmp_path / "out"
    config = raw_trees.config("cityscapes", size=[12, 16])
    manifest = prepare(config, streets, out)
    whole = contents(out)
    row = manifest.rows("train")[2]
    row.image.unlink()
    shutil.copy(row.label, row.label.with_name(f".{row.key}.4711.tmp.png"))
    times = {r.image: r.image.stat().st_mtime_ns for r in manifest.all_rows if r != row}
    assert not is_prepared(config, out)
    prepare(config, streets, out)
    assert contents(out) == whole
    assert {path: path.stat().st_mtime_ns for path in times} == times


def test_kill_9_midway_then_again_gives_the_undisturbed_output(tmp_path):
    raw_trees.gta(tmp_path / "raw", 80)
    config = raw_trees.config("gta", size=[200, 300])
    script = (
        "import sys; from pathlib import Path; import raw_trees;"
        "from ecocseg.data.prepare import prepare;"
        "raw, out = map(Path, sys.argv[1:]);"
        "prepare(raw_trees.config('gta', size=[200, 300]), raw, out, workers=2, verified=True)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path / "raw"), str(tmp_path / "out")],
        env={**os.environ, "PYTHONPATH": str(Path(raw_trees.__file__).parent)},
    )
    deadline = time.monotonic() + 60
    while len(list((tmp_path / "out").glob("images/train/*.png"))) < 8:
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.kill()
    process.wait()
    assert not (tmp_path / "out/dataset.json").exists()
    with pytest.raises(DataError, match="fetch and preprocess"):
        load_manifest(tmp_path / "out")
    _wait_until_still(tmp_path / "out")
    prepare(config, tmp_path / "raw", tmp_path / "out", workers=1)
    prepare(config, tmp_path / "raw", tmp_path / "whole", workers=1)
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def _wait_until_still(folder):
    """The workers of a killed parent end by themselves, within moments."""
    before = None
    for _ in range(100):
        now = len(list(folder.rglob("*")))
        if now == before:
            break
        before = now
        time.sleep(0.2)
    assert now < 200


def test_no_disk_space(streets, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)._replace(free=100)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(UserError) as caught:
        prepare(raw_trees.config("cityscapes", size=[512, 1024]), streets, tmp_path / "out")
    for words in (str(tmp_path / "out"), "MB are needed", "MB are free", "data.root"):
        assert words in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_a_disk_that_fills_up_midway_leaves_no_half_file(streets, tmp_path, monkeypatch):
    config = raw_trees.config("cityscapes")
    made = []

    def copy(source, target):
        if len(made) == 4:
            Path(target).write_bytes(b"half")
            raise OSError(28, "No space left on device")
        made.append(target)
        Path(target).write_bytes(Path(source).read_bytes())

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "copyfile", copy)
        with pytest.raises(UserError, match=r"disk is full.*what is done is kept"):
            prepare(config, streets, tmp_path / "out")
    kept = contents(tmp_path / "out")
    assert sum(name.startswith("images/") for name in kept) == 4
    assert "dataset.json" not in kept
    assert not any(".tmp" in name for name in kept)
    prepare(config, streets, tmp_path / "out")
    prepare(config, streets, tmp_path / "whole")
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")
