"""The two ways to a stored size against PyTorch's interpolation and literal loops."""

import numpy as np
import pytest
import raw_trees
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch.nn import functional as F

from ecocseg.data.dataset import StepBatches, Stream, read_image, read_label
from ecocseg.data.prepare import prepare
from ecocseg.data.resize import resize_image, resize_label, target_size
from ecocseg.data.transforms import TransformConfig, random_geometry

SIDE = st.integers(1, 30)
SIDES = st.tuples(st.integers(1, 40), st.integers(1, 40))


def bilinear(pixels, size):
    """Four neighbours around the new centre, in float64, the border continued."""
    batch = torch.from_numpy(pixels).permute(2, 0, 1)[None].double()
    return F.interpolate(batch, size, mode="bilinear", antialias=False)[0].permute(1, 2, 0).numpy()


@settings(deadline=None, max_examples=40)
@given(SIDES, SIDES, st.integers(0, 2**31))
def test_mmcv_images_are_plain_bilinear(old, new, seed):
    pixels = np.random.default_rng(seed).integers(0, 256, (*old, 3), dtype=np.uint8)
    found = np.asarray(resize_image(Image.fromarray(pixels), new, "mmcv"))
    assert found.shape == (*new, 3)
    # Half a level for the rounding, and the last digit of float32.
    assert np.abs(found - bilinear(pixels, new)).max() <= 0.5001


