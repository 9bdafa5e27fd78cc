from dataclasses import replace
from pathlib import Path

import pytest
import yaml

import pipeline
from ecocseg.config import from_mapping
from ecocseg.data.benchmark import BenchmarkConfig, SourceConfig, build_streams, source_rows
from ecocseg.data.partition import PartitionConfig
from ecocseg.data.transforms import TransformConfig
from ecocseg.errors import ConfigError, DataError

CROP = TransformConfig(crop=(32, 64))


@pytest.fixture
def benchmark():
    return BenchmarkConfig(
        name="tiny",
        labelled=SourceConfig(dataset="streets_game"),
        unlabelled=SourceConfig(dataset="streets_camera"),
        evaluated=SourceConfig(dataset="streets_camera", split="val"),
        labelled_transform=CROP,
        unlabelled_transform=CROP,
    )


def test_the_two_sides_of_a_partition(manifests):
    partition = PartitionConfig(fraction="1/4")
    sides = [
        source_rows(
            SourceConfig(dataset="streets_camera", part=part, partition=partition), manifests
        )
        for part in ("labelled", "rest", "all")
    ]
    keys = [{row.key for row in side} for side in sides]
    assert [len(k) for k in keys] == [2, 6, 8]
    assert keys[0] | keys[1] == keys[2]


def test_limit_takes_the_first(manifests):
    all_rows = source_rows(SourceConfig(dataset="streets_game"), manifests)
    assert source_rows(SourceConfig(dataset="streets_game", limit=3), manifests) == all_rows[:3]
    with pytest.raises(ConfigError, match="limit: got 0"):
        SourceConfig(dataset="streets_game", limit=0)


def test_an_empty_side_and_an_absent_split(manifests):
    with pytest.raises(ConfigError, match=r"streets_camera/train: no image is left.*'rest'"):
        source_rows(SourceConfig(dataset="streets_camera", part="rest"), manifests)
    with pytest.raises(DataError, match=r"no split 'val'.*train"):
        source_rows(SourceConfig(dataset="streets_game", split="val"), manifests)
    published = SourceConfig(
        dataset="streets_camera", part="labelled", partition=PartitionConfig(published="1_8")
    )
    with pytest.raises(DataError, match=r"1_8\.txt: no such partition"):
        source_rows(published, manifests)


def test_streams_in_the_methods_order(benchmark, manifests):
    streams = build_streams(benchmark, manifests, ("labelled", "unlabelled", "partner"), 4, 3)
    assert [(s.name, s.batch_size, s.labelled) for s in streams] == [
        ("labelled", 4, True),
        ("unlabelled", 3, False),
        ("partner", 3, False),
    ]
    assert benchmark.datasets == ["streets_game", "streets_camera"]


def test_a_method_that_finds_no_unlabelled_images(benchmark, manifests):
    bare = replace(benchmark, unlabelled=None, unlabelled_transform=None)
    with pytest.raises(ConfigError, match=r"benchmark\.unlabelled.*'unlabelled'.*'tiny'"):
        build_streams(bare, manifests, ("labelled", "unlabelled"), 4, 4)
    with pytest.raises(ConfigError, match=r"schedule\.unlabelled_batch: got 0"):
        build_streams(benchmark, manifests, ("labelled", "unlabelled"), 4, 0)
    assert len(build_streams(bare, manifests, ("labelled",), 4, 0)) == 1


def test_classes_must_agree(benchmark, manifests):
    game = manifests["streets_game"]
    table = replace(game.classes, names=("sidewalk", "road", *game.classes.names[2:]))
    other = {**manifests, "streets_game": replace(game, classes=table)}
    with pytest.raises(ConfigError, match="prepare both with one class table"):
        build_streams(benchmark, other, ("labelled",), 1, 1)


def test_labels_of_another_size_than_their_images_cannot_be_trained_on(benchmark, manifests):
    game = manifests["streets_game"]
    rows = tuple(replace(row, label_size=(96, 192)) for row in game.all_rows)
    other = {**manifests, "streets_game": replace(game, all_rows=rows)}
    with pytest.raises(ConfigError, match=r"keep their own size.*\(96, 192\)"):
        build_streams(benchmark, other, ("labelled",), 1, 1)


def test_unlabelled_images_and_their_transform_go_together():
    source, crop = {"dataset": "a"}, {"crop": [8, 8]}
    values = {"name": "x", "labelled": source, "evaluated": source, "labelled_transform": crop}
    with pytest.raises(ConfigError, match="go together"):
        from_mapping(BenchmarkConfig, {**values, "unlabelled": source}, "benchmark")
    with pytest.raises(ConfigError, match=r"benchmark\.unlabelled\.datset.*did you mean 'dataset'"):
        from_mapping(BenchmarkConfig, {**values, "unlabelled": {"datset": "a"}}, "benchmark")


SHIPPED = Path(pipeline.__file__).parent / "conf" / "benchmark"


@pytest.mark.parametrize(
    ("name", "source", "crop", "mode"),
    [
        ("gta2cityscapes", "gta", 512, "whole"),
        ("synthia2cityscapes", "synthia", 512, "whole"),
        ("gta2cityscapes_hr", "gta_hr", 1024, "slide"),
        ("synthia2cityscapes_hr", "synthia_hr", 1024, "slide"),
        ("cityscapes_oracle", "cityscapes", 512, "whole"),
    ],
)
def test_protocols_of_the_adaptation_benchmarks(name, source, crop, mode):
    """As in the public configurations of DAFormer (512) and HRDA and MIC (1024)."""
    values = yaml.safe_load((SHIPPED / f"{name}.yaml").read_text())
    found = from_mapping(BenchmarkConfig, values, "benchmark")
    target = "cityscapes_hr" if mode == "slide" else "cityscapes"
    assert found.name == name
    assert (found.labelled.dataset, found.evaluated.dataset) == (source, target)
    assert found.evaluated.split == "val"
    plain = TransformConfig(crop=(crop, crop), flip=0.5)
    assert found.labelled_transform == replace(plain, max_class_share=0.75)
    if name == "cityscapes_oracle":
        assert found.unlabelled is None
    else:
        assert found.unlabelled == SourceConfig(dataset=target)
        assert found.unlabelled_transform == plain
    assert found.evaluation.mode == mode
    assert found.evaluation.batch_size == 1
    if mode == "slide":
        assert (found.evaluation.window, found.evaluation.stride) == ((1024, 1024), (512, 512))
        assert found.evaluation.average == "logits"
