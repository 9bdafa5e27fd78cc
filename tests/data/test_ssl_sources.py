"""The other places and forms of the semi-supervised data sets, their lists and their protocols."""

import shutil
from pathlib import Path

import nibabel
import numpy as np
import pytest
import raw_trees
from PIL import Image

from ecocseg.config import from_mapping
from ecocseg.data.benchmark import BenchmarkConfig, expected_images
from ecocseg.data.config import DatasetConfig
from ecocseg.data.dataset import read_image, read_label
from ecocseg.data.layouts import LAYOUTS, find_root
from ecocseg.data.layouts.base import keys_of_list
from ecocseg.data.prepare import _bytes_needed, prepare
from ecocseg.data.verify import list_splits, verify_raw
from pipeline.config.compose import compose_config, load_yaml
from pipeline.config.run_spec import clean_config

PUBLISHED = {
    "pascal": {
        "1_16": 662, "1_8": 1323, "1_4": 2646, "u2pl_1_16": 662, "u2pl_1_8": 1323,
        "u2pl_1_4": 2646, "92": 92, "183": 183, "366": 366, "732": 732, "1464": 1464,
    },
    "cityscapes_ssl": {"1_30": 100, "1_16": 186, "1_8": 372, "1_4": 744, "1_2": 1488},
    "coco": {"1_512": 232, "1_256": 463, "1_128": 925, "1_64": 1849, "1_32": 3697},
    "acdc": {"1": 32, "3": 68, "7": 136},
    "whu_cd": {"5": 297, "10": 594, "20": 1189, "40": 2378},
}  # fmt: skip
TRAINING = {"pascal": 10582, "cityscapes_ssl": 2975, "coco": 118287, "acdc": 1312, "whu_cd": 5947}
LINES = {
    "pascal": ("JPEGImages/2007_000032.jpg SegmentationClass/2007_000032.png", "2007_000032"),
    "cityscapes_ssl": (
        "leftImg8bit/train/jena/jena_000078_000019_leftImg8bit.png "
        "gtFine/train/jena/jena_000078_000019_gtFine_labelTrainIds.png",
        "jena_000078_000019",
    ),
    "coco": ("train2017/000000177254.jpg masks/000000177254.png", "000000177254"),
    "acdc": ("data/slices/patient038_frame02_slice_8.h5", "patient038_frame02/08"),
    "whu_cd": ("whucd_00386.png", "whucd_00386"),
}
"""A line of each released list, and the key of the image that it names."""


@pytest.fixture(params=sorted(PUBLISHED))
def shipped(request):
    return DatasetConfig.from_mapping(load_yaml("dataset", request.param))


def test_partitions_have_the_published_numbers_and_addresses(shipped):
    assert {n: entry["images"] for n, entry in shipped.partitions.items()} == PUBLISHED[
        shipped.name
    ]
    assert shipped.images["train"] == TRAINING[shipped.name]
    for name, file in shipped.partition_files().items():
        folder = f"{name}%25" if shipped.name == "whu_cd" else name
        assert file.url.endswith(f"/{folder}/labeled.txt")
        assert "LiheYoung/UniMatch/0324f3dd4a22128105a5eb135d2586c0bb3cc647/" in file.url


def test_lines_of_the_released_lists_are_keys(shipped):
    line, key = LINES[shipped.name]
    key_of = LAYOUTS[shipped.layout].key_of
    # Some of the lists end without a line break.
    for text in (line, f"{line}\n"):
        assert keys_of_list(text, shipped.splits["train"], key_of) == [key]


def test_patients_of_acdc_are_the_released_ones():
    """70, 10 and 20 of the challenge's 100, each in one split."""
    splits = DatasetConfig.from_mapping(load_yaml("dataset", "acdc")).splits
    val, test = (set(splits[name]["patients"]) for name in ("val", "test"))
    assert (len(val), len(test)) == (10, 20)
    assert set(splits["train"]["without"]) == val | test
    assert val | test <= {f"{number:03d}" for number in range(1, 101)}
    # Of the labelled cases none is scored.
    assert not {"099", "038", "050", "100", "058", "021", "049"} & (val | test)


