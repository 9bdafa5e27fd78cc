"""Rare class sampling against its formula, computed here by itself."""

import logging
import math
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from ecocseg.data.dataset import StepBatches, Stream, batches
from ecocseg.data.manifest import Row
from ecocseg.data.sampling import RareClasses, RareClassSampler
from ecocseg.data.transforms import Quota, TransformConfig, random_geometry
from ecocseg.errors import ConfigError

NAMES = ("road", "rider", "train", "wall")


def row(key, pixels, stored=(10, 20), raw=(20, 40)):
    return Row(
        split="train",
        key=str(key),
        image=Path(f"{key}.png"),
        label=Path(f"{key}.png"),
        image_size=stored,
        label_size=stored,
        raw_size=raw,
        image_sha256="",
        label_sha256="",
        pixels=tuple(pixels),
    )


# Stored pixels of road, rider, train, wall; each stands for four original ones.
ROWS = [
    row(0, (150, 10, 0, 0)),
    row(1, (180, 0, 0, 0)),
    row(2, (100, 30, 4, 0)),
    row(3, (120, 25, 0, 0)),
    # Not resized: its pixels count as they are.
    row(4, (700, 60, 9, 0), stored=(20, 40)),
]


def formula(temperature, enough):
    """P(c) = softmax((1 - f_c) / T) over the classes of `enough`, f_c over original pixels."""
    scale = [4, 4, 4, 4, 1]
    totals = [sum(s * r.pixels[c] for s, r in zip(scale, ROWS, strict=True)) for c in range(4)]
    shares = [total / sum(totals) for total in totals]
    weights = {c: math.exp((1 - shares[c]) / temperature) for c in enough}
    return {c: weight / sum(weights.values()) for c, weight in weights.items()}


@pytest.mark.parametrize("temperature", [0.3, 1.0])
def test_classes_are_drawn_by_the_formula_and_images_alike(temperature):
    config = RareClasses(temperature=temperature, min_pixels=15)
    sampler = RareClassSampler(ROWS, 4, 7, config, NAMES)
    wanted = formula(temperature, (0, 1, 2))
    assert sampler.classes.tolist() == [0, 1, 2]
    assert sampler.probabilities.tolist() == pytest.approx([wanted[c] for c in range(3)])
    steps = 3000
    drawn = [pair for step in range(steps) for pair in sampler.draws(step)]
    classes = Counter(train for train, _ in drawn)
    # Chi-square of 2 degrees of freedom: above 13.8 for one seed in a thousand.
    expected = {c: 4 * steps * p for c, p in wanted.items()}
    assert sum((classes[c] - e) ** 2 / e for c, e in expected.items()) < 13.8
    # More than 15 original pixels: 4 x 4 = 16 of train in image 2, 9 in image 4.
    holders = {0: {0, 1, 2, 3, 4}, 1: {0, 2, 3, 4}, 2: {2}}
    for train, images in holders.items():
        counted = Counter(image for c, image in drawn if c == train)
        assert set(counted) == images
        mean = counted.total() / len(images)
        assert sum((n - mean) ** 2 / mean for n in counted.values()) < 18.5


def test_a_batch_is_a_function_of_seed_and_step():
    config = RareClasses(temperature=0.5, min_pixels=0)
    walked = RareClassSampler(ROWS, 3, 1, config)
    in_order = [walked.draws(step) for step in range(20)]
    jumping = RareClassSampler(ROWS, 3, 1, config)
    assert [jumping.draws(step) for step in (13, 2, 19)] == [in_order[s] for s in (13, 2, 19)]
    assert [RareClassSampler(ROWS, 3, 2, config).draws(s) for s in range(20)] != in_order


def test_a_small_temperature_draws_the_rarest_class_alone():
    sampler = RareClassSampler(ROWS, 8, 0, RareClasses(temperature=1e-5, min_pixels=10), NAMES)
    assert {train for step in range(20) for train, _ in sampler.draws(step)} == {2}


def test_a_class_without_a_good_image_is_left_out_and_said(caplog):
    with caplog.at_level(logging.WARNING):
        sampler = RareClassSampler(ROWS, 1, 0, RareClasses(temperature=1, min_pixels=16), NAMES)
    assert sampler.classes.tolist() == [0, 1]
    # train occurs and has 16 pixels at most; wall occurs nowhere and needs no word.
    assert "train (16)" in caplog.text
    assert "wall" not in caplog.text
    wanted = formula(1, (0, 1))
    assert sampler.probabilities.tolist() == pytest.approx([wanted[0], wanted[1]])


def test_no_class_left_names_the_field_and_the_largest_counts():
    with pytest.raises(ConfigError) as caught:
        RareClassSampler(ROWS, 1, 0, RareClasses(min_pixels=720), NAMES)
    for words in (
        "method.rare_class_min_pixels: got 720",
        "below 720",
        "road (720)",
        "rider (120)",
    ):
        assert words in str(caught.value)
    with pytest.raises(ConfigError, match=r"benchmark\.labelled.*no labelled pixel"):
        RareClassSampler([row(0, (0, 0, 0, 0))], 1, 0, RareClasses(), NAMES)


