from pathlib import Path

import pytest
import raw_trees
import yaml

import pipeline
from ecocseg.data.config import DatasetConfig
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
        ({"label_values": "names"}, ["label_values", "ids or colors"]),
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
