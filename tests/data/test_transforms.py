import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from ecocseg.config import from_mapping
from ecocseg.data.transforms import Sample, TransformConfig, collate, random_geometry
from ecocseg.errors import ConfigError
from ecocseg.types import IGNORE


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def coded(height, width):
    """An image whose red is the label and whose green and blue are the column and the row."""
    rows = torch.arange(height, dtype=torch.uint8)[:, None].expand(height, width)
    columns = torch.arange(width, dtype=torch.uint8)[None].expand(height, width)
    label = (7 * rows + 3 * columns) % 19 + 1
    return torch.stack([label, columns, rows]), label


@settings(deadline=None, max_examples=60)
@given(
    st.tuples(st.integers(1, 40), st.integers(1, 40)),
    st.tuples(st.integers(1, 30), st.integers(1, 30)),
    st.booleans(),
    st.integers(0, 2**31),
)
def test_a_crop_is_a_window_padded_below_and_right_then_flipped(size, crop, flip, seed):
    (h, w), (high, wide) = size, crop
    image, label = coded(h, w)
    config = TransformConfig(crop=crop, flip=float(flip))
    sample = random_geometry(image, label, config, generator(seed))
    assert sample.images.shape == (3, high, wide)
    assert sample.labels.shape == sample.valid.shape == (high, wide)
    assert sample.images.dtype == torch.float32
    assert sample.labels.dtype == torch.int64
    pixels = (sample.images * 255).round().long()
    inside = sample.valid
    assert int(inside.sum()) == min(h, high) * min(w, wide)
    assert (pixels[:, ~inside] == 0).all()
    assert (sample.labels[~inside] == IGNORE).all()
    assert torch.equal(pixels[0][inside], sample.labels[inside])
    columns, rows = pixels[1], pixels[2]
    if flip:
        columns, rows, inside = columns.flip(-1), rows.flip(-1), inside.flip(-1)
    assert inside[: min(h, high), : min(w, wide)].all()
    assert (columns == columns[0, 0] + torch.arange(wide))[inside].all()
    assert (rows == rows[0, 0] + torch.arange(high)[:, None])[inside].all()


def test_flip_probability():
    image, label = coded(4, 4)
    for flip in (0.0, 1.0):
        sample = random_geometry(image, label, TransformConfig(crop=(4, 4), flip=flip), generator())
        wanted = label.flip(-1) if flip else label
        assert torch.equal(sample.labels, wanted.long())


def test_crops_reach_every_corner():
    image, label = coded(5, 6)
    config = TransformConfig(crop=(4, 4), flip=0)
    seen = {
        tuple(random_geometry(image, label, config, generator(s)).images[1:, 0, 0].tolist())
        for s in range(200)
    }
    assert {tuple(round(255 * v) for v in c) for c in seen} == {
        (x, y) for x in range(3) for y in range(2)
    }


@pytest.mark.parametrize("factor", [0.5, 0.8, 1.7, 2.0])
def test_scaling_is_that_of_pillow_for_image_and_label(factor):
    """The public SSL code resizes with Pillow: bilinear images, nearest labels."""
    random = generator(5)
    # Odd sides: no centre of a new pixel falls on the border of two old ones.
    image = torch.randint(0, 256, (3, 23, 31), generator=random, dtype=torch.uint8)
    label = torch.randint(0, 19, (23, 31), generator=random, dtype=torch.uint8)
    size = (round(23 * factor), round(31 * factor))
    config = TransformConfig(crop=size, scale=(factor, factor), flip=0)
    sample = random_geometry(image, label, config, random)

    picture = Image.fromarray(image.permute(1, 2, 0).numpy())
    picture = picture.resize(size[::-1], Image.Resampling.BILINEAR)
    theirs = torch.frombuffer(bytearray(picture.tobytes()), dtype=torch.uint8).view(*size, 3)
    assert (sample.images.permute(1, 2, 0) * 255 - theirs).abs().max() <= 1.01
    nearest = Image.fromarray(label.numpy()).resize(size[::-1], Image.Resampling.NEAREST)
    ids = torch.frombuffer(bytearray(nearest.tobytes()), dtype=torch.uint8).view(size)
    assert torch.equal(sample.labels, ids.long())


