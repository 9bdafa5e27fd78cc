"""Margins of the stored image, carried through scale, padding, crop and flip."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ecocseg.data.dataset import StepBatches, Stream, batches
from ecocseg.data.transforms import Sample, TransformConfig, collate, random_geometry
from ecocseg.errors import ConfigError

SIDE = st.integers(1, 24)
MARGIN = st.integers(0, 9)


@settings(deadline=None, max_examples=80)
@given(
    st.tuples(SIDE, SIDE),
    st.tuples(SIDE, SIDE),
    st.tuples(MARGIN, MARGIN, MARGIN, MARGIN),
    st.integers(0, 2**31),
)
def test_a_pixel_is_trusted_where_it_lies_inside_the_margins(size, crop, margins, seed):
    """Each pixel of the crop carries its place in the stored image, from which a loop decides."""
    height, width = size
    top, bottom, left, right = margins
    rows = torch.arange(height, dtype=torch.uint8)[:, None].expand(size)
    columns = torch.arange(width, dtype=torch.uint8)[None].expand(size)
    image = torch.stack([rows, columns, torch.full(size, 255, dtype=torch.uint8)])
    sample = random_geometry(
        image,
        torch.zeros(size, dtype=torch.uint8),
        TransformConfig(crop=crop),
        torch.Generator().manual_seed(seed),
        margins=margins,
    )
    places = (sample.images * 255).round().int()
    assert sample.trusted.dtype == torch.bool
    for y in range(crop[0]):
        for x in range(crop[1]):
            row, column, there = places[:, y, x].tolist()
            inside = top <= row < height - bottom and left <= column < width - right
            assert bool(sample.trusted[y, x]) == (there == 255 and inside)
            assert bool(sample.valid[y, x]) == (there == 255)


@pytest.mark.parametrize("factor", [0.5, 0.7, 1.6])
def test_margins_are_scaled_with_the_image(factor):
    size, margins = (30, 42), (4, 7, 2, 5)
    new = [round(side * factor) for side in size]
    config = TransformConfig(crop=tuple(new), scale=(factor, factor), flip=0)
    image = torch.zeros(3, *size, dtype=torch.uint8)
    sample = random_geometry(
        image, image[0], config, torch.Generator().manual_seed(0), margins=margins
    )
    for y in range(new[0]):
        for x in range(new[1]):
            # The stored pixel in which the centre of the new one lies.
            row, column = int((y + 0.5) * size[0] / new[0]), int((x + 0.5) * size[1] / new[1])
            inside = 4 <= row < 30 - 7 and 2 <= column < 42 - 5
            assert bool(sample.trusted[y, x]) == inside


def test_without_margins_nothing_changes():
    image = torch.randint(0, 256, (3, 20, 30), dtype=torch.uint8)
    label = torch.randint(0, 19, (20, 30), dtype=torch.uint8)
    config = TransformConfig(crop=(16, 16), scale=(0.5, 2), max_class_share=0.5)
    plain, with_margins = (
        random_geometry(image, label, config, torch.Generator().manual_seed(1), margins=margins)
        for margins in (None, (1, 2, 3, 4))
    )
    assert plain.trusted is None
    for part in ("images", "labels", "valid"):
        assert torch.equal(getattr(plain, part), getattr(with_margins, part))
    assert collate([plain, plain]).trusted is None
    assert collate([plain, plain]).to(torch.device("cpu")).trusted is None


@pytest.fixture
def stream(manifests):
    return Stream(
        name="unlabelled",
        rows=manifests["streets_camera"].rows("train"),
        batch_size=2,
        transform=TransformConfig(crop=(32, 64)),
        labelled=False,
    )


def test_batches_of_a_stream_with_margins(stream):
    plain = StepBatches([stream], seed=3)[1]["unlabelled"]
    batch = StepBatches([replace(stream, margins=(10, 0, 0, 0))], seed=3)[1]["unlabelled"]
    assert torch.equal(plain.images, batch.images)
    assert batch.trusted.shape == batch.valid.shape == (2, 32, 64)
    # Rows are trusted as a whole, the upper ones not.
    assert torch.equal(batch.trusted, batch.trusted[..., :1].expand(2, 32, 64))
    assert not batch.trusted.all()
    assert batch.to(torch.device("cpu")).trusted is not None


@pytest.mark.parametrize("margins", [(40, 8, 0, 0), (0, 0, 96, 0), (-1, 0, 0, 0)])
def test_margins_that_leave_nothing_are_refused(stream, margins):
    with pytest.raises(ConfigError, match=r"method\.margins: got .*smallest of which is 48x96"):
        replace(stream, margins=margins)


def test_pinned_copies_go_through_every_tensor(monkeypatch):
    """Page-locked memory needs a GPU; that each tensor takes that way does not."""
    pinned = []
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda t: (pinned.append(t), t.clone())[1])
    tensor = torch.zeros(1, 2, 2)
    sample = Sample(images=tensor, labels=tensor + 1, valid=tensor + 2)
    from torch.utils.data._utils.pin_memory import pin_memory

    found = pin_memory({"labelled": sample}, "cpu")["labelled"]
    assert [int(t.flatten()[0]) for t in pinned] == [0, 1, 2]
    assert torch.equal(found.valid, sample.valid)
    assert found.valid is not sample.valid
    assert found.trusted is None
    assert len(pinned) == 3
    pin_memory({"labelled": replace(sample, trusted=tensor + 3)}, "cpu")
    assert len(pinned) == 7


@pytest.mark.skipif(not torch.cuda.is_available(), reason="page-locked memory needs a GPU")
def test_batches_arrive_in_page_locked_memory(stream):
    batch = next(iter(batches([replace(stream, margins=(1, 0, 0, 0))], 0, 0, 1)))["unlabelled"]
    for tensor in (batch.images, batch.labels, batch.valid, batch.trusted):
        assert tensor.is_pinned()
