import shutil

import numpy as np
import pytest
import raw_trees
from PIL import Image

from ecocseg.data.prepare import prepare
from ecocseg.data.verify import fail_on, verify_raw
from ecocseg.errors import DataError


@pytest.fixture
def streets(tmp_path):
    """A sound data set in Cityscapes' layout."""
    raw_trees.cityscapes(tmp_path / "raw", {"train": 3, "val": 2})
    assert verify_raw(raw_trees.config("cityscapes"), tmp_path / "raw") == []
    return tmp_path / "raw"


def faults_of(root, name="cityscapes", **changes):
    return [str(fault) for fault in verify_raw(raw_trees.config(name, **changes), root)]


def first(root, pattern):
    return sorted(root.rglob(pattern))[0]


def only(faults, *words):
    """Check that there is exactly one fault and that it says all of `words`."""
    assert len(faults) == 1, faults
    for word in words:
        assert str(word) in faults[0]


def test_missing_image(streets):
    path = first(streets, "*_leftImg8bit.png")
    path.unlink()
    only(faults_of(streets), path.name.split("_leftImg8bit")[0], "image is not there", "exclude")


@pytest.mark.parametrize("pattern", ["*_leftImg8bit.png", "*_labelIds.png"])
@pytest.mark.parametrize("keep", [0, 20, 0.5, 0.95])
def test_truncated_files(streets, pattern, keep):
    path = first(streets, pattern)
    content = path.read_bytes()
    path.write_bytes(content[: int(keep * len(content)) if keep < 1 else keep])
    problem = "the file is empty" if keep == 0 else ""
    only(faults_of(streets), path, problem, "copy or download it again")


def test_truncated_jpeg(tmp_path):
    raw_trees.camvid(tmp_path, {"train": 2, "val": 1}, ".jpg")
    path = first(tmp_path, "*.jpg")
    path.write_bytes(path.read_bytes()[:-200])
    only(faults_of(tmp_path, "camvid"), path, "truncated", "download it again")


def test_file_that_is_no_image(streets):
    path = first(streets, "*_leftImg8bit.png")
    path.write_text("<html>404</html>")
    only(faults_of(streets), path, "is no image")


def test_label_of_another_size(streets):
    path = first(streets, "*_labelIds.png")
    raw_trees.save(path, raw_trees.labels(0, raw_trees.LABEL_IDS, 24, 30))
    only(faults_of(streets), path, "is 30x24", "32x24", "same size")


def test_a_game_frame_of_another_size_than_its_label_is_left_out_by_its_key(tmp_path):
    raw_trees.gta(tmp_path, 3)
    odd = tmp_path / "labels/00002.png"
    raw_trees.save(odd, raw_trees.labels(2, raw_trees.LABEL_IDS, 22, 32))
    # A pair whose two files share another size is sound.
    raw_trees.save(tmp_path / "images/00003.png", raw_trees.photo(3, 22, 32))
    raw_trees.save(tmp_path / "labels/00003.png", raw_trees.labels(3, raw_trees.LABEL_IDS, 22, 32))
    only(faults_of(tmp_path, "gta"), odd, "is 32x22", "32x24", 'exclude: ["00002"]')
    splits = {"train": {"exclude": ["00002"]}}
    assert faults_of(tmp_path, "gta", splits=splits) == []
    config = raw_trees.config("gta", splits=splits, size=[12, 16], keep_ratio=True)
    rows = prepare(config, tmp_path, tmp_path / "out").all_rows
    assert [(row.key, row.image_size, row.raw_size) for row in rows] == [
        ("00001", (12, 16), (24, 32)),
        ("00003", (11, 16), (22, 32)),
    ]


def test_unknown_class_value(streets):
    path = first(streets, "*_labelIds.png")
    raw_trees.save(path, raw_trees.labels(0, (7, 11, 26, 77)))
    only(faults_of(streets), path, "unknown class value 77", "0-33", "classes")


def test_train_ids_where_label_ids_belong_in_one_file(streets):
    path = first(streets, "*_labelIds.png")
    raw_trees.save(path, raw_trees.labels(0, (0, 1, 13, 255)))
    only(
        faults_of(streets),
        path,
        "look like train ids where label ids belong",
        "cityscapes19_train_ids",
    )


def test_train_ids_where_label_ids_belong_in_a_whole_split(streets):
    # Without a 255 every value is a label id as well: only the split as a whole tells.
    for path in (streets / "gtFine/train").rglob("*_labelIds.png"):
        raw_trees.save(path, raw_trees.labels(0, (0, 1, 13, 18)))
    only(faults_of(streets), "split train", "look like train ids", "*_labelIds.png")


