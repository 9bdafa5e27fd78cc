import io
import json
import os
import shutil
import zipfile
from pathlib import Path

import pytest
import raw_trees

from ecocseg.errors import ConfigError, DataError, UserError
from ecocseg.files import sha256_file
from pipeline.sources.receipts import read_receipt


def state(folder):
    return {
        path: (path.stat().st_mtime_ns, path.read_bytes())
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_own_folder_is_used_in_place_and_untouched(bring, camvid, tmp_path):
    before = state(camvid)
    receipt = bring(raw_trees.config("camvid"), sources={"camvid": str(camvid)})["camvid"]
    assert (receipt.kind, receipt.root, receipt.files) == ("local", str(camvid), 10)
    assert receipt.bytes == sum(
        path.stat().st_size for path in camvid.rglob("*") if path.suffix == ".png"
    )
    assert state(camvid) == before
    assert not (tmp_path / "data/raw").exists()


def test_receipt_is_the_same_for_the_same_files_and_another_for_changed_ones(bring, camvid):
    config = raw_trees.config("camvid")
    first = bring(config, sources={"camvid": str(camvid)})
    assert bring(config, sources={"camvid": str(camvid)}) == first
    path = next(camvid.glob("trainannot/*.png"))
    os.utime(path, ns=(1, 1))
    assert bring(config, sources={"camvid": str(camvid)}) != first


def test_own_folder_with_the_data_set_below_or_behind_a_link(bring, camvid, tmp_path):
    os.symlink(tmp_path, tmp_path / "link")
    config = raw_trees.config("camvid")
    receipt = bring(config, sources={"camvid": str(tmp_path / "link")})["camvid"]
    assert receipt.root == str(tmp_path / "link/mine")


@pytest.mark.parametrize("below", ["", "release/CamVid"])
def test_own_archive_is_unpacked_into_the_raw_folder_once(bring, camvid, tmp_path, below):
    archive = raw_trees.zipped(camvid, tmp_path / "CamVid.zip", below)
    config = raw_trees.config("camvid")
    before = archive.read_bytes()
    receipt = bring(config, sources={"camvid": str(archive)})["camvid"]
    assert receipt.kind == "archive"
    assert receipt.root == str(Path("raw/camvid", below))
    assert receipt.files == 10
    assert archive.read_bytes() == before
    made = state(tmp_path / "data/raw")
    assert bring(config, sources={"camvid": str(archive)})["camvid"] == receipt
    assert state(tmp_path / "data/raw") == made
    (camvid / "train.txt").write_text("train/0001TP_000000.png x.png\n")
    raw_trees.zipped(camvid, archive, below)
    assert bring(config, sources={"camvid": str(archive)})["camvid"].files == 6


@pytest.mark.parametrize("place", ["source", "raw"])
def test_archives_of_a_walled_data_set_wherever_they_were_put(bring, tmp_path, place):
    tree = tmp_path / "tree"
    raw_trees.cityscapes(tree, {"train": 3, "val": 2})
    folder = tmp_path / ("zips" if place == "source" else "data/raw/cityscapes")
    folder.mkdir(parents=True)
    for name, part in (("leftImg8bit_trainvaltest", "leftImg8bit"), ("gtFine_x", "gtFine")):
        raw_trees.zipped(tree / part, folder / f"{name}.zip", part)
    before = state(folder)
    sources = {"cityscapes": str(folder)} if place == "source" else {}
    receipt = bring(raw_trees.config("cityscapes"), sources=sources)["cityscapes"]
    assert (receipt.kind, receipt.files) == ("archive", 10)
    assert {path: before[path] for path in before} == {
        path: content for path, content in state(folder).items() if path in before
    }
    assert bring(raw_trees.config("cityscapes"), sources=sources)["cityscapes"] == receipt


def test_files_put_into_the_raw_folder_are_used_in_place(bring, tmp_path):
    raw_trees.gta(tmp_path / "data/raw/gta", 2)
    before = state(tmp_path / "data/raw")
    receipt = bring(raw_trees.config("gta"))["gta"]
    assert (receipt.kind, receipt.root) == ("local", "raw/gta")
    assert state(tmp_path / "data/raw") == before


def test_walled_data_set_says_where_to_register_and_what_to_put_where(bring, tmp_path):
    config = raw_trees.config(
        "cityscapes", raw={"kind": "local", "register": "Register at https://example.org"}
    )
    with pytest.raises(UserError) as caught:
        bring(config)
    for words in (
        "Register at https://example.org",
        "data.sources.cityscapes",
        str(tmp_path / "data/raw/cityscapes"),
        "leftImg8bit/{train,val}/<city>",
        "gtFine/{train,val}/<city>",
    ):
        assert words in str(caught.value)


def test_a_source_that_is_not_there_or_something_else(bring, tmp_path):
    config = raw_trees.config("gta")
    with pytest.raises(DataError) as caught:
        bring(config, sources={"gta": str(tmp_path / "gone")})
    for words in ("data.sources.gta", str(tmp_path / "gone"), "is not there", "images/00001.png"):
        assert words in str(caught.value)
    (tmp_path / "other").mkdir()
    with pytest.raises(DataError, match="neither the data set nor its archive"):
        bring(config, sources={"gta": str(tmp_path / "other")})
    raw_trees.zipped(Path(raw_trees.__file__).parent, tmp_path / "tests.zip")
    with pytest.raises(DataError, match=r"tests\.zip: unpacked into .* is not in there"):
        bring(config, sources={"gta": str(tmp_path / "tests.zip")})


def test_all_data_sets_that_fail_are_told_of_and_the_others_are_brought(bring, camvid, tmp_path):
    configs = [raw_trees.config(name) for name in ("gta", "camvid", "cityscapes")]
    with pytest.raises(UserError) as caught:
        bring(*configs, sources={"camvid": str(camvid)})
    assert "'gta'" in str(caught.value)
    assert "'cityscapes'" in str(caught.value)
    assert read_receipt(tmp_path / "data", "camvid").files == 10


def test_two_data_sets_may_share_their_raw_files(bring, camvid):
    one = raw_trees.config("camvid")
    small = raw_trees.config("camvid", name="camvid_small", source="camvid", size=[12, 16])
    receipts = bring(one, small, sources={"camvid": str(camvid)})
    assert receipts["camvid"].root == receipts["camvid_small"].root
    other = raw_trees.config(
        "camvid", name="b", source="camvid", raw={"kind": "local", "path": "x"}
    )
    with pytest.raises(ConfigError, match=r"'camvid' and 'b' share the source"):
        bring(one, other, sources={"camvid": str(camvid)})


def generated(**changes):
    raw = {"kind": "generate", "generator": "streets", "domain": "game", "counts": {"train": 2}}
    raw |= {"height": 32, "width": 64, "seed": 0, **changes}
    return raw_trees.config("gta", name="game", raw=raw)


def test_generated_once_completed_after_an_interruption_and_anew_when_changed(bring, tmp_path):
    receipt = bring(generated())["game"]
    assert (receipt.kind, receipt.root, receipt.files) == ("generate", "raw/game", 4)
    raw = tmp_path / "data/raw/game"
    whole = {path: sha256_file(path) for path in raw.glob("*/*.png")}
    assert bring(generated())["game"] == receipt
    marker = json.loads((raw / ".ecocseg.json").read_text())
    (raw / ".ecocseg.json").write_text(json.dumps(marker | {"complete": False}))
    (raw / "images/00002.png").unlink()
    assert bring(generated())["game"] == receipt
    assert {path: sha256_file(path) for path in raw.glob("*/*.png")} == whole
    assert bring(generated(counts={"train": 1}))["game"].files == 2
    with pytest.raises(ConfigError, match="'roads', allowed: streets"):
        bring(generated(generator="roads"))


def test_no_space_for_unpacking(bring, camvid, tmp_path, monkeypatch):
    big = io.BytesIO()
    with zipfile.ZipFile(big, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("train/1.png", bytes(8_000_000))
    (tmp_path / "big.zip").write_bytes(big.getvalue())
    usage = shutil.disk_usage(tmp_path)._replace(free=1_000_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(UserError, match=r"8 MB are needed and 1 MB are free.*data\.root"):
        bring(raw_trees.config("camvid"), sources={"camvid": str(tmp_path / "big.zip")})
    assert not (tmp_path / "data/raw/camvid").exists()
    assert not (tmp_path / "data/fetched").exists()
