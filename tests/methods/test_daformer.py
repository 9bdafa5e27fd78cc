"""DAFormer's and MIC's own parts against plain statements of them."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from method_parts import NAMES, H, PixelNet, W, context, generator, sample
from torch.nn import functional as F

from ecocseg.data.augment import domain_view
from ecocseg.data.dataset import Stream
from ecocseg.data.mixing import block_mask
from ecocseg.data.sampling import RareClasses
from ecocseg.data.transforms import TransformConfig
from ecocseg.encodings import build_encoding
from ecocseg.errors import ConfigError
from ecocseg.methods import build_method
from ecocseg.methods.daformer import feature_distance
from ecocseg.types import IMAGE_MEAN

DAFORMER = {"margins": [2, 3, 1, 0], "feature_classes": [1, 3], "feature_min_ratio": 0.6}


def stream(name):
    rows = [SimpleNamespace(image_size=(40, 60))]
    return Stream(name=name, rows=rows, batch_size=2, transform=TransformConfig(crop=(H, W)))


def patches(seed, cell=4):
    """Labels whose cells are mostly of one class, with some pixels of others and ignored ones."""
    random = generator(seed)
    labels = torch.randint(0, 5, (2, H // cell, W // cell), generator=random)
    labels = labels.repeat_interleave(cell, 1).repeat_interleave(cell, 2)
    other = torch.randint(0, 6, labels.shape, generator=random)
    other[other == 5] = 255
    return torch.where(torch.rand(labels.shape, generator=random) < 0.35, other, labels)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("min_ratio", [0.55, 0.75, 1.0])
def test_feature_distance_against_a_loop(seed, min_ratio):
    labels, random = patches(seed), generator(seed + 100)
    features, reference = (torch.randn(2, 7, H // 4, W // 4, generator=random) for _ in range(2))
    features.requires_grad_()
    found = []
    for b in range(2):
        for y in range(H // 4):
            for x in range(W // 4):
                cell = labels[b, 4 * y : 4 * y + 4, 4 * x : 4 * x + 4].flatten().tolist()
                for train in (1, 3):
                    if cell.count(train) / 16 >= min_ratio:
                        difference = features[b, :, y, x] - reference[b, :, y, x]
                        found.append(difference.square().sum().sqrt())
    expected = torch.stack(found).mean() if found else torch.zeros(())
    got = feature_distance(features, reference, 4, labels, (1, 3), min_ratio)
    torch.testing.assert_close(got, expected)
    (gradient,) = torch.autograd.grad(got, features)
    moved = (gradient != 0).any(1)
    assert int(moved.sum()) == len(found)


def test_feature_distance_counts_something_and_nothing():
    """The loop's cases above are not all empty; without a thing class the value is 0, not NaN."""
    labels = torch.full((1, 8, 8), 3)
    features = torch.zeros(1, 2, 2, 2, requires_grad=True)
    reference = torch.tensor([3.0, 4.0]).view(1, 2, 1, 1).expand(1, 2, 2, 2)
    assert feature_distance(features, reference, 4, labels, (3,), 0.75).item() == 5.0
    nothing = feature_distance(features, reference, 4, labels, (1,), 0.75)
    assert nothing.item() == 0.0
    nothing.backward()
    assert not features.grad.any()


def test_features_of_padding_do_not_count_as_things():
    """Images of 6x8 in a network that pads them to 8x8: the lower cells are half padding."""
    labels = torch.full((1, 6, 8), 3)
    features = torch.arange(4.0).view(1, 1, 2, 2)
    reference = torch.zeros(1, 1, 2, 2)
    got = [feature_distance(features, reference, 4, labels, (3,), r).item() for r in (0.51, 1.0)]
    assert got == [0.5, 0.5]


def test_the_source_summand_is_the_loss_plus_the_weighted_distance():
    encoding = build_encoding("one-hot", {}, NAMES)
    method = build_method("daformer", {**DAFORMER, "feature_weight": 0.3})
    student, reference = PixelNet(5), PixelNet(5)
    torch.nn.init.normal_(reference.layer.weight, generator=generator(9))
    source = replace(sample(1, True), labels=patches(3))
    loss = method.source_loss(context(encoding, student=student, reference=reference), source)
    ce = F.cross_entropy(student(source.images), source.labels, ignore_index=255, reduction="sum")
    distance = feature_distance(
        student.features(source.images), reference.features(source.images), 4, source.labels,
        (1, 3), 0.6,
    )  # fmt: skip
    assert float(distance.detach()) > 0.1
    torch.testing.assert_close(loss.value, ce / source.labels.numel() + 0.3 * distance)
    torch.testing.assert_close(loss.logs["loss/features"], 0.3 * distance.detach())