@pytest.mark.parametrize(
    ("name", "published", "counts", "crop", "batch"),
    [
        ("pascal_321", "1_8", (1323, 9259, 1449), 321, 1),
        ("pascal_513", "u2pl_1_4", (2646, 7936, 1449), 513, 1),
        ("pascal_hq", "92", (92, 10490, 1449), 518, 1),
        ("cityscapes_ssl", "1_2", (1488, 1487, 500), 801, 1),
        ("coco_ssl", "1_32", (3697, 114590, 5000), 513, 1),
        ("acdc", "7", (136, 1176, None), 256, 8),
        ("whu_cd", "40", (2378, 3569, 744), 256, 8),
    ],
)
def test_protocols_of_the_semi_supervised_benchmarks(name, published, counts, crop, batch):
    """As in the public configurations and data code of UniMatch."""
    overrides = [f"benchmark={name}", f"benchmark.published='{published}'", "schedule.steps=1"]
    config = clean_config(compose_config(overrides))["benchmark"]
    found = from_mapping(BenchmarkConfig, config, "benchmark")
    dataset = DatasetConfig.from_mapping(load_yaml("dataset", found.labelled.dataset))
    assert found.datasets == [dataset.name]
    assert dataset.evaluated(found.evaluated.split)
    sources = (found.labelled, found.unlabelled, found.evaluated)
    assert tuple(expected_images(source, dataset) for source in sources) == counts
    assert found.labelled.partition == found.unlabelled.partition
    assert found.unlabelled_transform == found.labelled_transform
    weak = found.labelled_transform
    assert weak.crop == (crop, crop)
    turned = name == "acdc"
    assert (weak.quarter_turns, weak.rotation) == ((0.5, 20.0) if turned else (0.0, 0.0))
    scales = {"acdc": None, "whu_cd": (0.8, 1.2)}
    assert (weak.scale, weak.flip) == (scales.get(name, (0.5, 2.0)), 0.0 if turned else 0.5)
    scored = found.evaluation
    assert scored.batch_size == batch
    if name == "cityscapes_ssl":
        assert (scored.mode, scored.average) == ("slide", "scores")
        assert (scored.window, scored.stride) == ((801, 801), (534, 534))
    else:
        assert scored.mode == "whole"
    assert (scored.score, scored.per) == (("dice", "folder") if turned else ("iou", "set"))
    expected = {"acdc": dataset.table.names[1:], "whu_cd": ("changed",)}
    assert scored.classes == expected.get(name)


def top_of_voc(root):
    return root / "VOCdevkit/VOC2012"


@pytest.mark.parametrize("place", ["VOCdevkit", "."])
def test_voc_finds_the_folder_of_sbd_above(tmp_path, place):
    keys = raw_trees.voc(tmp_path, blended=4, val=1)
    shutil.move(top_of_voc(tmp_path) / "SegmentationClassAug", tmp_path / place)
    found = list_splits(raw_trees.config("voc"), top_of_voc(tmp_path))["train"]
    assert [item.key for item in found.items] == keys
    assert not found.faults


def test_voc_takes_a_folder_that_was_blended_in_place(tmp_path):
    """As UniMatch releases its labels: all of them as SegmentationClass."""
    keys = raw_trees.voc(tmp_path, blended=4, val=1)
    top = top_of_voc(tmp_path)
    shutil.rmtree(top / "SegmentationClass")
    shutil.move(top / "SegmentationClassAug", top / "SegmentationClass")
    assert verify_raw(raw_trees.config("voc"), tmp_path, workers=1) == []
    assert [item.key for item in list_splits(raw_trees.config("voc"), top)["train"].items] == keys


def test_voc_takes_a_list_of_ones_own(tmp_path):
    keys = raw_trees.voc(tmp_path, blended=4, val=1)
    (top_of_voc(tmp_path) / "mine.txt").write_text(f"JPEGImages/{keys[2]}.jpg a/{keys[2]}.png\n")
    config = raw_trees.config("voc", splits={"train": {"set": "blended", "list": "mine.txt"}})
    found = list_splits(config, top_of_voc(tmp_path))["train"]
    assert [item.key for item in found.items] == [keys[2]]


def test_whu_cds_lists_may_lie_above_the_tiles(tmp_path):
    """Its archive brings a folder of its own, the lists come from elsewhere."""
    raw_trees.whu_cd(tmp_path / "WHU-CD-256", {"train": 3, "test": 1})
    for name in ("train.txt", "test.txt"):
        shutil.move(tmp_path / "WHU-CD-256" / name, tmp_path)
    manifest = prepare(raw_trees.config("whu_cd"), tmp_path, tmp_path / "out", workers=1)
    assert manifest.splits == {"train": 3, "test": 1}


