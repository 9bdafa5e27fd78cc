import os
from pathlib import Path

import pytest
import raw_trees

from ecocseg.data.layouts import LAYOUTS, find_root
from ecocseg.data.layouts.base import keys_of_list


def listed(layout, root, split="train", **options):
    return LAYOUTS[layout].listing(root, split, options)


def keys(listing):
    return [item.key for item in listing.items]


def test_every_layout_offers_what_the_table_promises():
    for name, layout in LAYOUTS.items():
        assert layout.__name__.endswith(name)
        assert layout.TREE
        # ACDC's splits are lists of patients.
        expected = {"exclude"} if name == "acdc" else {"list", "missing", "exclude"}
        assert expected <= layout.OPTIONS


def test_cityscapes_pairs_over_cities_and_passes_over_the_other_files(tmp_path):
    expected = raw_trees.cityscapes(tmp_path, {"train": 3})
    found = listed("cityscapes", tmp_path)
    assert not found.faults
    assert keys(found) == expected
    for item in found.items:
        assert item.image.name == f"{item.key}_leftImg8bit.png"
        assert item.label.name == f"{item.key}_gtFine_labelIds.png"
        assert item.label.parent.name == item.image.parent.name == item.key.split("_")[0]


def test_cityscapes_list_names_train_id_files_and_still_means_the_same_images(tmp_path):
    expected = raw_trees.cityscapes(tmp_path, {"train": 4})[:2]
    lines = [
        f"leftImg8bit/train/{key.split('_')[0]}/{key}_leftImg8bit.png "
        f"gtFine/train/{key.split('_')[0]}/{key}_gtFine_labelTrainIds.png\n"
        for key in expected
    ]
    (tmp_path / "part.txt").write_text("".join(lines))
    assert keys(listed("cityscapes", tmp_path, list="part.txt")) == expected


def test_cityscapes_says_how_to_use_train_ids_that_lie_there_instead(tmp_path):
    raw_trees.cityscapes(tmp_path, {"train": 1}, "labelTrainIds")
    [fault] = listed("cityscapes", tmp_path).faults
    assert "no *_gtFine_labelIds.png" in fault.problem
    assert "labels: labelTrainIds" in fault.remedy
    assert "cityscapes19_train_ids" in fault.remedy
    assert len(listed("cityscapes", tmp_path, labels="labelTrainIds").items) == 1


def test_gta_takes_all_pairs_or_those_of_a_list_of_numbers(tmp_path):
    raw_trees.gta(tmp_path, 3)
    assert keys(listed("gta", tmp_path)) == ["00001", "00002", "00003"]
    (tmp_path / "list.txt").write_text("1\n00003.png\n")
    assert keys(listed("gta", tmp_path, list="list.txt")) == ["00001", "00003"]


def test_gta_list_longer_than_the_archives_is_a_fault_unless_skipping_is_asked_for(tmp_path):
    raw_trees.gta(tmp_path, 1)
    (tmp_path / "list.txt").write_text("00001.png\n02154.png\n")
    [fault] = listed("gta", tmp_path, list="list.txt").faults
    assert "02154" in fault.file
    assert "the split list names it" in fault.problem
    assert "missing: skip" in fault.remedy
    found = listed("gta", tmp_path, list="list.txt", missing="skip")
    assert (keys(found), found.faults, found.skipped) == (["00001"], (), 1)


def test_skipping_does_not_hide_half_a_pair(tmp_path):
    raw_trees.gta(tmp_path, 2)
    (tmp_path / "labels/00002.png").unlink()
    (tmp_path / "list.txt").write_text("1\n2\n")
    [fault] = listed("gta", tmp_path, list="list.txt", missing="skip").faults
    assert fault.file.endswith("images/00002.png")


@pytest.mark.parametrize("layout, digits", [("gta", 5), ("synthia", 7)])
def test_files_that_the_published_code_wrote_beside_the_labels_are_passed_over(
    tmp_path, layout, digits
):
    getattr(raw_trees, layout)(tmp_path, 3)
    folder = tmp_path / ("labels" if layout == "gta" else "GT/LABELS")
    for path in sorted(folder.iterdir()):
        raw_trees.save(path.with_name(f"{path.stem}_labelTrainIds.png"), raw_trees.labels(0, (0,)))
    (tmp_path / "sample_class_stats.json").write_text("[]")
    found = listed(layout, tmp_path)
    assert found.faults == ()
    assert [len(key) for key in keys(found)] == [digits] * 3
    assert not any("TrainIds" in item.label.name for item in found.items)


def test_exclude_names_frames_as_lists_do(tmp_path):
    raw_trees.gta(tmp_path, 4)
    assert keys(listed("gta", tmp_path, exclude=["00002", "images/00004.png"])) == [
        "00001",
        "00003",
    ]
    # Half a pair that is left out is no fault.
    (tmp_path / "labels/00003.png").unlink()
    assert len(listed("gta", tmp_path).faults) == 1
    assert listed("gta", tmp_path, exclude=["3"]).faults == ()


