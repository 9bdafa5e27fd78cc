import hashlib

import pytest
import raw_trees

from ecocseg.data.manifest import load_manifest, processed_dir
from ecocseg.errors import DataError
from pipeline.stages.fetch import fetch
from pipeline.stages.preprocess import preprocess


@pytest.fixture
def params(tmp_path):
    """Settings with two data sets of the user's own, in place."""
    raw_trees.cityscapes(tmp_path / "city", {"train": 3, "val": 2})
    raw_trees.gta(tmp_path / "game", 3)
    sources = {"cityscapes": str(tmp_path / "city"), "gta": str(tmp_path / "game")}
    return {"data": {"root": str(tmp_path / "data"), "sources": sources, "workers": 1}}


CONFIGS = [raw_trees.config("cityscapes"), raw_trees.config("gta")]


def changed(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def test_raw_files_to_manifests_and_nothing_to_do_the_second_time(params, tmp_path):
    fetch(params, CONFIGS)
    preprocess(params, CONFIGS)
    root = tmp_path / "data"
    assert load_manifest(processed_dir(root, "cityscapes")).splits == {"train": 3, "val": 2}
    assert load_manifest(processed_dir(root, "gta")).splits == {"train": 3}
    before = changed(root)
    fetch(params, CONFIGS)
    preprocess(params, CONFIGS)
    assert changed(root) == before


def test_a_changed_raw_file_is_prepared_again_without_fetching(params, tmp_path):
    fetch(params, CONFIGS)
    preprocess(params, CONFIGS)
    first = load_manifest(tmp_path / "data/processed/gta").fingerprint
    label = tmp_path / "game/labels/00002.png"
    raw_trees.save(label, raw_trees.labels(5, (7, 23, 26)))
    preprocess(params, CONFIGS)
    assert load_manifest(tmp_path / "data/processed/gta").fingerprint != first


def test_faults_of_all_data_sets_at_once_and_nothing_prepared(params, tmp_path):
    fetch(params, CONFIGS)
    (tmp_path / "game/images/00001.png").write_bytes(b"")
    bad = next((tmp_path / "city").rglob("*_labelIds.png"))
    raw_trees.save(bad, raw_trees.labels(0, (7, 99)))
    with pytest.raises(DataError) as caught:
        preprocess(params, CONFIGS)
    for words in ("cityscapes: 1 fault ", "gta: 1 fault ", str(bad), "unknown class value 99"):
        assert words in str(caught.value)
    processed = tmp_path / "data/processed"
    assert sorted(path.name for path in processed.rglob("*")) == [
        "cityscapes.faults.txt",
        "gta.faults.txt",
    ]
    assert str(bad) in (processed / "cityscapes.faults.txt").read_text()
    raw_trees.save(bad, raw_trees.labels(0, raw_trees.LABEL_IDS))
    raw_trees.save(tmp_path / "game/images/00001.png", raw_trees.photo(1))
    preprocess(params, CONFIGS)
    assert not list(processed.glob("*.faults.txt"))


def test_data_root_that_is_not_there_any_more(params, tmp_path):
    fetch(params, CONFIGS)
    (tmp_path / "game").rename(tmp_path / "moved")
    with pytest.raises(DataError) as caught:
        preprocess(params, CONFIGS)
    for words in (str(tmp_path / "game"), "the data root is not there", "data.sources.gta"):
        assert words in str(caught.value)
    assert not (tmp_path / "data/processed/cityscapes").exists()


def test_not_fetched(params):
    with pytest.raises(DataError, match="has not been fetched; run the stage fetch"):
        preprocess(params, CONFIGS)


def test_classes_without_a_pixel_and_skipped_images_are_said(params, tmp_path, caplog):
    (tmp_path / "game/list.txt").write_text("1\n2\n24966\n")
    splits = {"train": {"list": "list.txt", "missing": "skip"}}
    config = raw_trees.config("gta", splits=splits)
    fetch(params, [config])
    preprocess(params, [config])
    assert "no pixel of wall, fence" in caplog.text
    assert "1 listed images of train have no file" in caplog.text


def test_partitions_are_prepared_from_a_mirror(params, tmp_path):
    key = "aachen_000000_000019"
    text = f"leftImg8bit/train/aachen/{key}_leftImg8bit.png gtFine/x_labelTrainIds.png\n"
    (tmp_path / "labeled.txt").write_text(text)
    entry = {"split": "train", "url": "https://example.org/1_8/labeled.txt"}
    entry["sha256"] = hashlib.sha256(text.encode()).hexdigest()
    config = raw_trees.config("cityscapes", partitions={"1_8": entry})
    params["data"]["mirrors"] = {"https://example.org/1_8": str(tmp_path)}
    fetch(params, [config])
    preprocess(params, [config])
    assert load_manifest(tmp_path / "data/processed/cityscapes").partition("1_8") == [key]
