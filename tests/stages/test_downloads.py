import hashlib
import logging
import shutil
import socket

import pytest

from ecocseg.data.config import RemoteFile
from ecocseg.errors import DataError, UserError
from pipeline.sources.download import ResumingDownloader, download, file_name, mirrored

CONTENT = bytes(range(256)) * 4000
SHA = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def bring(server, tmp_path):
    """Download the server's /data/a.bin as a data set's file."""
    server.files["/data/a.bin"] = CONTENT

    def call(sha256=SHA, **more):
        file = RemoteFile(url=server.url("/data/a.bin"), sha256=sha256)
        return download(file, tmp_path / "dl", tmp_path / "sums.json", **more)

    return call


def names(folder):
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


def test_whole_file_with_progress(bring, tmp_path, server):
    calls = []
    path, found = bring(progress=lambda done, total: calls.append((done, total)))
    assert (path, found) == (tmp_path / "dl/a.bin", SHA)
    assert path.read_bytes() == CONTENT
    assert calls[-1] == (len(CONTENT), len(CONTENT))
    assert names(tmp_path) == ["a.bin"]
    bring()
    assert len(server.requests) == 1


def test_broken_connections_are_resumed_where_they_broke(bring, server):
    server.cut = [300_000, 200_000]
    path, _ = bring()
    assert path.read_bytes() == CONTENT
    starts = [int(wanted[6:-1]) for _, wanted in server.requests if wanted]
    assert server.requests[0][1] is None
    assert starts == sorted(starts)
    # What arrived before a break is kept up to the block in flight.
    assert starts[0] > 200_000
    assert starts[-1] > 400_000


def test_a_killed_download_is_resumed_by_the_next_command(bring, server, tmp_path):
    # What a killed process leaves: the part and the tag that the server gave with it.
    (tmp_path / "dl").mkdir()
    (tmp_path / "dl/a.bin.part").write_bytes(CONTENT[:500_000])
    (tmp_path / "dl/a.bin.part.tag").write_text(f'"{SHA[:16]}"')
    path, _ = bring()
    assert path.read_bytes() == CONTENT
    assert server.requests == [("/data/a.bin", "bytes=500000-")]
    assert names(tmp_path) == ["a.bin"]


@pytest.mark.parametrize("change", ["file", "no ranges", "no tags", "part too long"])
def test_a_download_that_cannot_be_resumed_starts_anew(bring, server, tmp_path, change):
    (tmp_path / "dl").mkdir()
    (tmp_path / "dl/a.bin.part").write_bytes(b"x" * 500_000)
    (tmp_path / "dl/a.bin.part.tag").write_text('"older"' if change == "file" else f'"{SHA[:16]}"')
    server.ranges = change != "no ranges"
    if change == "no tags":
        server.tags = False
        (tmp_path / "dl/a.bin.part.tag").write_text("")
    if change == "part too long":
        (tmp_path / "dl/a.bin.part").write_bytes(b"x" * (len(CONTENT) + 1))
    path, _ = bring()
    assert path.read_bytes() == CONTENT


def test_other_content_than_the_checksum_says(bring, server, tmp_path):
    server.files["/data/a.bin"] = b"something else"
    with pytest.raises(DataError) as caught:
        bring()
    for words in (server.url("/data/a.bin"), SHA, "YAML (sha256)", "try again"):
        assert words in str(caught.value)
    assert hashlib.sha256(b"something else").hexdigest() in str(caught.value)
    assert names(tmp_path) == []
    server.files["/data/a.bin"] = CONTENT
    assert bring()[1] == SHA


def test_without_a_checksum_the_first_one_is_kept_and_said(bring, server, tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        path, found = bring(sha256=None)
    assert found == SHA
    assert SHA in caplog.text
    assert str(tmp_path / "sums.json") in caplog.text
    path.unlink()
    server.files["/data/a.bin"] = b"changed"
    with pytest.raises(DataError, match=r"sums\.json"):
        bring(sha256=None)


def test_server_that_lacks_the_file(bring, server):
    server.files.clear()
    with pytest.raises(UserError, match=r"answered 404. PUT IT THERE"):
        bring(instead="PUT IT THERE")


def test_nobody_there(tmp_path):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{unused.getsockname()[1]}/a.zip"
    with pytest.raises(UserError, match=r"cannot be reached \(.*refused.*\)\. PUT IT THERE"):
        download(
            RemoteFile(url=address), tmp_path / "dl", tmp_path / "s.json", instead="PUT IT THERE"
        )
    assert names(tmp_path) == []


def test_a_server_that_breaks_off_for_ever_is_given_up_and_the_part_kept(bring, server, tmp_path):
    server.cut = [100_000] + [0] * 20
    with pytest.raises(UserError, match="cannot be reached"):
        bring()
    assert "a.bin.part" in names(tmp_path)
    server.cut = []
    server.requests.clear()
    bring()
    assert server.requests[0][1].startswith("bytes=")


def test_no_space(bring, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(UserError, match=r"1 MB are needed and 0 MB are free"):
        bring()
    assert "a.bin" not in names(tmp_path)


def test_mirrors_stand_in_for_addresses_and_are_checked_too(tmp_path):
    (tmp_path / "m/1_8").mkdir(parents=True)
    (tmp_path / "m/1_8/a b.txt").write_bytes(CONTENT)
    mirrors = {"https://host/lists": str(tmp_path / "m"), "https://none": None}
    url = "https://host/lists/1_8/a%20b.txt"
    path, found = download(
        RemoteFile(url=url, sha256=SHA), tmp_path, tmp_path / "s", mirrors=mirrors
    )
    assert (path, found) == (tmp_path / "m/1_8/a b.txt", SHA)
    with pytest.raises(DataError, match="expected 0000"):
        download(RemoteFile(url=url, sha256="0" * 64), tmp_path, tmp_path / "s", mirrors=mirrors)
    assert path.is_file()
    assert mirrored("https://host/lists2/x", mirrors) is None
    with pytest.raises(DataError, match=r"data\.mirrors"):
        mirrored("https://host/lists/1_4/x", mirrors)


def test_names_of_downloads(tmp_path):
    assert file_name("https://host/a/b%20c.zip?raw=1#x") == "b c.zip"
    assert ResumingDownloader(tmp_path / "a.zip.part").tag.name == "a.zip.part.tag"