def test_synthia_pairs_and_passes_over_colours_and_depth(tmp_path):
    raw_trees.synthia(tmp_path / "RAND_CITYSCAPES", 3)
    layout = LAYOUTS["synthia"]
    assert find_root(tmp_path, layout, {"train": {}}) == tmp_path / "RAND_CITYSCAPES"
    found = listed("synthia", tmp_path / "RAND_CITYSCAPES")
    assert (keys(found), found.faults) == (["0000000", "0000001", "0000002"], ())
    assert found.items[1].label.parts[-3:] == ("GT", "LABELS", "0000001.png")
    (tmp_path / "RAND_CITYSCAPES/part.txt").write_text("0\nRGB/0000002.png\n")
    assert keys(listed("synthia", tmp_path / "RAND_CITYSCAPES", list="part.txt")) == [
        "0000000",
        "0000002",
    ]


@pytest.mark.parametrize("extension", [".png", ".jpg", ".JPG", ".jpeg"])
def test_camvid_reads_its_lists_whatever_their_prefix_and_the_image_format(tmp_path, extension):
    raw_trees.camvid(tmp_path, {"train": 3}, extension)
    with (tmp_path / "train.txt").open("a") as file:
        file.write("\n")
    found = listed("camvid", tmp_path)
    assert (len(found.items), found.faults) == (3, ())
    (tmp_path / "train.txt").write_text("/SegNet/CamVid/train/0001TP_000001.png x.png\n")
    assert keys(listed("camvid", tmp_path)) == ["0001TP_000001"]
    (tmp_path / "train.txt").unlink()
    assert len(listed("camvid", tmp_path).items) == 3


def test_folders_pair_by_path_with_suffixes_through_links(tmp_path):
    real = tmp_path / "elsewhere"
    raw_trees.save(real / "a/1.JPG", raw_trees.photo(0))
    raw_trees.save(real / "b/1.jpg", raw_trees.photo(1))
    raw_trees.save(tmp_path / "own/masks/a/1_mask.PNG", raw_trees.labels(0, (0, 1)))
    raw_trees.save(tmp_path / "own/masks/b/1_mask.png", raw_trees.labels(0, (0, 1)))
    os.symlink(real, tmp_path / "own/photos")
    os.symlink(real, real / "round")
    found = listed(
        "folders", tmp_path / "own", images="photos", labels="masks", label_suffix="_mask"
    )
    assert keys(found) == ["a/1", "b/1"]
    assert found.faults == ()


def test_folders_without_labels_and_with_excluded_keys(tmp_path):
    for index in range(3):
        raw_trees.save(tmp_path / f"photos/{index}.png", raw_trees.photo(index))
    found = listed("folders", tmp_path, images="photos", labels=None, exclude=[1])
    assert keys(found) == ["0", "2"]
    assert all(item.label is None for item in found.items)


def test_unpaired_doubled_and_absent_are_all_named(tmp_path):
    raw_trees.gta(tmp_path, 3)
    (tmp_path / "images/00001.png").unlink()
    (tmp_path / "labels/00002.png").unlink()
    raw_trees.save(tmp_path / "images/00003.jpg", raw_trees.photo(3))
    faults = {Path(fault.file).name: str(fault) for fault in listed("gta", tmp_path).faults}
    assert "the image is not there, and its label is" in faults["00001"]
    assert "label is not there" in faults["00002.png"]
    assert "same key '00003'" in faults["00003.png"]
    [absent] = listed("folders", tmp_path, images="nowhere", labels=None).faults
    assert absent.problem == "the folder is not there"


def test_list_faults(tmp_path):
    raw_trees.gta(tmp_path, 1)
    (tmp_path / "twice.txt").write_text("1\n00001\n")
    (tmp_path / "binary.txt").write_bytes(b"\xff\xfe\x00")
    for name, words in (("twice", "twice"), ("binary", "no text"), ("gone", "is not there")):
        faults = listed("gta", tmp_path, list=f"{name}.txt").faults
        assert words in str(faults[0])


def test_blanks_in_names_and_byte_order_marks_in_lists(tmp_path):
    options = {"images": "photos"}
    key_of = LAYOUTS["folders"].key_of
    text = "photos/my room.jpg\n# a comment\n\na/b.png a/b_mask.png\nplain\n"
    assert keys_of_list(text, options, key_of) == ["my room", "a/b", "plain"]
    raw_trees.gta(tmp_path, 1)
    (tmp_path / "bom.txt").write_text("1\n", encoding="utf-8-sig")
    assert keys(listed("gta", tmp_path, list="bom.txt")) == ["00001"]


def test_the_root_is_found_below_wrapping_folders(tmp_path):
    raw_trees.cityscapes(tmp_path / "a/b", {"train": 1})
    layout = LAYOUTS["cityscapes"]
    assert find_root(tmp_path, layout, {"train": {}}) == tmp_path / "a/b"
    assert find_root(tmp_path / "a", LAYOUTS["gta"], {"train": {}}) is None