def test_thing_classes_that_the_data_does_not_have_are_refused():
    encoding = build_encoding("one-hot", {}, NAMES)
    with pytest.raises(ConfigError, match=r"method.feature_classes: got \[6, 7.* 5 classes"):
        build_method("daformer", {}).source_loss(
            context(encoding, reference=PixelNet(5)), sample(1, True)
        )


def test_without_the_distance_no_frozen_network_is_asked_for():
    assert build_method("daformer", {}).uses_reference
    method = build_method("daformer", {"feature_weight": 0.0})
    assert not method.uses_reference
    encoding = build_encoding("one-hot", {}, NAMES)
    given_, source = context(encoding), sample(1, True)
    plain = build_method("dacs", {}).source_loss(given_, source)
    torch.testing.assert_close(method.source_loss(given_, source).value, plain.value)


@pytest.mark.parametrize("encoding_name", ["one-hot", "ecoc"])
def test_margins_of_the_crop_weigh_nothing_and_count_in_the_share(encoding_name):
    options = {"length": 10} if encoding_name == "ecoc" else {}
    encoding = build_encoding(encoding_name, {**options, "quality_threshold": 0.5}, NAMES)
    target, teacher = sample(2, False), PixelNet(encoding.channels)
    given_ = context(encoding, teacher=teacher)
    plain = build_method("dacs", {}).teach(given_, target)
    pseudo = build_method("daformer", DAFORMER).teach(given_, target)
    for y in range(H):
        for x in range(W):
            inside = 2 <= y < H - 3 and x >= 1
            expected = plain.quality[:, y, x] if inside else torch.zeros(2)
            assert torch.equal(pseudo.quality[:, y, x], expected)
    assert plain.quality.max() > 0
    assert torch.equal(pseudo.targets, plain.targets)


def test_margins_of_the_image_come_with_the_sample():
    encoding = build_encoding("one-hot", {"quality_threshold": 0.5}, NAMES)
    method = build_method("daformer", {**DAFORMER, "margins_of": "image"})
    trusted = torch.rand(2, H, W, generator=generator(5)) < 0.5
    target = replace(sample(2, False), trusted=trusted)
    given_ = context(encoding, teacher=PixelNet(5))
    pseudo = method.teach(given_, target)
    plain = build_method("dacs", {}).teach(given_, target)
    assert torch.equal(pseudo.quality, torch.where(trusted, plain.quality, 0))


def test_margins_that_leave_nothing_are_refused():
    method = build_method("daformer", {})
    encoding = build_encoding("one-hot", {}, NAMES)
    with pytest.raises(ConfigError, match=r"method.margins: got \[15, 120, 0, 0\].*crops of 12x16"):
        method.teach(context(encoding, teacher=PixelNet(5)), sample(2, False))


@pytest.mark.parametrize("name", ["daformer", "mic"])
def test_streams_get_what_the_method_needs(name):
    fields = {"margins_of": "image", "margins": [1, 2, 3, 4], "rare_class_temperature": 0.5}
    values = fields if name == "daformer" else {"inner": {"name": "daformer", **fields}}
    method = build_method(name, values)
    wanted = RareClasses(temperature=0.5, min_pixels=3000, min_crop_ratio=0.5)
    assert method.adapt(stream("labelled")) == replace(stream("labelled"), rare_classes=wanted)
    assert method.adapt(stream("unlabelled")) == replace(stream("unlabelled"), margins=(1, 2, 3, 4))
    plain = build_method("daformer", {"rare_class_temperature": None})
    for stream_name in ("labelled", "unlabelled"):
        assert plain.adapt(stream(stream_name)) == stream(stream_name)


