"""Pascal VOC with SBD, COCO, ACDC and WHU-CD: from files in their layouts to prepared data."""

import json
import logging
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest
import raw_trees
import torch
from PIL import Image

from ecocseg.data.benchmark import SourceConfig, expected_images
from ecocseg.data.config import DatasetConfig
from ecocseg.data.dataset import StepBatches, Stream, read_image, read_label, read_stored
from ecocseg.data.instances import draw_instances, instance_text
from ecocseg.data.layouts import LAYOUTS
from ecocseg.data.partition import PartitionConfig
from ecocseg.data.prepare import prepare
from ecocseg.data.transforms import TransformConfig, random_geometry
from ecocseg.data.verify import verify_raw
from ecocseg.errors import DataError


def prepared(which, root, folder, **changes):
    return prepare(raw_trees.config(which, **changes), root, folder, workers=1)


def label_of(manifest, key):
    return read_label(next(row for row in manifest.all_rows if row.key == key)).numpy()


@pytest.mark.parametrize("sbd", ["png", "mat"])
def test_voc_blends_all_labels_but_vals(tmp_path, sbd):
    keys = raw_trees.voc(tmp_path / "raw", blended=5, val=2, own=2, sbd=sbd)
    manifest = prepared("voc", tmp_path / "raw", tmp_path / "out")
    assert [row.key for row in manifest.rows("train")] == keys
    assert [row.key for row in manifest.rows("val")] == ["2009_000000", "2009_000001"]
    assert (label_of(manifest, "2009_000000")[:, 4] == 255).all()
    own, other = label_of(manifest, keys[0]), label_of(manifest, keys[3])
    # VOC's own label, with its boundary, wins over SBD's archive; the folder is taken as it is.
    assert (own[:, 4] == 255).all() == (sbd == "mat")
    plain = raw_trees.labels(3, (0, 1, 9, 15, 20))
    assert np.array_equal(other, plain)
    assert LAYOUTS["voc"].key_of("JPEGImages/2007_000032.jpg", {}) == "2007_000032"


def test_voc_without_sbd_says_what_is_missing(tmp_path):
    raw_trees.voc(tmp_path, blended=3, val=1)
    shutil.rmtree(tmp_path / "VOCdevkit/VOC2012/SegmentationClassAug")
    (fault,) = verify_raw(raw_trees.config("voc"), tmp_path, workers=1)
    assert "of the 10,582 training images 1,464 have a label" in fault.problem
    assert "benchmark.tgz" in fault.remedy


def test_voc_damaged_mat_is_a_fault(tmp_path):
    keys = raw_trees.voc(tmp_path, blended=3, val=1, own=0, sbd="mat")
    path = tmp_path / f"benchmark_RELEASE/dataset/cls/{keys[1]}.mat"
    path.write_bytes(path.read_bytes()[:100])
    (fault,) = verify_raw(raw_trees.config("voc"), tmp_path, workers=1)
    assert fault.file == str(path)
    assert "class file of SBD" in fault.problem


def test_coco_instances_become_labels(tmp_path):
    raw_trees.coco(tmp_path / "raw", {"train": 6, "val": 3})
    manifest = prepared("coco", tmp_path / "raw", tmp_path / "out")
    assert len(manifest.rows("train")) == 6
    overlapping = label_of(manifest, "000000005003")
    # Category 4 is the fourth; 90 the last of 80; the smaller instance is on top.
    assert overlapping[2, 2] == 4
    assert overlapping[10, 10] == 80
    assert overlapping[20, 20] == 0
    crowd = label_of(manifest, "000000005001")
    assert crowd[2, 2] == 12  # category 13, though the crowd's class covers it too
    assert crowd[20, 10] == 255
    assert crowd[20, 2] == 0
    assert (label_of(manifest, "000000005002") == 0).all()


def test_instances_are_drawn_as_pycocotools_decodes_them():
    polygon = [[3.2, 1.5, 17.9, 4.0, 12.0, 19.5], [20.0, 20.0, 27.0, 20.0, 27.0, 23.0]]
    given = [raw_trees.instance(1, 7, polygon, 50)]
    label = draw_instances(instance_text((24, 32), given, {7: 6}))
    inside = np.zeros((24, 32), dtype=bool)
    for y in range(24):
        for x in range(32):
            # The first polygon's triangle, by the sign of three areas, at pixel centres.
            points = np.array(polygon[0]).reshape(3, 2)
            p = np.array([x + 0.5, y + 0.5])
            signs = [
                np.cross(
                    np.append(points[(i + 1) % 3] - points[i], 0), np.append(p - points[i], 0)
                )[2]
                for i in range(3)
            ]
            inside[y, x] = all(s >= 0 for s in signs) or all(s <= 0 for s in signs)
    inside[20:23, 20:27] = True
    # The library rounds borders its own way: they agree but for a few pixels on the edge.
    assert ((label == 6) != inside).sum() <= 12
    assert (label == 6).sum() > 100


