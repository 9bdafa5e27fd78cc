import hashlib
import json
import re
import shutil
import zipfile

import pytest
import raw_trees

from ecocseg.errors import DataError, UserError


def camvid_url(url, sha256=None, **more):
    entry = {"url": url, "sha256": sha256, "unpack": True, "subfolder": "repo/CamVid", **more}
    return raw_trees.config("camvid", raw={"kind": "url", "files": [entry]})


@pytest.fixture
def served(server, camvid, tmp_path):
    """An archive as GitHub makes it, on the server."""
    archive = raw_trees.zipped(camvid, tmp_path / "a.zip", "repo/CamVid")
    with zipfile.ZipFile(archive, "a") as opened:
        opened.writestr("repo/README.md", "not wanted")
    server.files["/archive/a.zip"] = archive.read_bytes()
    shutil.rmtree(camvid)
    return server.url("/archive/a.zip")


def test_download_unpacks_the_wanted_folder_and_drops_the_archive(bring, served, server, tmp_path):
    sha = hashlib.sha256(server.files["/archive/a.zip"]).hexdigest()
    receipt = bring(camvid_url(served, sha))["camvid"]
    assert (receipt.kind, receipt.root, receipt.files) == ("url", "raw/camvid", 10)
    assert receipt.downloads == {served: sha}
    assert not list((tmp_path / "data").rglob("a.zip*"))
    assert not list((tmp_path / "data").rglob("README.md"))
    assert bring(camvid_url(served, sha))["camvid"] == receipt
    assert len(server.requests) == 1
    # DVC may remove receipts before it runs the stage: the files themselves tell.
    shutil.rmtree(tmp_path / "data/fetched")
    assert bring(camvid_url(served, sha))["camvid"] == receipt
    assert len(server.requests) == 1


def test_download_without_checksum_records_it(bring, served, tmp_path, caplog):
    receipt = bring(camvid_url(served))["camvid"]
    sums = json.loads((tmp_path / "data/downloads/checksums.json").read_text())
    assert receipt.downloads == sums
    assert "no checksum is known" in caplog.text


def test_wrong_checksum_leaves_nothing(bring, served, tmp_path):
    with pytest.raises(DataError, match="expected 0000"):
        bring(camvid_url(served, "0" * 64))
    assert [path for path in (tmp_path / "data").rglob("*") if path.is_file()] == []


def test_interrupted_between_download_and_unpacking(bring, served, server, tmp_path, monkeypatch):
    sha = hashlib.sha256(server.files["/archive/a.zip"]).hexdigest()
    with monkeypatch.context() as patch:
        patch.setattr("pipeline.stages.fetch.replace_folder", _killed)
        with pytest.raises(KeyboardInterrupt):
            bring(camvid_url(served, sha))
    assert not (tmp_path / "data/raw/camvid").exists()
    assert bring(camvid_url(served, sha))["camvid"].files == 10
    assert len(server.requests) == 1
    assert not list((tmp_path / "data/raw").glob(".*"))


def _killed(*_):
    raise KeyboardInterrupt


def test_server_gone_says_what_to_put_where(bring, served, server, tmp_path):
    server.files.clear()
    with pytest.raises(UserError) as caught:
        bring(camvid_url(served))
    for words in ("answered 404", "data.sources.camvid", str(tmp_path / "data/raw/camvid")):
        assert words in str(caught.value)
    assert "trainannot/<name>.png" in str(caught.value)


def test_partition_lists_come_from_the_server_or_a_mirror(bring, server, tmp_path, caplog):
    raw_trees.cityscapes(tmp_path / "mine", {"train": 2, "val": 1})
    text = b"x/aachen_000000_000019_leftImg8bit.png y.png\n"
    server.files["/splits/1_2/labeled.txt"] = text
    entry = {
        "split": "train",
        "url": server.url("/splits/1_2/labeled.txt"),
        "sha256": hashlib.sha256(text).hexdigest(),
    }
    config = raw_trees.config("cityscapes", partitions={"1_2": entry})
    sources = {"cityscapes": str(tmp_path / "mine")}
    receipt = bring(config, sources=sources)["cityscapes"]
    assert receipt.partitions == {"1_2": "partitions/cityscapes/1_2.txt"}
    assert (tmp_path / "data/partitions/cityscapes/1_2.txt").read_bytes() == text
    bring(config, sources=sources)
    assert len(server.requests) == 1
    shutil.rmtree(tmp_path / "data")
    server.files.clear()
    # Only runs on the partition need its list: fetch goes on, and says how to get it.
    assert bring(config, sources=sources)["cityscapes"].partitions == {}
    assert re.search(r"partition 1_2 is left out: .*answered 404.*data\.mirrors", caplog.text)
    (tmp_path / "mirror").mkdir()
    (tmp_path / "mirror/labeled.txt").write_bytes(text)
    mirrors = {server.url("/splits/1_2"): str(tmp_path / "mirror")}
    assert bring(config, sources=sources, mirrors=mirrors)["cityscapes"] == receipt


def test_files_that_were_not_fetched_are_never_replaced(bring, served, tmp_path):
    own = tmp_path / "data/raw/camvid/notes.txt"
    own.parent.mkdir(parents=True)
    own.write_text("mine")
    with pytest.raises(DataError, match="holds something else"):
        bring(camvid_url(served))
    archive = tmp_path / "b.zip"
    with zipfile.ZipFile(archive, "w") as opened:
        opened.writestr("train/x.png", "")
    with pytest.raises(DataError, match="they are left alone"):
        bring(raw_trees.config("camvid"), sources={"camvid": str(archive)})
    assert own.read_text() == "mine"
