"""The methods against plain statements of what they minimise."""

from types import SimpleNamespace

import pytest
import torch
from method_parts import NAMES, H, PixelNet, W, context, generator, losses, sample
from torch.nn import functional as F

from ecocseg.data.augment import photometric_distortion, strong_view
from ecocseg.data.mixing import class_mask, cutmix_mask
from ecocseg.encodings import build_encoding
from ecocseg.errors import ConfigError
from ecocseg.methods import build_method


@pytest.mark.parametrize("name", ["one-hot", "ecoc"])
def test_dacs_mixed_batch_against_a_loop(name):
    options = {"length": 10} if name == "ecoc" else {}
    encoding = build_encoding(name, options, NAMES)
    teacher = PixelNet(encoding.channels)
    source, target = sample(1, True), sample(2, False)
    # About half of the pixels are confident.
    threshold = float(encoding.pseudo_label(teacher(target.images)).confidence.median()) + 1e-4
    encoding = build_encoding(name, {**options, "quality_threshold": threshold}, NAMES)
    method = build_method("dacs", {"jitter_strength": 0.0})
    given = context(encoding, teacher=teacher)
    images, targets, weight = method.mixed(given, source, target, method.teach(given, target))

    with torch.no_grad():
        logits = teacher(target.images)
        mask = class_mask(source.labels, generator(4))
        pseudo = encoding.pseudo_label(logits)
    assert 0.3 < mask.float().mean() < 0.7
    shares = []
    for b in range(2):
        above = counted = 0
        for y in range(H):
            for x in range(W):
                if target.valid[b, y, x]:
                    counted += 1
                    if name == "one-hot":
                        confidence = max(F.softmax(logits[b, :, y, x], 0).tolist())
                    else:
                        p = torch.sigmoid(logits[b, :, y, x])
                        confidence = float(torch.maximum(p, 1 - p).mean())
                    above += confidence > threshold
        shares.append(above / counted)
    assert all(0 < share < 1 for share in shares)
    assert shares[0] != pytest.approx(shares[1])
    encoded = encoding.encode(source.labels)
    for b in range(2):
        for y in range(H):
            for x in range(W):
                place = (b, ..., y, x)
                if mask[b, y, x]:
                    ignored = source.labels[b, y, x] == 255
                    assert weight[place] == (0 if ignored else 1)
                    if not ignored:
                        assert torch.equal(targets[place], encoded[place])
                elif target.valid[b, y, x]:
                    assert float(weight[place]) == pytest.approx(shares[b])
                    assert torch.equal(targets[place], pseudo.targets[place])
                else:
                    assert weight[place] == 0
    # Without jitter the images are the mixed ones, sharp or blurred.
    pasted = torch.where(mask[:, None], source.images, target.images)
    assert (images - pasted).abs().mean() < 0.2


@pytest.mark.parametrize("name", ["one-hot", "ecoc"])
def test_the_released_code_mixes_and_weighs_by_the_batch(name):
    """Classes of the whole batch, and one share of confident pixels for it, without padding."""
    options = {"length": 10} if name == "ecoc" else {}
    plain = build_encoding(name, options, NAMES)
    source, target, teacher = sample(1, True), sample(2, False), PixelNet(plain.channels)
    logits = teacher(target.images).detach()
    confidence = plain.confidence(logits)
    threshold = float(confidence.median()) + 1e-4
    encoding = build_encoding(
        name, {**options, "quality": "batch", "quality_threshold": threshold}, NAMES
    )
    above = [float(c) > threshold for c in confidence[target.valid]]
    share = sum(above) / len(above)
    own = [
        float((c[v] > threshold).float().mean())
        for c, v in zip(confidence, target.valid, strict=True)
    ]
    assert min(abs(each - share) for each in own) > 1e-3

    given = context(encoding, teacher=teacher)
    method = build_method("dacs", {"mix_classes": "batch"})
    *_, weight = method.mixed(given, source, target, method.teach(given, target))
    mask = class_mask(source.labels, generator(4), "batch")
    expected = torch.where(mask, (source.labels != 255).float(), share * target.valid)
    torch.testing.assert_close(weight, expected)
    assert 0.2 < mask.float().mean() < 0.8
    quality = encoding.pseudo_label(logits).quality
    torch.testing.assert_close(
        quality, (confidence > threshold).float().mean().expand(quality.shape)
    )


def test_dacs_images_are_pasted_by_the_same_mask():
    encoding = build_encoding("one-hot", {}, NAMES)
    source, target = sample(1, True), sample(2, False)
    method = build_method("dacs", {"jitter_probability": 1.0})
    exact = 0
    for seed in range(8):
        fields = {"teacher": PixelNet(5), "random": generator(seed)}
        given = context(encoding, **fields)
        images, *_ = method.mixed(given, source, target, method.teach(given, target))
        mask = class_mask(source.labels, generator(seed))[:, None]
        exact += torch.equal(images, torch.where(mask, source.images, target.images))
    # The batch is blurred every other time.
    assert 1 <= exact <= 7