def test_coco_faults(tmp_path):
    raw_trees.coco(tmp_path, {"train": 3})
    config = raw_trees.config("coco", splits={"train": {}})
    path = tmp_path / "annotations/instances_train2017.json"
    content = json.loads(path.read_text())
    (tmp_path / "train2017/000000005001.jpg").unlink()
    (fault,) = verify_raw(config, tmp_path, workers=1)
    assert "the image is not there, and its annotations are" in fault.problem
    assert len(verify_raw(raw_trees.config("coco", splits={"train": {"missing": "skip"}}),
                          tmp_path, workers=1)) == 0  # fmt: skip
    content["annotations"][0]["category_id"] = 91
    path.write_text(json.dumps(content))
    (fault,) = verify_raw(config, tmp_path, workers=1)
    assert "unknown category 91" in fault.problem
    path.write_text(path.read_text()[:-40])
    (fault,) = verify_raw(config, tmp_path, workers=1)
    assert "no file of instance annotations" in fault.problem
    path.unlink()
    (fault,) = verify_raw(config, tmp_path, workers=1)
    assert "the annotations are not there" in fault.problem


def test_acdc_slices_and_volumes(tmp_path):
    raw_trees.acdc(tmp_path / "raw", {"001": 3, "002": 2, "007": 2}, {"007": 4, "008": 1})
    manifest = prepared("acdc", tmp_path / "raw", tmp_path / "out", size=[32, 32])
    train = [row.key for row in manifest.rows("train")]
    assert train == [
        f"patient00{p}_frame01/0{n}" for p, n in ((1, 1), (1, 2), (1, 3), (2, 1), (2, 2))
    ]
    test = manifest.rows("test")
    assert [row.key for row in test] == [f"patient007_frame01/0{n}" for n in range(1, 5)]
    # Images at the size that is trained on, labels that are scored at their own.
    assert {row.image_size for row in test} == {(32, 32)}
    assert {row.label_size for row in test} == {(20, 28)}
    assert np.array_equal(read_label(test[2]).numpy(), raw_trees.labels(702, (0, 1, 2, 3), 20, 28))
    image = read_image(test[0])
    assert image.shape == (3, 32, 32)
    assert torch.equal(image[0], image[1])
    key = LAYOUTS["acdc"].key_of("data/slices/patient099_frame01_slice_15.h5", {})
    assert key == "patient099_frame01/15"


def test_acdc_faults(tmp_path):
    raw_trees.acdc(tmp_path, {"001": 2}, {"007": 1})
    config = raw_trees.config("acdc")
    first = tmp_path / "data/slices/patient001_frame01_slice_1.h5"
    first.write_bytes(first.read_bytes()[:300])
    with h5py.File(tmp_path / "data/slices/patient001_frame01_slice_2.h5", "a") as file:
        del file["label"]
    problems = {Path(f.file).name: f.problem for f in verify_raw(config, tmp_path, workers=1)}
    assert "cannot be read as HDF5" in problems["patient001_frame01_slice_1.h5"]
    assert problems["patient001_frame01_slice_2.h5"] == "holds no array 'label', only image"
    (tmp_path / "data/patient007_frame01.h5").unlink()
    faults = [str(f) for f in verify_raw(config, tmp_path, workers=1)]
    assert any("the volume is not there" in text for text in faults)


def test_whu_cd_pairs_are_one_file_of_two_frames(tmp_path):
    raw_trees.whu_cd(tmp_path / "raw", {"train": 4, "test": 2})
    manifest = prepared("whu_cd", tmp_path / "raw", tmp_path / "out")
    row = manifest.rows("train")[1]
    assert (row.frames, row.image_size, row.label_size) == (2, (24, 32), (24, 32))
    with Image.open(row.image) as picture:
        assert picture.size == (32, 48)
    image = read_image(row)
    assert image.shape == (6, 24, 32)
    for place, folder in enumerate("AB"):
        with Image.open(tmp_path / f"raw/{folder}/{row.key}.png") as picture:
            frame = torch.from_numpy(np.array(picture)).permute(2, 0, 1)
        assert torch.equal(image[3 * place : 3 * place + 3], frame)
    assert torch.equal(read_stored(row), image)
    label = read_label(row)
    assert sorted(label.unique().tolist()) == [0, 1]
    assert int((label == 1).sum()) == 8 * 14
    assert manifest.pixels("test")[1] > 0