def test_the_index_of_many_images_is_small():
    rows = [row(key, (150, 10, 0, 0)) for key in range(2000)]
    sampler = RareClassSampler(rows, 2, 0, RareClasses(min_pixels=0))
    assert sum(part.nbytes for part in sampler._images) == 2 * 2000 * 4
    assert not any(value is rows for value in vars(sampler).values())


def corner_label():
    """Class 1 fills the lower right 8x8 of 32x32."""
    label = torch.zeros(32, 32, dtype=torch.uint8)
    label[24:, 24:] = 1
    return label


def test_crops_are_drawn_again_until_they_hold_enough_and_no_longer(monkeypatch):
    from ecocseg.data import transforms

    corners = []
    drawn = transforms._crop_corner

    def counted(*arguments):
        corners.append(drawn(*arguments))
        return corners[-1]

    monkeypatch.setattr(transforms, "_crop_corner", counted)
    config, image = TransformConfig(crop=(16, 16)), torch.zeros(3, 32, 32, dtype=torch.uint8)

    def pixels(corner):
        return max(0, corner[0] + 16 - 24) * max(0, corner[1] + 16 - 24)

    draws = Counter()
    for seed in range(300):
        corners.clear()
        random = torch.Generator().manual_seed(seed)
        quota = Quota(train_id=1, pixels=20, tries=10)
        sample = random_geometry(image, corner_label(), config, random, quota=quota)
        assert int((sample.labels == 1).sum()) == pixels(corners[-1])
        assert all(pixels(corner) <= 20 for corner in corners[:-1])
        assert pixels(corners[-1]) > 20 or len(corners) == 11
        draws[len(corners)] += 1
    # 17 x 17 corners, of which 23 hold more than 20 pixels.
    good = sum(pixels((y, x)) > 20 for y in range(17) for x in range(17)) / 17**2
    failed = 300 * (1 - good) ** 10
    assert draws[11] == pytest.approx(failed, abs=4 * math.sqrt(failed))
    assert draws[1] == pytest.approx(300 * good, abs=4 * math.sqrt(300 * good))


def test_a_first_crop_that_is_good_is_the_crop_without_a_quota():
    image = torch.randint(0, 256, (3, 32, 32), dtype=torch.uint8)
    config = TransformConfig(crop=(16, 16), max_class_share=0.9)
    plain, asked = (
        random_geometry(
            image, corner_label(), config, torch.Generator().manual_seed(3), quota=quota
        )
        for quota in (None, Quota(train_id=0, pixels=100, tries=5))
    )
    assert torch.equal(plain.images, asked.images)


@pytest.fixture
def stream(manifests):
    return Stream(
        name="labelled",
        rows=manifests["streets_game"].rows("train"),
        batch_size=2,
        transform=TransformConfig(crop=(32, 48)),
        names=manifests["streets_game"].names,
        rare_classes=RareClasses(temperature=0.1, min_pixels=40, min_crop_ratio=0.5, tries=30),
    )


def test_batches_hold_the_classes_that_were_drawn(stream):
    data = StepBatches([stream], seed=5)
    sampler = data._rare["labelled"]
    # Enough tries for any crop that can hold enough at all.
    held = 0
    for step in range(12):
        batch = data[step]["labelled"]
        for place, (train, index) in enumerate(sampler.draws(step)):
            assert stream.rows[index].pixels[train] > 40
            held += int((batch.labels[place] == train).sum()) > 20
    assert held >= 22


def test_each_image_is_read_once_however_often_it_is_cropped(stream, monkeypatch):
    from ecocseg.data import dataset

    read = []
    original = dataset.read_stored
    monkeypatch.setattr(dataset, "read_stored", lambda r: (read.append(r.key), original(r))[1])
    greedy = replace(stream, rare_classes=RareClasses(min_pixels=40, min_crop_ratio=100))
    StepBatches([greedy], seed=5)[0]
    assert len(read) == 2


def test_a_run_that_goes_on_draws_what_an_uninterrupted_one_does(stream):
    whole = list(batches([stream], 5, 0, 6))
    rest = list(batches([stream], 5, 4, 6))
    for late, early in zip(rest, whole[4:], strict=True):
        assert torch.equal(late["labelled"].images, early["labelled"].images)
        assert torch.equal(late["labelled"].labels, early["labelled"].labels)
    assert not torch.equal(rest[0]["labelled"].images, rest[1]["labelled"].images)


def test_a_stream_without_labels_has_no_rare_classes(stream):
    with pytest.raises(ConfigError, match="rare_classes needs labels"):
        replace(stream, labelled=False)


@pytest.mark.parametrize(
    ("field", "value"),
    [("temperature", 0), ("min_pixels", -1), ("min_crop_ratio", -0.1), ("tries", -1)],
)
def test_values_out_of_range(field, value):
    with pytest.raises(ConfigError, match=rf"^{field}: got"):
        RareClasses(**{field: value})