def test_a_shared_file_of_annotations_counts_once(tmp_path):
    raw_trees.coco(tmp_path, {"train": 3, "val": 1})
    for path in (tmp_path / "annotations").iterdir():
        path.write_text(path.read_text() + " " * 2**20)
    config = raw_trees.config("coco")
    images = sum(path.stat().st_size for path in tmp_path.rglob("*.jpg"))
    assert _bytes_needed(config, list_splits(config, tmp_path)) == images + 4 * 4096


def test_both_images_of_a_pair_take_space(tmp_path):
    raw_trees.whu_cd(tmp_path, {"train": 2, "test": 1})
    config = raw_trees.config("whu_cd")
    files = sum(path.stat().st_size for path in tmp_path.rglob("*.png"))
    assert _bytes_needed(config, list_splits(config, tmp_path)) == files


def scans(root, **frames):
    raw_trees.acdc_original(
        root, {name.removeprefix("p"): numbers for name, numbers in frames.items()}
    )


def test_acdc_as_the_challenge_gives_it(tmp_path):
    scans(tmp_path / "raw/ACDC/training", p001=(1, 12), p007=(4, 15))
    scans(tmp_path / "raw/ACDC/testing", p101=(1, 9))
    config = raw_trees.config("acdc", size=[32, 32])
    manifest = prepare(config, tmp_path / "raw", tmp_path / "out", workers=1)
    keys = [f"patient001_frame0{frame}/0{place}" for frame in (1, 2) for place in (1, 2, 3)]
    assert [row.key for row in manifest.rows("train")] == keys
    test = manifest.rows("test")
    assert len(test) == 6
    assert {row.label_size for row in test} == {(20, 28)}
    with Image.open(test[0].image) as picture:
        assert picture.mode == "L"
    # Frame 15 is the second; axes are turned round, and a volume's values brought to 0..255.
    path = tmp_path / "raw/ACDC/training/patient007/patient007_frame15"
    volume = np.asarray(nibabel.load(f"{path}.nii.gz").dataobj)
    label = np.asarray(nibabel.load(f"{path}_gt.nii.gz").dataobj)
    row = next(row for row in test if row.key == "patient007_frame02/03")
    assert np.array_equal(read_label(row).numpy(), label[:, :, 2].T)
    share = (volume[:, :, 2].T - volume.min()) / (volume.max() - volume.min())
    plain = Image.fromarray(np.floor(255 * share + 1e-9).astype(np.uint8))
    shown = np.asarray(plain.resize((32, 32), Image.Resampling.BILINEAR))
    assert np.abs(read_image(row)[0].numpy().astype(int) - shown).max() <= 1


def test_faults_of_the_challenges_files(tmp_path):
    scans(tmp_path, p001=(1, 12), p002=(1, 8), p003=(1, 9))
    config = raw_trees.config("acdc", splits={"train": {"patients": ["001", "002", "003", "004"]}})
    path = tmp_path / "patient001/patient001_frame01.nii.gz"
    path.write_bytes(path.read_bytes()[:100])
    path = tmp_path / "patient001/patient001_frame12.nii.gz"
    path.write_bytes(path.read_bytes()[:-400])
    path = tmp_path / "patient002/patient002_frame08_gt.nii.gz"
    path.unlink()
    path = tmp_path / "patient003/patient003_frame09_gt.nii.gz"
    path.write_bytes(b"no volume")
    texts = {Path(f.file).name: f"{f.problem}; {f.remedy}" for f in verify_raw(config, tmp_path, 1)}
    assert "cannot be read as a volume" in texts["patient001_frame01.nii.gz"]
    assert "cannot be read as NIfTI" in texts["patient001_frame12.nii.gz"]
    assert texts["patient001_frame12.nii.gz"].endswith("copy or download it again")
    assert "has 1 annotated frames" in texts["patient002"]
    assert "cannot be read as NIfTI" in texts["patient003_frame09_gt.nii.gz"]
    assert "the volume is not there" in texts["patient004"]
    assert len(texts) == 5


def test_the_challenges_test_folder_is_not_taken_for_the_training_one(tmp_path):
    scans(tmp_path / "testing", p101=(1, 9))
    scans(tmp_path / "training", p007=(1, 9))
    config = raw_trees.config("acdc")
    assert find_root(tmp_path, LAYOUTS["acdc"], config.splits) == tmp_path / "training"