@given(
    height=st.integers(1, 80), width=st.integers(1, 80), block=st.integers(1, 40),
    ratio=st.floats(0, 1), seed=st.integers(0, 5),
)  # fmt: skip
@settings(deadline=None, max_examples=60)
def test_blocks_are_the_nearest_stretch_of_a_coarse_draw(height, width, block, ratio, seed):
    shown = block_mask(2, height, width, block, ratio, generator(seed))
    coarse = (max(1, round(height / block)), max(1, round(width / block)))
    drawn = (torch.rand(2, *coarse, generator=generator(seed)) > ratio).float()
    expected = F.interpolate(drawn[:, None], (height, width), mode="nearest")[:, 0].bool()
    assert torch.equal(shown, expected)


def test_the_share_of_hidden_blocks():
    shown = block_mask(50, 512, 512, 64, 0.7, generator(1))
    blocks = shown[:, ::64, ::64]
    assert torch.equal(blocks.repeat_interleave(64, 1).repeat_interleave(64, 2), shown)
    # 3,200 blocks: four standard deviations are 0.033.
    assert float(blocks.float().mean()) == pytest.approx(0.3, abs=0.033)
    assert not block_mask(1, 64, 64, 64, 1.0, generator(0)).any()


MIC = {"inner": {"name": "daformer", **DAFORMER}, "mask_block": 4, "mask_weight": 0.7}


@pytest.mark.parametrize("encoding_name", ["one-hot", "ecoc"])
def test_mic_is_the_inner_method_and_the_masked_loss(encoding_name):
    options = {"length": 10} if encoding_name == "ecoc" else {}
    encoding = build_encoding(encoding_name, {**options, "quality_threshold": 0.5}, NAMES)
    batch = {"labelled": sample(1, True), "unlabelled": sample(2, False)}
    net = PixelNet(encoding.channels)
    fields = {"teacher": net, "reference": net, "student": net}
    first, second, masked = build_method("mic", MIC).losses(context(encoding, **fields), batch)
    inner = build_method("daformer", DAFORMER)
    given_ = context(encoding, **fields)
    for got, expected in zip((first, second), inner.losses(given_, batch), strict=True):
        torch.testing.assert_close(got.value, expected.value)

    # The generator stands where the inner method left it.
    target = batch["unlabelled"]
    images = domain_view(target.images, 0.2, 0.2, given_.random).clone()
    shown = block_mask(2, H, W, 4, 0.7, given_.random)
    assert 0.1 < shown.float().mean() < 0.6
    for c, mean in enumerate(IMAGE_MEAN):
        images[:, c] = torch.where(shown, images[:, c], torch.tensor(mean))
    pseudo = inner.teach(context(encoding, **fields), target)
    weight = pseudo.quality * target.valid
    terms = encoding.loss(net(images), pseudo.targets, weight)
    torch.testing.assert_close(masked.value, 0.7 * terms.total)
    assert float(masked.value.detach()) > 0


def test_mic_around_dacs():
    """Composition: another inner method, without margins and frozen network."""
    method = build_method("mic", {"inner": {"name": "dacs"}, "mask_block": 4})
    assert not method.uses_reference
    encoding = build_encoding("one-hot", {"quality_threshold": 0.4}, NAMES)
    batch = {"labelled": sample(1, True), "unlabelled": sample(2, False)}
    losses = list(method.losses(context(encoding, teacher=PixelNet(5)), batch))
    assert len(losses) == 3
    assert list(losses[2].logs) == ["loss/masked", "masked/ce"]


@pytest.mark.parametrize(
    ("name", "values", "words"),
    [
        ("daformer", {"feature_min_ratio": 0.5}, "feature_min_ratio: got 0.5, allowed is above"),
        ("daformer", {"margins": [-1, 0, 0, 0]}, "margins: got [-1, 0, 0, 0]"),
        ("daformer", {"feature_classes": [6, 6]}, "feature_classes: got [6, 6]"),
        ("daformer", {"rare_class_temperature": 0}, "rare_class_temperature: got 0"),
        ("daformer", {"jitter_strength": 0.7}, "jitter_strength: got 0.7"),
        ("mic", {"inner": {"name": "fixmatch"}}, "inner.name: unknown method 'fixmatch'"),
        ("mic", {"inner": {"name": "daformer", "margin": 1}}, "did you mean 'margins'"),
        ("mic", {"mask_ratio": 1.5}, "mask_ratio: got 1.5"),
    ],
)
def test_fields_out_of_range(name, values, words):
    with pytest.raises(ConfigError) as caught:
        build_method(name, values)
    assert words in str(caught.value)
