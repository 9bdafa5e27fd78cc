import numpy as np
import pytest
import torch
from PIL import Image

from ecocseg.data.dataset import StepBatches, Stream, batches, read_image, read_label
from ecocseg.data.transforms import TransformConfig
from ecocseg.errors import DataError
from ecocseg.types import IGNORE


@pytest.fixture
def streams(manifests):
    crop = TransformConfig(crop=(32, 64), scale=(0.5, 2.0))
    game = manifests["streets_game"].rows("train")
    camera = manifests["streets_camera"].rows("train")
    return [
        Stream(name="labelled", rows=game, batch_size=3, transform=crop),
        Stream(name="unlabelled", rows=camera, batch_size=2, transform=crop, labelled=False),
        Stream(name="partner", rows=camera, batch_size=2, transform=crop, labelled=False),
    ]


def same(first, second):
    return all(
        torch.equal(getattr(first[name], part), getattr(second[name], part))
        for name in first
        for part in ("images", "labels", "valid")
    )


def test_files_are_read_as_they_are_stored(manifests):
    row = manifests["streets_game"].rows("train")[0]
    stored = np.asarray(Image.open(row.image).convert("RGB"))
    assert read_image(row).permute(1, 2, 0).tolist() == stored.tolist()
    assert read_label(row).tolist() == np.asarray(Image.open(row.label)).tolist()


def test_a_damaged_or_missing_file_is_named(manifests, tmp_path):
    from dataclasses import replace

    row = manifests["streets_game"].rows("train")[0]
    cut = tmp_path / "cut.png"
    cut.write_bytes(row.image.read_bytes()[:400])
    with pytest.raises(DataError, match=r"cut\.png: cannot be read.*preprocess"):
        read_image(replace(row, image=cut))
    with pytest.raises(DataError, match=r"gone\.png: the file is gone; put it back, or run the "):
        read_label(replace(row, label=tmp_path / "gone.png"))


def test_batches_have_the_streams_names_sizes_and_labels(streams):
    batch = StepBatches(streams, seed=5)[3]
    assert list(batch) == ["labelled", "unlabelled", "partner"]
    assert batch["labelled"].images.shape == (3, 3, 32, 64)
    assert (batch["labelled"].labels != IGNORE).any()
    assert (batch["unlabelled"].labels == IGNORE).all()
    assert batch["unlabelled"].valid.any()


def test_a_batch_is_a_function_of_seed_and_step(streams):
    in_order = list(batches(streams, 5, 0, 6))
    late = list(batches(streams, 5, 4, 6))
    torch.manual_seed(0)
    assert len(late) == 2
    assert same(late[0], in_order[4])
    assert same(late[1], in_order[5])
    assert not same(in_order[4], in_order[5])
    assert not same(next(batches(streams, 6, 4, 5)), in_order[4])


def test_partners_are_other_images_than_the_unlabelled_ones(streams):
    for step in range(3):
        batch = StepBatches(streams, seed=5)[step]
        assert not torch.equal(batch["unlabelled"].images, batch["partner"].images)


def test_a_stream_does_not_depend_on_the_others(streams):
    alone = StepBatches(streams[1:2], seed=5)[2]
    together = StepBatches(streams, seed=5)[2]
    assert torch.equal(alone["unlabelled"].images, together["unlabelled"].images)