@pytest.mark.parametrize("size", [(30, 40), (80, 60), (7, 7)])
def test_long_sides_are_of_the_base_size_as_in_stpp(size):
    """ST++ on Pascal: long sides of 200 to 800 pixels, whatever the image's; here a tenth of it."""
    image, label = coded(*size)
    config = TransformConfig(crop=(80, 80), scale=(0.5, 2.0), base_size=40, flip=0)
    sides = []
    for seed in range(200):
        valid = random_geometry(image, label, config, generator(seed)).valid
        high, wide = int(valid.any(1).sum()), int(valid.any(0).sum())
        assert high / size[0] == pytest.approx(wide / size[1], abs=1 / min(size))
        sides.append(max(high, wide))
    assert min(sides) >= 20
    assert max(sides) <= 80
    # Uniform: four standard deviations of the mean of 200 are 4.9.
    assert sum(sides) / 200 == pytest.approx(50, abs=4.9)


def test_a_dominant_class_is_avoided_where_possible():
    label = torch.zeros(8, 40, dtype=torch.uint8)
    label[:, 32:36], label[:, 36:] = 1, IGNORE
    image = torch.zeros(3, 8, 40, dtype=torch.uint8)
    strict = TransformConfig(crop=(8, 8), flip=0, max_class_share=0.6)
    free = TransformConfig(crop=(8, 8), flip=0)

    def share(config, seed):
        counted = random_geometry(image, label, config, generator(seed)).labels
        counts = torch.bincount(counted[counted != IGNORE], minlength=2)
        return float(counts.max() / counts.sum())

    # 3 of 33 places satisfy it; eleven draws find one of them with 1 - (30/33)**11 = 65 %.
    good = sum(share(strict, seed) < 0.6 for seed in range(100))
    assert 50 <= good <= 80
    assert sum(share(free, seed) < 0.6 for seed in range(100)) < 25


def test_an_image_of_one_class_is_cropped_all_the_same():
    label = torch.full((8, 8), IGNORE, dtype=torch.uint8)
    config = TransformConfig(crop=(4, 4), max_class_share=0.5)
    sample = random_geometry(torch.zeros(3, 8, 8, dtype=torch.uint8), label, config, generator())
    assert (sample.labels == IGNORE).all()
    assert sample.valid.all()


def test_the_generator_decides_everything():
    image, label = coded(20, 30)
    config = TransformConfig(crop=(16, 16), scale=(0.5, 2.0), max_class_share=0.9)
    first = random_geometry(image, label, config, generator(1))
    torch.manual_seed(99)
    again = random_geometry(image, label, config, generator(1))
    other = random_geometry(image, label, config, generator(2))
    assert torch.equal(first.images, again.images)
    assert torch.equal(first.labels, again.labels)
    assert not torch.equal(first.labels, other.labels)


def test_collate_and_move():
    image, label = coded(8, 8)
    samples = [
        random_geometry(image, label, TransformConfig(crop=(4, 6)), generator(s)) for s in (1, 2)
    ]
    batch = collate(samples).to(torch.device("cpu"))
    assert isinstance(batch, Sample)
    assert batch.images.shape == (2, 3, 4, 6)
    assert torch.equal(batch.labels[1], samples[1].labels)
    assert torch.equal(batch.valid[0], samples[0].valid)


@pytest.mark.parametrize(
    ("values", "field"),
    [
        ({"crop": [0, 4]}, "crop"),
        ({"crop": [4, 4], "scale": [0, 1]}, "scale"),
        ({"crop": [4, 4], "scale": [2, 1]}, "scale"),
        ({"crop": [4, 4], "scale": [1, 2], "base_size": 0}, "base_size"),
        ({"crop": [4, 4], "base_size": 400}, "base_size"),
        ({"crop": [4, 4], "flip": 1.5}, "flip"),
        ({"crop": [4, 4], "max_class_share": 0}, "max_class_share"),
    ],
)
def test_values_out_of_range(values, field):
    with pytest.raises(ConfigError, match=rf"transform\.{field}: got"):
        from_mapping(TransformConfig, values, "transform")
