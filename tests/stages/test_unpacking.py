import io
import shutil
import stat
import tarfile
import zipfile

import pytest

from ecocseg.errors import DataError, UserError
from pipeline.sources.archive import is_archive, unpack


def make_zip(path, members):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def make_tar(path, members, mode="w:gz"):
    with tarfile.open(path, mode) as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


MAKERS = {"a.zip": make_zip, "a.tar.gz": make_tar, "a.TGZ": make_tar}


def tree(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.mark.parametrize("name", MAKERS)
def test_content_is_unpacked_whole_or_by_subfolder(tmp_path, name):
    members = {"top/x/1.txt": b"one", "top/x/y/2.bin": bytes(3000), "other/3": b"three"}
    archive = MAKERS[name](tmp_path / name, members)
    calls = []
    unpack(archive, tmp_path / "all", progress=lambda done, total: calls.append((done, total)))
    assert tree(tmp_path / "all") == members
    assert calls[-1] == (3008, 3008)
    unpack(archive, tmp_path / "part", "top/x")
    assert tree(tmp_path / "part") == {"1.txt": b"one", "y/2.bin": bytes(3000)}
    with pytest.raises(DataError, match="no file below top/z"):
        unpack(archive, tmp_path / "none", "top/z")


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize("bad", ["../evil", "a/../../evil", "/evil", "..\\evil", "C:/evil"])
def test_nothing_is_written_outside_of_the_target(tmp_path, name, bad):
    archive = MAKERS[name](tmp_path / name, {"fine": b"1", bad: b"2"})
    with pytest.raises(DataError) as caught:
        unpack(archive, tmp_path / "deep/target")
    assert "outside of the target" in str(caught.value)
    assert "evil" in str(caught.value)
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == [name]


def test_links_are_refused(tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        info = tarfile.TarInfo("out")
        info.type, info.linkname = tarfile.SYMTYPE, "/etc"
        archive.addfile(info)
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as opened:
        entry = zipfile.ZipInfo("out")
        entry.external_attr = (stat.S_IFLNK | 0o777) << 16
        opened.writestr(entry, "/etc")
    for name in ("a.tar", "a.zip"):
        with pytest.raises(DataError, match="'out' is a link"):
            unpack(tmp_path / name, tmp_path / "target")
    assert not (tmp_path / "target").exists()


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize("share", [0.0, 0.5])
def test_damaged_archives(tmp_path, name, share):
    archive = MAKERS[name](tmp_path / name, {str(i): bytes(range(256)) * 9 for i in range(9)})
    content = archive.read_bytes()
    archive.write_bytes(content[: int(share * len(content))])
    with pytest.raises(DataError, match=r"(?s)cannot be unpacked.*download it again"):
        unpack(archive, tmp_path / "target")


def test_damaged_content_of_a_whole_zip(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("1", b"abcdefgh" * 50)
    content = (tmp_path / "a.zip").read_bytes().replace(b"abcdefgh", b"abcdXfgh", 1)
    (tmp_path / "a.zip").write_bytes(content)
    with pytest.raises(DataError, match="CRC"):
        unpack(tmp_path / "a.zip", tmp_path / "target")


def test_no_space(tmp_path, monkeypatch):
    archive = make_zip(tmp_path / "a.zip", {"big": bytes(5_000_000)})
    usage = shutil.disk_usage(tmp_path)._replace(free=4_000_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(UserError, match=r"5 MB are needed and 4 MB are free"):
        unpack(archive, tmp_path / "target")
    assert not (tmp_path / "target").exists()


def test_archives_by_name(tmp_path):
    for name in ("a.zip", "a.tar", "A.TAR.XZ", "a.tgz"):
        assert is_archive(tmp_path / name)
    for name in ("a.gz", "a.txt", ".a.zip", "zip"):
        assert not is_archive(tmp_path / name)
