import hashlib
import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest
import raw_trees
from PIL import Image

from ecocseg.data.classes import CLASS_TABLES
from ecocseg.data.manifest import fingerprint, load_manifest, read_fingerprint
from ecocseg.data.prepare import is_prepared, prepare
from ecocseg.data.resize import target_size
from ecocseg.errors import DataError
from ecocseg.files import sha256_file


def contents(folder):
    return {
        path.relative_to(folder).as_posix(): sha256_file(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def array(path):
    with Image.open(path) as picture:
        return np.array(picture)


@pytest.fixture
def streets(tmp_path):
    raw_trees.cityscapes(tmp_path / "raw", {"train": 5, "val": 3})
    return tmp_path / "raw"


def test_output_is_what_the_contract_says(streets, tmp_path):
    out = tmp_path / "out"
    manifest = prepare(raw_trees.config("cityscapes", size=[12, 16]), streets, out)
    assert manifest.splits == {"train": 5, "val": 3}
    assert {path.name for path in out.iterdir()} == {
        "images",
        "labels",
        "manifest.parquet",
        "dataset.json",
        "overlay_train.png",
        "overlay_val.png",
    }
    table = CLASS_TABLES["cityscapes19"]
    for row in manifest.rows("train") + manifest.rows("val"):
        raw = next(streets.rglob(f"{row.key}_gtFine_labelIds.png"))
        ids = np.vectorize(table.ids.get)(array(raw))
        assert array(row.image).shape == (12, 16, 3)
        stored = array(row.label)
        if row.split == "val":
            assert np.array_equal(stored, ids)
        else:
            assert stored.shape == (12, 16)
            assert set(np.unique(stored)) <= set(np.unique(ids))
        assert row.image_size == (12, 16)
        assert row.raw_size == (24, 32)
        assert row.label_size == stored.shape
        assert list(row.pixels) == [int((stored == index).sum()) for index in range(19)]
        assert (row.image_sha256, row.label_sha256) == (
            sha256_file(row.image),
            sha256_file(row.label),
        )


def test_manifest_file_has_the_promised_columns(streets, tmp_path):
    manifest = prepare(raw_trees.config("cityscapes"), streets, tmp_path / "out")
    table = pyarrow.parquet.read_table(tmp_path / "out/manifest.parquet")
    sizes = {f"{kind}_{side}" for kind in ("image", "label", "raw") for side in ("height", "width")}
    others = {"split", "key", "image", "label", "image_sha256", "label_sha256", "pixels", "frames"}
    assert set(table.column_names) == sizes | others
    assert str(table.schema.field("pixels").type) == "list<element: int64>"
    assert all(not Path(path).is_absolute() for path in table["image"].to_pylist())
    described = json.loads((tmp_path / "out/dataset.json").read_text())
    assert described["splits"] == {"train": 5, "val": 3}
    sums = np.sum(table.filter(table["split"].to_numpy() == "val")["pixels"].to_pylist(), axis=0)
    assert described["pixels"]["val"] == sums.tolist() == list(manifest.pixels("val"))
    assert described["classes"]["names"] == list(CLASS_TABLES["cityscapes19"].names)
    loaded = load_manifest(tmp_path / "out")
    assert loaded.all_rows == manifest.all_rows
    assert loaded.fingerprint == manifest.fingerprint == read_fingerprint(tmp_path / "out")
    larger = [replace(row, raw_size=(48, 64)) for row in loaded.all_rows]
    assert fingerprint(manifest.names, larger) != manifest.fingerprint
    with pytest.raises(DataError, match="no split 'test', there are train, val"):
        loaded.rows("test")


def test_images_of_the_right_size_are_the_originals_byte_for_byte(tmp_path):
    raw_trees.camvid(tmp_path / "raw", {"train": 2, "val": 1}, ".JPG")
    manifest = prepare(raw_trees.config("camvid"), tmp_path / "raw", tmp_path / "out")
    for row in manifest.all_rows:
        original = tmp_path / "raw" / row.split / f"{row.key}.JPG"
        assert row.image.suffix == ".jpg"
        assert row.image.read_bytes() == original.read_bytes()


def test_palette_labels_are_read_by_index_and_equal_gray_ones(tmp_path):
    raw_trees.gta(tmp_path / "palette", 3)
    raw_trees.gta(tmp_path / "gray", 3, gray=True)
    assert Image.open(tmp_path / "palette/labels/00001.png").mode == "P"
    assert Image.open(tmp_path / "gray/labels/00001.png").mode == "L"
    config = raw_trees.config("gta")
    one = prepare(config, tmp_path / "palette", tmp_path / "a")
    two = prepare(config, tmp_path / "gray", tmp_path / "b")
    assert one.fingerprint == two.fingerprint
    present = {raw for raw in raw_trees.LABEL_IDS if config.table.ids[raw] != 255}
    assert {index for index, count in enumerate(one.pixels("train")) if count} == {
        config.table.ids[raw] for raw in present
    }


def test_colour_labels_and_gray_images(tmp_path):
    mask = np.zeros((24, 32, 3), dtype=np.uint8)
    mask[:, :10] = (0, 0, 200)
    mask[:, 10:15] = (200, 0, 0)
    raw_trees.save(tmp_path / "raw/masks/a/1.png", mask)
    raw_trees.save(tmp_path / "raw/photos/a/1.png", raw_trees.photo(0), "L")
    classes = {
        "names": ["floor", "wall"],
        "colors": [[0, 0, 200], [200, 0, 0]],
        "ignore_colors": [[0, 0, 0]],
    }
    config = raw_trees.config("folders", classes=classes, label_values="colors")
    [row] = prepare(config, tmp_path / "raw", tmp_path / "out").all_rows
    assert row.key == "a/1"
    assert row.pixels == (240, 120)
    assert (array(row.label)[:, 15:] == 255).all()
    assert array(row.image).shape == (24, 32, 3)


def test_images_without_labels_get_ignored_ones(tmp_path):
    for index in range(2):
        raw_trees.save(tmp_path / f"raw/photos/{index}.png", raw_trees.photo(index))
    config = raw_trees.config("folders", splits={"extra": {"images": "photos", "labels": None}})
    for row in prepare(config, tmp_path / "raw", tmp_path / "out").rows("extra"):
        assert (array(row.label) == 255).all()
        assert row.pixels == (0, 0)


@pytest.mark.parametrize(
    "size, wanted, keep, expected",
    [
        ((24, 32), None, False, (24, 32)),
        ((24, 32), (8, 8), False, (8, 8)),
        ((1052, 1914), (720, 1280), True, (704, 1280)),
        ((1914, 1052), (720, 1280), True, (1280, 704)),
        ((1024, 2048), (512, 1024), True, (512, 1024)),
    ],
)
def test_target_sizes(size, wanted, keep, expected):
    assert target_size(size, wanted, keep) == expected


def test_any_number_of_workers_writes_the_same_bytes(tmp_path):
    raw_trees.gta(tmp_path / "raw", 30)
    config = raw_trees.config("gta", size=[16, 20])
    outputs = []
    for workers in (1, 3):
        out = tmp_path / f"out{workers}"
        calls = []
        prepare(
            config,
            tmp_path / "raw",
            out,
            workers=workers,
            progress=lambda done, total, calls=calls: calls.append((done, total)),
        )
        assert calls[-1] == (30, 30)
        assert calls == sorted(calls)
        outputs.append(contents(out))
    assert outputs[0] == outputs[1]


def test_fingerprint_is_of_content_not_of_place_or_colours(streets, tmp_path):
    shutil.copytree(streets, tmp_path / "copy")
    config = raw_trees.config("cityscapes")
    first = prepare(config, streets, tmp_path / "a").fingerprint
    assert prepare(config, tmp_path / "copy", tmp_path / "b").fingerprint == first
    label = next((tmp_path / "copy").rglob("*_labelIds.png"))
    raw_trees.save(label, raw_trees.labels(9, (7, 23, 26)))
    assert prepare(config, tmp_path / "copy", tmp_path / "c").fingerprint != first


def test_source_is_untouched_and_links_are_followed(streets, tmp_path):
    before = {path: path.stat().st_mtime_ns for path in streets.rglob("*")}
    os.symlink(streets, tmp_path / "link")
    manifest = prepare(raw_trees.config("cityscapes"), tmp_path / "link", tmp_path / "out")
    assert {path: path.stat().st_mtime_ns for path in streets.rglob("*")} == before
    assert not any(path.is_symlink() for path in (tmp_path / "out").rglob("*"))
    assert len(manifest.all_rows) == 8


def partition_config(**entry):
    entry = {"split": "train", "url": "https://a/b.txt", **entry}
    return raw_trees.config("cityscapes", partitions={"1_2": entry})


def test_partitions_become_keys(streets, tmp_path):
    keys = [path.name[: -len("_leftImg8bit.png")] for path in streets.rglob("*_leftImg8bit.png")]
    train = sorted(key for key in keys if next(streets.glob(f"leftImg8bit/train/*/{key}*"), None))
    raw = tmp_path / "list.txt"
    raw.write_text(
        "".join(f"x/{k}_leftImg8bit.png x/{k}_gtFine_labelTrainIds.png\n" for k in train[3:0:-1])
    )
    manifest = prepare(partition_config(), streets, tmp_path / "out", partitions={"1_2": raw})
    assert manifest.partition("1_2") == train[3:0:-1]
    assert load_manifest(tmp_path / "out").partition("1_2") == train[3:0:-1]
    with pytest.raises(DataError, match=r"there are 1_2;"):
        manifest.partition("1_4")


def test_a_partition_that_cannot_be_used_is_left_out(streets, tmp_path, caplog):
    """Only runs on it need it: domain adaptation on Cityscapes does without UniMatch's lists."""
    raw = tmp_path / "list.txt"
    for text, words in (
        (None, "it was not fetched"),
        ("bonn_000000_000019_leftImg8bit.png\n", "names 1 images that the split train lacks"),
        ("", "its list is empty"),
    ):
        files = {}
        if text is not None:
            raw.write_text(text)
            files = {"1_2": raw}
        caplog.clear()
        manifest = prepare(partition_config(), streets, tmp_path / words, partitions=files)
        assert f"cityscapes: partition 1_2 is left out: {words}" in caplog.text.replace(
            "it names", "names"
        )
        assert is_prepared(partition_config(), tmp_path / words)
        with pytest.raises(DataError, match="no such partition, there are none"):
            manifest.partition("1_2")


def test_contact_sheet_shows_every_class_colour_and_the_images(streets, tmp_path):
    config = raw_trees.config("cityscapes")
    prepare(config, streets, tmp_path / "out")
    sheet = array(tmp_path / "out/overlay_train.png")
    shown = {tuple(color) for color in sheet.reshape(-1, 3).tolist()}
    assert set(config.table.colors) <= shown
    assert sheet.shape[1] > 1000
    digest = hashlib.sha256((tmp_path / "out/overlay_train.png").read_bytes()).hexdigest()
    prepare(config, streets, tmp_path / "again")
    assert sha256_file(tmp_path / "again/overlay_train.png") == digest


def test_workers_import_light():
    script = (
        "import sys; import ecocseg.data.prepare, ecocseg.data.parallel;"
        "print(sorted({'torch', 'pyarrow', 'pandas', 'rich', 'timm'} & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert result.stdout.strip() == "[]", result.stderr