def test_frames_crop_flip_and_scale_together(tmp_path):
    raw_trees.whu_cd(tmp_path / "raw", {"train": 4, "test": 1})
    shutil.copytree(tmp_path / "raw/A", tmp_path / "raw/B", dirs_exist_ok=True)
    manifest = prepared("whu_cd", tmp_path / "raw", tmp_path / "out")
    transform = TransformConfig(crop=(16, 16), scale=(0.8, 1.2))
    stream = Stream(name="labelled", rows=manifest.rows("train"), batch_size=4, transform=transform)
    images = StepBatches([stream], seed=1)[0]["labelled"].images
    assert images.shape == (4, 6, 16, 16)
    assert torch.equal(images[:, :3], images[:, 3:])


def test_whu_cd_faults(tmp_path):
    raw_trees.whu_cd(tmp_path, {"train": 3, "test": 1})
    (tmp_path / "B/whucd_00001.png").unlink()
    raw_trees.save(tmp_path / "B/whucd_00002.png", raw_trees.photo(1, 10, 10))
    texts = [str(fault) for fault in verify_raw(raw_trees.config("whu_cd"), tmp_path, workers=1)]
    assert any("the later image is not there" in text for text in texts)
    assert any("is 10x10, the earlier image 32x24" in text for text in texts)
    path = tmp_path / "B/whucd_00000.png"
    path.write_bytes(path.read_bytes()[:60])
    texts = [str(fault) for fault in verify_raw(raw_trees.config("whu_cd"), tmp_path, workers=1)]
    assert any(text.startswith(str(path)) for text in texts)


def test_turns_move_image_and_label_alike():
    label = torch.arange(64, dtype=torch.uint8).reshape(8, 8)
    image = label.expand(3, 8, 8)
    config = TransformConfig(crop=(8, 8), flip=0.0, quarter_turns=0.5, rotation=20.0)
    seen, counts = set(), {"plain": 0, "turned": 0, "rotated": 0}
    for seed in range(400):
        sample = random_geometry(image, label, config, torch.Generator().manual_seed(seed))
        assert torch.equal((sample.images[0] * 255).round().long(), sample.labels)
        values = sorted(sample.labels.flatten().tolist())
        if torch.equal(sample.labels, label.long()):
            counts["plain"] += 1
        elif values == list(range(64)):
            counts["turned"] += 1
            seen.add(tuple(sample.labels.flatten().tolist()))
        else:
            counts["rotated"] += 1
    # A quarter turn is followed by a mirroring: the four reflections of the square.
    assert len(seen) == 4
    assert 0.42 < counts["turned"] / 400 < 0.58
    assert 0.10 < counts["rotated"] / 400 < 0.32


def test_a_split_with_other_images_than_published_is_told(tmp_path, caplog):
    raw_trees.whu_cd(tmp_path / "raw", {"train": 4, "test": 1})
    with caplog.at_level(logging.WARNING):
        prepared("whu_cd", tmp_path / "raw", tmp_path / "out", images={"train": 5947, "test": 1})
    (text,) = [record.getMessage() for record in caplog.records]
    assert "the split train has 4 images, published are 5,947" in text


@pytest.mark.parametrize(
    ("fields", "count"),
    [
        ({}, 10582),
        ({"limit": 7}, 7),
        ({"part": "labelled", "partition": PartitionConfig(published="1_16")}, 662),
        ({"part": "rest", "partition": PartitionConfig(published="1_16")}, 9920),
        ({"part": "labelled", "partition": PartitionConfig(fraction="1/8")}, 1323),
        ({"part": "rest", "partition": PartitionConfig(list_file="mine.txt")}, None),
        ({"split": "test"}, None),
    ],
)
def test_expected_images(fields, count):
    config = DatasetConfig.from_mapping(
        {
            "name": "pascal",
            "layout": "voc",
            "classes": "pascal21",
            "splits": {"train": {"set": "blended"}, "test": {"set": "val"}},
            "images": {"train": 10582},
            "partitions": {"1_16": {"split": "train", "url": "https://a.b/c", "images": 662}},
        }
    )
    assert expected_images(SourceConfig(dataset="pascal", **fields), config) == count


def test_counts_are_no_part_of_what_is_prepared():
    plain, counted = (raw_trees.config("camvid", images=images) for images in ({}, {"train": 367}))
    assert plain.digest() == counted.digest()


def test_a_volume_of_another_shape_is_named(tmp_path):
    raw_trees.acdc(tmp_path, {"001": 1}, {"007": 1})
    path = tmp_path / "data/slices/patient001_frame01_slice_1.h5"
    raw_trees.write_h5(path, np.zeros((2, 20, 28)), np.zeros((2, 20, 28)))
    with pytest.raises(DataError, match="has 3 dimensions where a slice has 2"):
        prepared("acdc", tmp_path, tmp_path / "out")
