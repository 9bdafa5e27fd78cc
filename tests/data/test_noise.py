"""Label noise against flood fill, counting and the binomial law, and who sees it."""

import math
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from ecocseg.config import from_mapping
from ecocseg.data.benchmark import BenchmarkConfig, SourceConfig, build_streams, source_rows
from ecocseg.data.classes import CAMVID_11, CITYSCAPES_19, COCO_81, most_confusable
from ecocseg.data.dataset import StepBatches, Stream, batches, read_label
from ecocseg.data.noise import LabelNoise
from ecocseg.data.sampling import RareClasses
from ecocseg.data.transforms import TransformConfig
from ecocseg.encodings import build_encoding
from ecocseg.engine.evaluate import EvaluationConfig, evaluate
from ecocseg.errors import ConfigError

NAMES = CAMVID_11.names


def blocks(seed, height=18, width=24, cell=3):
    """A label [H,W] of blocks, some of which touch blocks of their class; a tenth is ignored."""
    draw = np.random.default_rng(seed)
    coarse = draw.integers(0, 4, (height // cell, width // cell)) * 3
    coarse[draw.random(coarse.shape) < 0.1] = 255
    return np.kron(coarse, np.ones((cell, cell))).astype(np.uint8)


def flood(label):
    """Segments as sets of pixels, by walking from each pixel over its four edges."""
    left = {(y, x) for y in range(label.shape[0]) for x in range(label.shape[1])}
    left = {place for place in left if label[place] != 255}
    found = []
    while left:
        start = left.pop()
        segment, border = {start}, [start]
        while border:
            y, x = border.pop()
            for near in ((y + 1, x), (y - 1, x), (y, x + 1), (y, x - 1)):
                if near in left and label[near] == label[start]:
                    left.remove(near)
                    segment.add(near)
                    border.append(near)
        found.append(segment)
    return found


def test_segments_are_wrong_as_a_whole_and_nothing_else_changes():
    wrong = 0
    for seed in range(30):
        label = blocks(seed)
        before = label.copy()
        noisy = LabelNoise(rate=0.4).applied(label, f"a/{seed}", NAMES)
        assert np.array_equal(label, before)
        assert noisy.dtype == np.uint8
        assert np.array_equal(noisy == 255, label == 255)
        assert noisy[noisy != 255].max() < len(NAMES)
        for segment in flood(label):
            given = {int(noisy[place]) for place in segment}
            assert len(given) == 1
            wrong += given != {int(label[next(iter(segment))])}
    assert wrong > 100


@pytest.mark.parametrize("rate", [0.1, 0.4, 0.8])
def test_every_segment_is_wrong_with_the_same_probability(rate):
    """Also one of half the image, and those of two pixels."""
    label = np.zeros((20, 20), dtype=np.uint8)
    label[:7] = 1
    label[10:14, 2:10] = 2
    label[16::2, 0:2] = 3
    label[18, 10:] = 255
    segments, images = flood(label), 2000
    counts = np.zeros(len(segments))
    shares = []
    for key in range(images):
        noisy = LabelNoise(rate=rate).applied(label, str(key), NAMES)
        changed = noisy != label
        counts += [changed[next(iter(segment))] for segment in segments]
        shares.append(changed.sum() / (label != 255).sum())
    sigma = math.sqrt(rate * (1 - rate) / images)
    assert np.abs(counts / images - rate).max() < 4 * sigma
    assert np.mean(shares) == pytest.approx(rate, abs=4 * sigma)
    # Segments that were drawn by themselves would spread more.
    sizes = np.array([len(segment) for segment in segments]) / (label != 255).sum()
    alone = math.sqrt(rate * (1 - rate) * (sizes**2).sum())
    assert np.std(shares) < 0.95 * alone


def test_many_small_segments_meet_the_rate_in_each_image():
    """As near as the last and smallest allows: one of 54 blocks of 9 pixels."""
    label = np.kron(np.arange(54).reshape(6, 9) % 7, np.ones((3, 3))).astype(np.uint8)
    for key in range(20):
        for rate in (0.1, 0.2, 0.4):
            noisy = LabelNoise(rate=rate).applied(label, str(key), NAMES)
            assert (noisy != label).mean() == pytest.approx(rate, abs=1.01 / 54)


@pytest.mark.parametrize("unit", ["segment", "pixel"])
@pytest.mark.parametrize("rate", [0.1, 0.2, 0.4])
def test_the_rate_over_a_data_set(manifests, unit, rate):
    rows = [row for m in manifests.values() for row in m.rows("train")]
    wrong = there = 0
    for number in range(10):
        noise = LabelNoise(rate=rate, unit=unit, seed=number)
        for row in rows:
            label = read_label(row).numpy()
            noisy = noise.applied(label, row.key, CITYSCAPES_19.names)
            wrong += int((noisy != label).sum())
            there += int((label != 255).sum())
    assert wrong / there == pytest.approx(rate, abs=0.02 if unit == "segment" else 0.004)


def test_pixels_are_wrong_by_themselves_and_towards_every_other_class_alike():
    label = np.full((200, 300), 4, dtype=np.uint8)
    label[:3] = 255
    noisy = LabelNoise(rate=0.25, unit="pixel").applied(label, "k", NAMES)
    assert (noisy[:3] == 255).all()
    there = noisy[3:]
    count, wrong = there.size, there != 4
    sigma = math.sqrt(0.25 * 0.75 / count)
    assert wrong.mean() == pytest.approx(0.25, abs=4 * sigma)
    # Neighbours know nothing of each other.
    both = (wrong[:, 1:] & wrong[:, :-1]).mean()
    assert both == pytest.approx(1 / 16, abs=4 * math.sqrt(1 / 16 / count))
    towards = Counter(there[wrong].tolist())
    assert set(towards) == set(range(11)) - {4}
    mean = wrong.sum() / 10
    # Chi-square of 9 degrees of freedom: above 27.9 for one seed in a thousand.
    assert sum((n - mean) ** 2 / mean for n in towards.values()) < 27.9


@pytest.mark.parametrize("unit", ["segment", "pixel"])
def test_confusable_classes(unit):
    label = np.kron(np.arange(11).repeat(20).reshape(11, 20), np.ones((2, 2))).astype(np.uint8)
    seen = {}
    for key in range(20):
        noisy = LabelNoise(rate=0.5, kind="confusable", unit=unit).applied(label, str(key), NAMES)
        seen |= {
            (NAMES[a], NAMES[b]): None
            for a, b in zip(label.ravel(), noisy.ravel(), strict=True)
            if a != b
        }
    assert len(seen) == 11
    pairs = ("Road", "Pavement"), ("Pole", "SignSymbol"), ("Pedestrian", "Bicyclist")
    for first, second in pairs:
        assert (first, second) in seen
        assert (second, first) in seen


def test_each_class_of_cityscapes_and_camvid_is_taken_for_another_one():
    for table in (CITYSCAPES_19, CAMVID_11):
        others = most_confusable(table.names)
        assert len(others) == len(table.names)
        assert all(0 <= other != place for place, other in enumerate(others))
    named = dict(zip(CITYSCAPES_19.names, most_confusable(CITYSCAPES_19.names), strict=True))
    assert CITYSCAPES_19.names[named["road"]] == "sidewalk"
    with pytest.raises(ConfigError, match=r"noise\.kind: got 'confusable'.*'background'.*uniform"):
        most_confusable(COCO_81.names)


def test_a_rate_of_nothing_changes_nothing():
    for unit in ("segment", "pixel"):
        label = blocks(3)
        assert np.array_equal(LabelNoise(rate=0, unit=unit).applied(label, "k", NAMES), label)
    ignored = np.full((4, 5), 255, dtype=np.uint8)
    assert np.array_equal(LabelNoise(rate=0.5).applied(ignored, "k", NAMES), ignored)


@pytest.fixture
def stream(manifests):
    """Whole images, so that a batch's labels are those of the files."""
    game = manifests["streets_game"]
    return Stream(
        name="labelled",
        rows=game.rows("train"),
        batch_size=3,
        transform=TransformConfig(crop=(48, 96), flip=0.0),
        names=game.names,
        noise=LabelNoise(rate=0.3, seed=5),
    )


def by_key(data, steps):
    """Labels of each image, in the order they were read."""
    found = {}
    for step in steps:
        for key, label in zip(
            data.keys(step)["labelled"], data[step]["labelled"].labels, strict=True
        ):
            found.setdefault(key, []).append(label)
    return found


def test_an_image_has_the_same_wrong_labels_in_every_pass_and_run(stream):
    first = by_key(StepBatches([stream], seed=1), range(16))
    other = by_key(StepBatches([stream], seed=2), range(3, 12))
    assert len(first) == 8
    for key, labels in first.items():
        true = next(read_label(row) for row in stream.rows if row.key == key)
        assert len(labels) > 2
        assert not torch.equal(labels[0], true.long())
        for label in labels + other.get(key, []):
            assert torch.equal(label, labels[0])
    changed = replace(stream, noise=LabelNoise(rate=0.3, seed=6))
    again = by_key(StepBatches([changed], seed=1), range(3))
    assert not all(torch.equal(labels[0], first[key][0]) for key, labels in again.items())


def test_processes_workers_and_a_run_that_goes_on_see_the_same(stream):
    stream = replace(stream, transform=TransformConfig(crop=(32, 48), scale=(0.5, 2.0)))
    whole = [batch["labelled"].labels for batch in batches([stream], 4, 0, 4)]
    spawned = [batch["labelled"].labels for batch in batches([stream], 4, 2, 4, workers=1)]
    for step in (2, 3):
        assert torch.equal(spawned[step - 2], whole[step])
        parts = [StepBatches([stream], 4, rank, 2)[step]["labelled"].labels for rank in range(2)]
        assert torch.equal(parts[0], whole[step][::2])
        assert torch.equal(parts[1], whole[step][1::2])


def test_noise_is_there_before_the_crop_and_leaves_the_images_alone(stream):
    stream = replace(stream, transform=TransformConfig(crop=(32, 48), flip=0.5))
    clean = StepBatches([replace(stream, noise=None)], seed=4)[1]["labelled"]
    noisy = StepBatches([stream], seed=4)[1]["labelled"]
    assert torch.equal(clean.images, noisy.images)
    assert torch.equal(clean.valid, noisy.valid)
    assert not torch.equal(clean.labels, noisy.labels)


def benchmark(**noise):
    return BenchmarkConfig(
        name="tiny",
        labelled=SourceConfig(dataset="streets_camera", **noise),
        evaluated=SourceConfig(dataset="streets_camera", split="val"),
        labelled_transform=TransformConfig(crop=(32, 64)),
    )


def test_evaluation_and_class_counts_are_of_the_true_labels(manifests, tiny_model_config):
    from ecocseg.models.segmenter import build_model

    noisy = benchmark(noise=LabelNoise(rate=0.6))
    (stream,) = build_streams(noisy, manifests, ("labelled",), 2, 0)
    assert stream.noise == LabelNoise(rate=0.6)
    (plain,) = build_streams(benchmark(), manifests, ("labelled",), 2, 0)
    assert plain.noise is None
    assert list(plain.rows) == list(stream.rows)
    rare = RareClasses(temperature=0.1, min_pixels=40)
    drawn = [StepBatches([replace(s, rare_classes=rare)], seed=1).keys(3) for s in (stream, plain)]
    assert drawn[0] == drawn[1]
    rows = source_rows(noisy.evaluated, manifests)
    encoding = build_encoding("one-hot", {}, manifests["streets_camera"].names)
    model = build_model(tiny_model_config, encoding.channels)
    counted = evaluate(model, encoding, rows, EvaluationConfig(), torch.device("cpu"))
    stored = np.concatenate([np.asarray(Image.open(row.label)).ravel() for row in rows])
    wanted = np.bincount(stored, minlength=256)[:19]
    # A row for each true class or a column for each: whichever way, the true counts are a margin.
    assert wanted.tolist() in (counted.sum(0).tolist(), counted.sum(1).tolist())


def test_noise_in_a_configuration():
    source, crop = {"dataset": "a"}, {"crop": [8, 8]}
    values = {"name": "x", "labelled": source, "evaluated": source, "labelled_transform": crop}

    def made(**changed):
        return from_mapping(BenchmarkConfig, values | changed, "benchmark")

    assert made(labelled=source | {"noise": None}) == made()
    found = made(labelled=source | {"noise": {"rate": 0.2, "unit": "pixel"}})
    assert found.labelled.noise == LabelNoise(rate=0.2, unit="pixel", kind="uniform", seed=0)
    for rate in (1, -0.1, "x", True):
        with pytest.raises(ConfigError, match=r"^benchmark\.labelled\.noise\.rate: got"):
            made(labelled=source | {"noise": {"rate": rate}})
    with pytest.raises(ConfigError, match=r"noise\.kind: unknown .*'unifrom'.*mean 'uniform'"):
        made(labelled=source | {"noise": {"rate": 0.1, "kind": "unifrom"}})
    noisy = source | {"noise": {"rate": 0.1}}
    with pytest.raises(ConfigError, match=r"benchmark\.evaluated\.noise: .*labelled\.noise"):
        made(evaluated=noisy)
    with pytest.raises(ConfigError, match=r"benchmark\.unlabelled\.noise: .*labelled\.noise"):
        made(unlabelled=noisy, unlabelled_transform=crop)


def test_a_stream_that_can_have_no_such_noise(stream):
    with pytest.raises(ConfigError, match=r"noise: got .*hides its labels"):
        replace(stream, labelled=False)
    with pytest.raises(ConfigError, match=r"noise\.kind.*'floor'"):
        replace(stream, names=("floor", "wall"), noise=LabelNoise(rate=0.1, kind="confusable"))
