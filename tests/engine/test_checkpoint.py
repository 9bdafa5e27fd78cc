import subprocess
import sys

import pytest
import torch

from ecocseg.engine import checkpoint
from ecocseg.errors import DataError


def test_what_is_saved_is_loaded(tmp_path):
    state = {"step": 3, "w": torch.rand(4), "nested": [{"betas": (0.9, 0.999), "none": None}]}
    path = tmp_path / "runs" / "last.pt"
    checkpoint.save(path, state)
    loaded = checkpoint.load(path)
    assert torch.equal(loaded.pop("w"), state.pop("w"))
    assert loaded == state
    assert [p.name for p in path.parent.iterdir()] == ["last.pt"]


@pytest.mark.parametrize("kept", [0.0, 0.01, 0.5, 0.999])
def test_a_truncated_file_is_named_with_the_remedy(tmp_path, kept):
    path = tmp_path / "last.pt"
    checkpoint.save(path, {"w": torch.rand(300)})
    whole = path.read_bytes()
    path.write_bytes(whole[: int(kept * len(whole))])
    with pytest.raises(DataError, match=r"last\.pt: the checkpoint cannot be read \(.+\); remove"):
        checkpoint.load(path)


@pytest.mark.parametrize("content", [b"garbage", b"\x80\x02.", b"h\x01.", bytes(100)])
def test_what_is_no_checkpoint(tmp_path, content):
    path = tmp_path / "last.pt"
    path.write_bytes(content)
    with pytest.raises(DataError, match="cannot be read"):
        checkpoint.load(path)


def test_a_checkpoint_executes_nothing(tmp_path):
    path, victim = tmp_path / "evil.pt", tmp_path / "made"

    class Evil:
        def __reduce__(self):
            return victim.touch, ()

    torch.save({"state": Evil()}, path)
    with pytest.raises(DataError):
        checkpoint.load(path)
    assert not victim.exists()


def test_a_failed_save_keeps_the_old_one(tmp_path):
    path = tmp_path / "last.pt"
    checkpoint.save(path, {"step": 1})
    with pytest.raises((AttributeError, TypeError, RuntimeError)):
        checkpoint.save(path, {"step": 2, "bad": (i for i in range(3))})
    assert checkpoint.load(path) == {"step": 1}
    assert len(list(tmp_path.iterdir())) == 1


def test_every_flipped_byte_of_a_tensor_is_found(tmp_path):
    path = tmp_path / "last.pt"
    checkpoint.save(path, {"w": torch.full((64,), 1.5)})
    whole = path.read_bytes()
    start = whole.index(torch.full((64,), 1.5).numpy().tobytes())
    for place in range(start, start + 256, 37):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(checkpoint.Unreadable, match="checksum"):
            checkpoint.load(path)


def test_the_previous_one_is_kept_and_stands_in_for_an_unreadable_last(tmp_path):
    path = tmp_path / "last.pt"
    assert checkpoint.newest(path) == checkpoint.Found()
    for step in (1, 2, 3):
        checkpoint.save(path, {"step": step}, keep_previous=True)
    assert {p.name for p in tmp_path.iterdir()} == {"last.pt", "previous.pt"}
    assert checkpoint.newest(path) == checkpoint.Found(state={"step": 3})

    path.write_bytes(path.read_bytes()[:-100])
    found = checkpoint.newest(path)
    assert (found.state, found.previous) == ({"step": 2}, True)
    assert found.messages[0].startswith("last.pt cannot be read (")
    assert found.messages[0].endswith("set aside as last.pt.unreadable")
    # What is read a second time, and what is saved next, knows nothing of the damage.
    assert checkpoint.newest(path) == checkpoint.Found(state={"step": 2}, previous=True)
    checkpoint.save(path, {"step": 4}, keep_previous=True)
    assert checkpoint.load(path.with_name("previous.pt")) == {"step": 2}

    for name in ("last.pt", "previous.pt"):
        (tmp_path / name).write_bytes(b"rubbish")
    found = checkpoint.newest(path)
    assert found.state is None
    assert [text.split()[0] for text in found.messages] == ["last.pt", "previous.pt"]


def test_a_file_cut_off_anywhere_is_unreadable(tmp_path):
    path = tmp_path / "last.pt"
    checkpoint.save(path, {"w": torch.rand(40, 40), "step": 3, "names": ["a"] * 50})
    whole = path.read_bytes()
    # Where torch looks for the end of the archive it seeks before the start of some of these.
    for length in [*range(0, 6000, 113), *range(len(whole) - 300, len(whole), 41)]:
        path.write_bytes(whole[:length])
        with pytest.raises(checkpoint.Unreadable):
            checkpoint.load(path)


def test_a_disk_that_does_not_answer_costs_no_checkpoint(tmp_path):
    path = tmp_path / "last.pt"
    # A file of the kernel's whose first page cannot be read: EIO, as from a failing disk.
    path.symlink_to("/proc/self/mem")
    with pytest.raises(DataError, match="the disk does not give it") as told:
        checkpoint.newest(path)
    assert not isinstance(told.value, checkpoint.Unreadable)
    assert path.is_symlink()


def test_a_full_disk_is_told_as_such_and_keeps_the_old_ones(tmp_path):
    # A process that may write no file of more than 4096 bytes: the disk refuses as a full one does.
    code = (
        "import resource, signal, sys, torch\n"
        "from pathlib import Path\n"
        "from ecocseg.engine import checkpoint\n"
        "path = Path(sys.argv[1])\n"
        "checkpoint.save(path, {'step': 1}, keep_previous=True)\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))\n"
        "try:\n"
        "    checkpoint.save(path, {'w': torch.rand(5000)}, keep_previous=True)\n"
        "except OSError as error:\n"
        "    print(error.strerror)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "last.pt")], capture_output=True, text=True
    )
    assert done.stdout == "File too large\n", done.stderr
    assert [p.name for p in tmp_path.iterdir()] == ["last.pt"]
    assert checkpoint.newest(tmp_path / "last.pt").state == {"step": 1}


SHORT_OF_MEMORY = """
import resource, sys
from pathlib import Path
import torch
from ecocseg.engine import checkpoint
from ecocseg.errors import DataError
torch.load(sys.argv[2], weights_only=True)
used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 60_000_000, -1))
try:
    print(checkpoint.newest(Path(sys.argv[1])))
except DataError as error:
    print(error)
"""


def test_a_checkpoint_that_there_is_no_memory_for_is_not_given_up(tmp_path):
    path, small = tmp_path / "last.pt", tmp_path / "small.pt"
    checkpoint.save(path, {"w": torch.rand(40_000_000)})
    checkpoint.save(small, {"w": torch.rand(4)})
    told = subprocess.run(
        [sys.executable, "-c", SHORT_OF_MEMORY, str(path), str(small)],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert "too little memory to read the checkpoint" in told
    assert path.is_file()