def test_dacs_sums_the_source_loss_and_the_weighted_mixed_loss():
    encoding = build_encoding("one-hot", {"quality_threshold": 0.6}, NAMES)
    source, target = sample(1, True), sample(2, False)
    method = build_method("dacs", {})
    student, teacher = PixelNet(5), PixelNet(5)
    first, second = losses(
        method,
        context(encoding, student=student, teacher=teacher),
        {"labelled": source, "unlabelled": target},
    )
    ce = F.cross_entropy(student(source.images), source.labels, ignore_index=255, reduction="sum")
    torch.testing.assert_close(first.value, ce / source.labels.numel())
    given = context(encoding, teacher=teacher)
    images, targets, weight = method.mixed(given, source, target, method.teach(given, target))
    pixels = F.cross_entropy(student(images), targets, ignore_index=255, reduction="none")
    torch.testing.assert_close(second.value, (pixels * weight).mean())


@pytest.mark.parametrize("share", [1.0, 0.5, 0.0])
def test_fixmatch_is_the_public_codes_loss(share):
    """One-hot with a pixel threshold, as in LiheYoung/UniMatch's fixmatch.py (share 1)."""
    threshold = 0.7
    config = {"quality": "pixel", "quality_threshold": threshold}
    encoding = build_encoding("one-hot", config, NAMES)
    labelled, weak, partner = sample(1, True), sample(2, False), sample(3, False)
    student = PixelNet(5)
    method = build_method("fixmatch", {"unlabelled_weight": share, "cutmix_probability": 1.0})
    batch = {"labelled": labelled, "unlabelled": weak, "partner": partner}
    (loss,) = losses(method, context(encoding, student=student), batch)

    random = generator(4)
    strong, strong_partner = strong_view(torch.cat([weak.images, partner.images]), random).chunk(2)
    box = cutmix_mask(2, H, W, random, probability=1.0)
    assert box.any((1, 2)).all()
    confidence, guess = student(weak.images).softmax(1).max(1)
    confidence_other, guess_other = student(partner.images).softmax(1).max(1)
    strong = torch.where(box[:, None], strong_partner, strong)
    guess = torch.where(box, guess_other, guess)
    confidence = torch.where(box, confidence_other, confidence)
    ignored = torch.where(box, ~partner.valid, ~weak.valid)
    supervised = F.cross_entropy(student(labelled.images), labelled.labels, ignore_index=255)
    kept = (confidence >= threshold) & ~ignored
    assert 0.1 < kept.float().mean() < 0.9
    pixels = F.cross_entropy(student(strong), guess, reduction="none") * kept
    unsupervised = pixels.sum() / (~ignored).sum()
    expected = (supervised + share * unsupervised) / (1 + share)
    torch.testing.assert_close(loss.value, expected)
    assert student.modes[:3] == [False, True, True]


def test_supervised_divisors():
    encoding = build_encoding("one-hot", {}, NAMES)
    labelled, student = sample(1, True), PixelNet(5)
    got = {}
    for divisor in ("all", "valid"):
        method = build_method("supervised", {"divisor": divisor})
        (loss,) = losses(method, context(encoding, student=student), {"labelled": labelled})
        got[divisor] = loss.value
    logits = student(labelled.images)
    total = F.cross_entropy(logits, labelled.labels, ignore_index=255, reduction="sum")
    torch.testing.assert_close(got["all"], total / labelled.labels.numel())
    torch.testing.assert_close(
        got["valid"], F.cross_entropy(logits, labelled.labels, ignore_index=255)
    )


def test_supervised_on_distorted_images():
    encoding = build_encoding("one-hot", {}, NAMES)
    labelled, student = sample(1, True), PixelNet(5)
    method = build_method("supervised", {"distortion": True})
    (loss,) = losses(method, context(encoding, student=student), {"labelled": labelled})
    images = photometric_distortion(labelled.images, generator(4))
    assert (images != labelled.images).any()
    total = F.cross_entropy(student(images), labelled.labels, ignore_index=255, reduction="sum")
    torch.testing.assert_close(loss.value, total / labelled.labels.numel())


@pytest.mark.parametrize("method", ["dacs", "fixmatch"])
def test_without_one_label_the_losses_stay_finite(method):
    encoding = build_encoding("ecoc", {"length": 10}, NAMES)
    empty = sample(1, False)
    batch = {"labelled": empty, "unlabelled": sample(2, False), "partner": sample(3, False)}
    ctx = context(encoding, teacher=PixelNet(encoding.channels))
    values = [loss.value for loss in losses(build_method(method, {}), ctx, batch)]
    assert all(torch.isfinite(value) for value in values)


@pytest.mark.parametrize(
    ("method", "other", "words"),
    [
        ("dacs", {"batch": 3}, "schedule.unlabelled_batch"),
        ("dacs", {"size": (8, 8)}, "got labelled batches of 2x12x16"),
        ("fixmatch", {"size": (8, 8)}, "unlabelled ones of 2x8x8"),
    ],
)
def test_batches_that_cannot_be_put_together(method, other, words):
    encoding = build_encoding("one-hot", {}, NAMES)
    unlabelled = sample(2, False, **other)
    batch = SimpleNamespace(
        labelled=sample(1, True), unlabelled=unlabelled, partner=sample(3, False, **other)
    )
    ctx = context(encoding, teacher=PixelNet(5))
    with pytest.raises(ConfigError) as caught:
        losses(build_method(method, {}), ctx, vars(batch))
    assert words in str(caught.value)
