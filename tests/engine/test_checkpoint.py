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