def test_halving_is_the_mean_of_two_by_two_rounded_up():
    """cv2 takes the mean of areas for a factor of exactly two, which Cityscapes' is."""
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    found = np.asarray(resize_image(Image.fromarray(pixels), (10, 15), "mmcv"))
    for row in range(10):
        for column in range(15):
            four = pixels[2 * row : 2 * row + 2, 2 * column : 2 * column + 2].astype(int)
            assert found[row, column].tolist() == ((four.sum((0, 1)) + 2) // 4).tolist()


@settings(deadline=None, max_examples=40)
@given(SIDES, SIDES, st.integers(0, 2**31))
def test_mmcv_labels_take_the_corner_pixel(old, new, seed):
    ids = np.random.default_rng(seed).integers(0, 256, old, dtype=np.uint8)
    found = resize_label(ids, new, "mmcv")
    for row in range(new[0]):
        for column in range(new[1]):
            assert found[row, column] == ids[row * old[0] // new[0], column * old[1] // new[1]]


@pytest.mark.parametrize("raw, stored", [((1052, 1914), (704, 1280)), ((1024, 2048), (512, 1024))])
def test_the_published_shift_of_labels_against_images(raw, stored):
    """As ecocseg/data/resize.py says: half a stored pixel, a quarter where the size halves."""
    columns = np.arange(raw[1], dtype=np.float64)
    pixels = np.tile(columns, (4, 1))
    centre = bilinear(np.stack([pixels] * 3, axis=2), (4, stored[1]))[0, :, 0]
    high, low = (
        resize_label((pixels // scale % 256).astype(np.uint8), (4, stored[1]), "mmcv")[0]
        for scale in (256, 1)
    )
    shift = (centre - (256.0 * high + low)).mean() * stored[1] / raw[1]
    assert shift == pytest.approx(0.25 if raw[1] == 2 * stored[1] else 0.5, abs=0.01)


def test_antialias_is_pillow_with_the_same_content_at_equal_size():
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    image = Image.fromarray(pixels)
    theirs = image.resize((13, 7), Image.Resampling.BILINEAR)
    assert resize_image(image, (7, 13), "antialias").tobytes() == theirs.tobytes()
    assert resize_image(image, (20, 30), "mmcv").tobytes() == image.tobytes()
    ids = pixels[..., 0]
    theirs = Image.fromarray(ids).resize((13, 7), Image.Resampling.NEAREST)
    assert resize_label(ids, (7, 13), "antialias").tolist() == np.asarray(theirs).tolist()


def test_preparation_uses_the_one_that_is_asked_for(tmp_path):
    raw_trees.gta(tmp_path / "raw", 2)
    config = raw_trees.config("gta", size=[16, 20], resize="mmcv")
    smooth = prepare(raw_trees.config("gta", size=[16, 20]), tmp_path / "raw", tmp_path / "a")
    plain = prepare(config, tmp_path / "raw", tmp_path / "b")
    assert smooth.fingerprint != plain.fingerprint
    for row in plain.all_rows:
        assert (row.raw_size, row.label_size, row.image_size) == ((24, 32), (16, 20), (16, 20))
        raw = raw_trees.photo(int(row.key))
        assert np.abs(np.asarray(Image.open(row.image)) - bilinear(raw, (16, 20))).max() <= 0.5001
        ids = np.vectorize(config.table.ids.get)(
            raw_trees.labels(int(row.key), (*raw_trees.LABEL_IDS, 34))
        )
        corner = ids[np.arange(16)[:, None] * 24 // 16, np.arange(20) * 32 // 20]
        assert np.asarray(Image.open(row.label)).tolist() == corner.tolist()


@settings(deadline=None, max_examples=60)
@given(SIDES, st.tuples(SIDE, SIDE), st.tuples(SIDE, SIDE), st.integers(0, 2**31))
def test_a_crop_of_an_image_enlarged_on_reading_is_that_of_the_enlarged_image(
    stored, more, crop, seed
):
    random = torch.Generator().manual_seed(seed)
    image = torch.randint(0, 256, (3, *stored), generator=random, dtype=torch.uint8)
    size = (stored[0] + more[0], stored[1] + more[1])
    label = torch.randint(0, 19, size, generator=random, dtype=torch.uint8)
    large = resize_image(Image.fromarray(image.permute(1, 2, 0).numpy()), size, "mmcv")
    large = torch.from_numpy(np.array(large)).permute(2, 0, 1)
    for scale in (None, (0.5, 1.5)):
        config = TransformConfig(crop=crop, scale=scale)
        lazy, eager = (
            random_geometry(part, label, config, torch.Generator().manual_seed(seed))
            for part in (image, large)
        )
        for part in ("images", "labels", "valid"):
            assert torch.equal(getattr(lazy, part), getattr(eager, part))


def test_images_that_would_be_enlarged_are_stored_as_they_are(tmp_path):
    raw_trees.gta(tmp_path / "raw", 3)
    raw_trees.save(tmp_path / "raw/images/00002.png", raw_trees.photo(2), "RGBA")
    config = raw_trees.config("gta", size=[36, 48], resize="mmcv")
    rows = prepare(config, tmp_path / "raw", tmp_path / "out").all_rows
    for row, raw in zip(rows, sorted((tmp_path / "raw/images").iterdir()), strict=True):
        with Image.open(row.image) as picture:
            assert (picture.size, picture.mode) == ((32, 24), "RGB")
            wanted = resize_image(picture, (36, 48), "mmcv")
        assert (row.image.read_bytes() == raw.read_bytes()) == (row.key != "00002")
        assert row.image_size == row.label_size == (36, 48)
        assert read_image(row).permute(1, 2, 0).tolist() == np.asarray(wanted).tolist()
        assert read_label(row).shape == (36, 48)
    stream = Stream(
        name="labelled", rows=rows, batch_size=3, transform=TransformConfig(crop=(8, 9))
    )
    assert StepBatches([stream], 0)[0]["labelled"].images.shape == (3, 3, 8, 9)
    # Smoothing has nothing to do there, but bytes of data sets that use it stay what they were.
    smooth = raw_trees.config("gta", size=[36, 48])
    for row in prepare(smooth, tmp_path / "raw", tmp_path / "smooth").all_rows:
        with Image.open(row.image) as picture:
            assert picture.size == (48, 36)


@pytest.mark.parametrize(
    "size, wanted, expected",
    [
        ((1052, 1914), (1440, 2560), (1407, 2560)),
        ((1046, 1914), (720, 1280), (700, 1280)),
        ((760, 1280), (1520, 2560), (1520, 2560)),
    ],
)
def test_sizes_of_the_published_recipes(size, wanted, expected):
    assert target_size(size, wanted, True) == expected
