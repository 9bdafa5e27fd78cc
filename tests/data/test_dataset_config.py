from pathlib import Path

import pytest
import raw_trees
import yaml

import pipeline
from ecocseg.data.classes import CLASS_TABLES
from ecocseg.data.config import DatasetConfig
from ecocseg.data.resize import target_size
from ecocseg.errors import ConfigError

FILES = sorted((Path(pipeline.__file__).parent / "conf" / "dataset").glob("*.yaml"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_shipped_data_set_is_valid_and_named_as_its_file(path):
    config = DatasetConfig.from_mapping(yaml.safe_load(path.read_text()))
    assert config.name == path.stem


def test_cityscapes_partitions_have_names_and_checksums():
    path = next(path for path in FILES if path.stem == "cityscapes")
    files = DatasetConfig.from_mapping(yaml.safe_load(path.read_text())).partition_files()
    assert list(files) == ["1_30", "1_16", "1_8", "1_4", "1_2"]
    for name, file in files.items():
        assert f"/cityscapes/{name}/labeled.txt" in file.url
        assert file.sha256


def test_data_sets_of_one_raw_folder_bring_it_alike():
    """The stage fetch refuses them otherwise."""
    found = {}
    for path in FILES:
        config = DatasetConfig.from_mapping(yaml.safe_load(path.read_text()))
        assert found.setdefault(config.raw_name, config.raw) == config.raw, path.stem
    assert {"gta", "synthia", "cityscapes"} <= set(found)


@pytest.mark.parametrize(
    "name, raw, stored",
    [
        ("gta", (1052, 1914), (704, 1280)),
        ("gta_hr", (1052, 1914), (1407, 2560)),
        ("synthia", (760, 1280), (760, 1280)),
        ("synthia_hr", (760, 1280), (1520, 2560)),
        ("cityscapes", (1024, 2048), (512, 1024)),
        ("cityscapes_hr", (1024, 2048), (1024, 2048)),
    ],
)
def test_stored_sizes_of_the_adaptation_data_sets(name, raw, stored):
    """As mmcv's `imrescale` brings them to the `img_scale` of the public configurations."""
    path = next(path for path in FILES if path.stem == name)
    config = DatasetConfig.from_mapping(yaml.safe_load(path.read_text()))
    assert target_size(raw, config.size, config.keep_ratio) == stored
    assert config.resize == "mmcv"
    assert config.table.names == CLASS_TABLES["cityscapes19"].names
    assert config.raw_name == name.removesuffix("_hr")


def test_digest_follows_what_decides_the_output_only():
    plain = raw_trees.config("camvid")
    assert plain.digest() == raw_trees.config("camvid").digest()
    moved = raw_trees.config("camvid", raw={"kind": "local", "path": "/elsewhere"})
    assert moved.digest() == plain.digest()
    for change in (
        {"size": [24, 32]},
        {"classes": "cityscapes19"},
        {"splits": {"train": {}}},
        {"splits": {"train": {"exclude": ["x"]}, "val": {"evaluate": True}}},
        {"keep_ratio": True},
        {"resize": "mmcv"},
        {"label_values": "first_channel"},
    ):
        assert raw_trees.config("camvid", **change).digest() != plain.digest(), change


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"layouts": "camvid"}, ["'layouts'", "layout"]),
        ({"layout": "kitti"}, ["'kitti'", "cityscapes"]),
        ({"name": "../x"}, ["'../x'", "letters"]),
        ({"size": [4, 4]}, ["[4, 4]", "8 to 16384"]),
        ({"size": 512}, ["512", "[height, width]"]),
        ({"size": ["a", 9]}, ["size"]),
        ({"keep_ratio": "yes"}, ["keep_ratio", "true or false"]),
        ({"label_values": "names"}, ["label_values", "ids, colors, first_channel"]),
        ({"resize": "area"}, ["resize", "'area'", "antialias, mmcv"]),
        ({"splits": {"train": {"exclude": [1132]}}}, ["train.exclude", "1132", '["02154"]']),
        ({"splits": {"train": {"exclude": "02154"}}}, ["train.exclude", "'02154'", "a list"]),
        ({"splits": {}}, ["splits", "one split"]),
        ({"splits": {"train": {"fold": "x"}}}, ["'fold'", "folder", "evaluate"]),
        ({"splits": {"train": {"evaluate": "no"}}}, ["evaluate", "true or false"]),
        ({"raw": {"kind": "ftp"}}, ["raw.kind", "'ftp'", "generate"]),
        ({"raw": {"kind": "local", "folder": "x"}}, ["'folder'", "path"]),
        ({"raw": {"kind": "generate", "generator": "streets"}}, ["raw.counts"]),
        ({"raw": {"kind": "url", "files": [{"url": "x"}]}}, ["'x'", "https://"]),
        (
            {"raw": {"kind": "url", "files": [{"url": "https://a/b", "sha256": "12"}]}},
            ["'12'", "64"],
        ),
        (
            {"raw": {"kind": "url", "files": [{"url": "https://a/b", "to": "../b"}]}},
            ["'../b'", "inside"],
        ),
        ({"partitions": {18: {"split": "train", "url": "https://a/b"}}}, ["18", "quotes"]),
        ({"partitions": {"1_8": {"split": "test", "url": "https://a/b"}}}, ["'test'", "train"]),
    ],
)
def test_wrong_fields_are_refused_by_name(changes, words):
    with pytest.raises(ConfigError) as caught:
        raw_trees.config("camvid", **changes)
    for word in words:
        assert word in str(caught.value)


def test_missing_fields_are_named():
    with pytest.raises(ConfigError, match="'classes'"):
        DatasetConfig.from_mapping({"name": "x", "layout": "gta", "splits": {"train": {}}})
