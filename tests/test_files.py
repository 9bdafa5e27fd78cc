import hashlib
import shutil

import pytest

from ecocseg.errors import UserError
from ecocseg.files import atomic_path, atomic_write, require_space, sha256_file


def test_writes_bytes_and_text_and_makes_the_folder(tmp_path):
    atomic_write(tmp_path / "new" / "a.txt", "ä\n")
    atomic_write(tmp_path / "new" / "b.bin", b"\x00\xff")
    assert (tmp_path / "new" / "a.txt").read_bytes() == "ä\n".encode()
    assert (tmp_path / "new" / "b.bin").read_bytes() == b"\x00\xff"
    assert sorted(p.name for p in (tmp_path / "new").iterdir()) == ["a.txt", "b.bin"]


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "picture.png"
    path.write_text("old")

    def write() -> None:
        with atomic_path(path) as temporary:
            assert temporary.suffix == ".png"
            assert temporary.parent == tmp_path
            temporary.write_text("half")
            assert path.read_text() == "old"
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_sha256(tmp_path):
    path = tmp_path / "x"
    path.write_bytes(b"abc" * 1000)
    assert sha256_file(path) == hashlib.sha256(b"abc" * 1000).hexdigest()


def test_space_is_asked_of_the_disk_that_will_hold_the_folder(tmp_path):
    absent = tmp_path / "not" / "yet"
    require_space(absent, 1)
    free = shutil.disk_usage(tmp_path).free
    with pytest.raises(UserError, match=r"yet: .* MB are needed and .* MB are free.*data\.root"):
        require_space(absent, 10 * free + 1)
    assert not absent.exists()