def test_label_ids_where_train_ids_belong(streets):
    faults = faults_of(streets, classes="cityscapes19_train_ids")
    assert len(faults) == 5
    for fault in faults:
        assert "look like Cityscapes label ids where train ids belong" in fault
        assert "cityscapes19" in fault


def test_label_ids_in_own_data_declared_as_train_ids(tmp_path):
    raw_trees.save(tmp_path / "photos/1.png", raw_trees.photo(0))
    raw_trees.save(tmp_path / "masks/1.png", raw_trees.labels(0, (0, 5)))
    only(faults_of(tmp_path, "folders"), "unknown class value 5", "classes.ids")


def test_empty_split(streets):
    shutil.rmtree(streets / "leftImg8bit/val")
    shutil.rmtree(streets / "gtFine/val")
    faults = faults_of(streets)
    assert faults
    assert all("val: the folder is not there" in fault for fault in faults)
    (streets / "leftImg8bit/val").mkdir()
    (streets / "gtFine/val").mkdir()
    only(faults_of(streets), "split val", "the split is empty", "leftImg8bit/{train,val}")


def test_root_that_is_not_there(tmp_path):
    only(
        faults_of(tmp_path / "gone"),
        tmp_path / "gone",
        "the data root is not there",
        "data.sources.cityscapes",
        "leftImg8bit/{train,val}",
    )


def test_colour_label_where_numbers_belong(streets):
    path = first(streets, "*_labelIds.png")
    raw_trees.save(path, raw_trees.photo(0))
    only(faults_of(streets), path, "mode RGB", "label_values: colors")


def test_unknown_colours(tmp_path):
    classes = {"names": ["floor", "wall"], "colors": [[0, 0, 200], [200, 0, 0]]}
    mask = np.full((24, 32, 3), (0, 0, 200), dtype=np.uint8)
    raw_trees.save(tmp_path / "photos/1.png", raw_trees.photo(0))
    path = raw_trees.save(tmp_path / "masks/1.png", mask)
    assert faults_of(tmp_path, "folders", classes=classes, label_values="colors") == []
    mask[0, :3] = (1, 2, 3)
    raw_trees.save(path, mask)
    only(
        faults_of(tmp_path, "folders", classes=classes, label_values="colors"),
        path,
        "3 pixels of 1 unknown colours",
        "(1, 2, 3)",
        "ignore_colors",
    )


def test_photographs_that_programs_read_differently(tmp_path):
    raw_trees.camvid(tmp_path, {"train": 1, "val": 1}, ".jpg")
    path = first(tmp_path, "train/*.jpg")
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.open(path).save(path, exif=exif)
    only(faults_of(tmp_path, "camvid"), path, "EXIF", "auto-orient")
    deep = raw_trees.photo(0)[..., 0].astype(np.uint16) * 200
    raw_trees.save(path, raw_trees.photo(0))
    Image.fromarray(deep).save(path.with_suffix(".png"))
    path.unlink()
    only(faults_of(tmp_path, "camvid"), "more than 8 bits", "8-bit RGB")


def test_scored_split_needs_labels(tmp_path):
    raw_trees.save(tmp_path / "photos/1.png", raw_trees.photo(0))
    splits = {"val": {"images": "photos", "labels": None, "evaluate": True}}
    only(faults_of(tmp_path, "folders", splits=splits), "splits.val", "has no labels")


def test_all_faults_at_once_in_order_of_files_for_any_worker_count(tmp_path):
    root = tmp_path / "raw"
    raw_trees.gta(root, 60)
    for number in (5, 17, 44):
        raw_trees.save(root / f"labels/{number:05d}.png", raw_trees.labels(0, (7, 26, 99)))
    (root / "images/00030.png").write_bytes(b"")
    (root / "labels/00055.png").unlink()
    config = raw_trees.config("gta")
    alone = verify_raw(config, root, workers=1)
    assert len(alone) == 5
    assert verify_raw(config, root, workers=2) == alone
    assert [fault.file for fault in alone] == sorted(fault.file for fault in alone)
    with pytest.raises(DataError) as caught:
        prepare(config, root, tmp_path / "out")
    assert "5 faults" in str(caught.value)
    for fault in alone:
        assert str(fault) in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_long_lists_are_cut_with_their_number(tmp_path):
    raw_trees.gta(tmp_path, 60)
    for path in (tmp_path / "labels").iterdir():
        path.unlink()
    faults = verify_raw(raw_trees.config("gta"), tmp_path)
    with pytest.raises(DataError) as caught:
        fail_on(faults, tmp_path / "all.txt")
    message = str(caught.value)
    assert message.startswith("60 faults")
    assert "and 10 more" in message
    assert message.endswith("all.txt")
