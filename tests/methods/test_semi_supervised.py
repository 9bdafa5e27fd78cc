"""UniMatch, UniMatch V2 and hard pixels against literal statements of the public code."""

import pytest
import torch
from method_parts import NAMES, H, PixelNet, W, context, generator, losses, sample
from torch.nn import functional as F

from ecocseg.codes.temperature import auto_temperature
from ecocseg.data.augment import strong_view
from ecocseg.data.mixing import cutmix_mask
from ecocseg.encodings import build_encoding
from ecocseg.encodings.one_hot import dice_loss
from ecocseg.errors import ConfigError
from ecocseg.methods import build_method
from ecocseg.methods.consistency import hard_pixels
from ecocseg.methods.unimatch import FeatureDropout
from ecocseg.methods.unimatch_v2 import ComplementaryDropout

THRESHOLD = 0.7


def pixel_encoding():
    config = {"quality": "pixel", "quality_threshold": THRESHOLD}
    return build_encoding("one-hot", config, NAMES)


def consistency(logits, guess, confidence, ignored):
    """Cross-entropy on confident pixels, over the number that is no padding."""
    pixels = F.cross_entropy(logits, guess, reduction="none")
    return (pixels * ((confidence >= THRESHOLD) & ~ignored)).sum() / (~ignored).sum()


def guessed(logits):
    confidence, guess = logits.softmax(1).max(1)
    return guess, confidence


def pasted(box, other, own):
    return torch.where(box if own.dim() == 3 else box[:, None], other, own)


def test_unimatch_is_the_public_codes_loss():
    labelled, weak, partner = sample(1, True), sample(2, False), sample(3, False)
    student = PixelNet(5)
    method = build_method("unimatch", {"cutmix_probability": 1.0})
    batch = {"labelled": labelled, "unlabelled": weak, "partner": partner}
    (loss,) = losses(method, context(pixel_encoding(), student=student), batch)
    assert student.modes == [False, True, True]

    random = generator(4)
    sources = [weak.images, weak.images, partner.images, partner.images]
    s1, s2, m1, m2 = strong_view(torch.cat(sources), random).chunk(4)
    images = torch.cat([labelled.images, weak.images])
    boxes = [cutmix_mask(2, H, W, random, 1.0) for _ in range(2)]
    kept = torch.rand(4, 3, generator=random) >= 0.5
    with torch.no_grad():
        guess, confidence = guessed(student(weak.images))
        guess_m, confidence_m = guessed(student(partner.images))
    loss_x = F.cross_entropy(student(labelled.images), labelled.labels, ignore_index=255)
    strong = []
    for own, mix, box in ((s1, m1, boxes[0]), (s2, m2, boxes[1])):
        strong.append(
            consistency(
                student(pasted(box, mix, own)),
                pasted(box, guess_m, guess),
                pasted(box, confidence_m, confidence),
                pasted(box, ~partner.valid, ~weak.valid),
            )
        )
    dropped = student((images * kept[:, :, None, None] * 2)[2:])
    features = consistency(dropped, guess, confidence, ~weak.valid)
    expected = (loss_x + 0.25 * strong[0] + 0.25 * strong[1] + 0.5 * features) / 2
    torch.testing.assert_close(loss.value, expected)
    torch.testing.assert_close(loss.logs["loss/features"], features.detach())


def test_unimatch_v2_is_the_public_codes_loss():
    labelled, weak = sample(1, True), sample(2, False)
    student, teacher = PixelNet(5), PixelNet(5).requires_grad_(False).eval()
    teacher.layer.weight.mul_(0.7)
    method = build_method("unimatch_v2", {"cutmix_probability": 1.0})
    batch = {"labelled": labelled, "unlabelled": weak}
    given = context(pixel_encoding(), student=student, teacher=teacher)
    first, second = losses(method, given, batch)

    random = generator(4)
    s1, s2 = strong_view(torch.cat([weak.images, weak.images]), random).chunk(2)
    boxes = [cutmix_mask(2, H, W, random, 1.0) for _ in range(2)]
    guess, confidence = guessed(teacher(weak.images))
    views = [pasted(box, own.flip(0), own) for own, box in ((s1, boxes[0]), (s2, boxes[1]))]
    whole = int(torch.randperm(2, generator=random)[0])
    mask = (torch.rand(2, 3, generator=random) < 0.5) * 2.0
    masks = [mask.clone(), 2 - mask]
    for each in masks:
        each[whole] = 1
    values = [
        consistency(
            student(view * each[:, :, None, None]),
            pasted(box, guess.flip(0), guess),
            pasted(box, confidence.flip(0), confidence),
            pasted(box, ~weak.valid.flip(0), ~weak.valid),
        )
        for view, each, box in zip(views, masks, boxes, strict=True)
    ]
    loss_x = F.cross_entropy(student(labelled.images), labelled.labels, ignore_index=255)
    torch.testing.assert_close(first.value, loss_x / 2)
    torch.testing.assert_close(second.value, (values[0] + values[1]) / 4)


def test_feature_dropout_keeps_the_mean_and_the_first_half():
    maps = [torch.ones(4, 600, 2, 3), torch.ones(4, 7, 1, 1)]
    dropped = FeatureDropout(0.25, generator())(maps)
    for before, after in zip(maps, dropped, strict=True):
        assert torch.equal(after[:4], before)
        channels = after[4:].amax((2, 3))
        assert torch.equal(channels, after[4:].amin((2, 3)))
        assert ((channels == 0) | ((channels - 4 / 3).abs() < 1e-6)).all()
    assert float(dropped[0][4:].mean()) == pytest.approx(1, abs=0.05)


def test_complementary_dropout_splits_the_channels_of_half_of_the_pairs():
    maps = [torch.ones(12, 64, 2, 2), torch.ones(12, 64, 1, 1), torch.ones(12, 9, 3, 3)]
    first, again, other = ComplementaryDropout(0.5, generator(1))(maps)
    # Layers of one width lose the same channels.
    assert torch.equal(first.amax((2, 3)), again.amax((2, 3)))
    for changed in (first, other):
        one, two = changed.chunk(2)
        assert torch.equal(one + two, torch.full_like(one, 2))
        whole = (one == 1).all((1, 2, 3))
        assert whole.sum() == 3
        assert set(one[~whole].unique().tolist()) == {0.0, 2.0}
    assert torch.equal(ComplementaryDropout(0.0, generator(1))(maps)[0], maps[0])


@pytest.mark.parametrize("name", ["one-hot", "ecoc"])
@pytest.mark.parametrize("threshold", [0.05, 0.7, 1.0])
@pytest.mark.parametrize("least", [0, 40, 10_000])
def test_hard_pixels_against_the_sorted_list(name, threshold, least):
    options = {"length": 10} if name == "ecoc" else {}
    encoding = build_encoding(name, options, NAMES)
    labels = sample(1, True).labels
    logits = torch.randn(2, encoding.channels, H, W, generator=generator(5)) * 2
    got = hard_pixels(encoding, logits, labels, threshold, least)

    confidences = {}
    for b in range(2):
        for y in range(H):
            for x in range(W):
                label = int(labels[b, y, x])
                if label == 255:
                    continue
                if name == "one-hot":
                    value = float(logits[b, :, y, x].softmax(0)[label])
                else:
                    # A softmax over classes: of single bits similar classes share the most.
                    z = logits[b, :, y, x].double()
                    cosines = F.cosine_similarity(z[None], encoding.book.signed.double())
                    tau = auto_temperature(encoding.book)
                    value = float((cosines / tau).softmax(0)[label])
                confidences[b, y, x] = value
    ordered = sorted(confidences.values())
    limit = threshold
    if least:
        limit = max(threshold, ordered[least - 1] if least <= len(ordered) else 2)
    expected = {place for place, value in confidences.items() if value <= limit + 1e-7}
    assert {tuple(place) for place in got.nonzero().tolist()} == expected


def test_hard_pixels_are_what_the_labelled_loss_averages():
    encoding = build_encoding("one-hot", {}, NAMES)
    labelled, student = sample(1, True), PixelNet(5)
    values = {"divisor": "valid", "ohem_threshold": 0.3, "ohem_min_kept": 20}
    method = build_method("supervised", values)
    (loss,) = losses(method, context(encoding, student=student), {"labelled": labelled})
    logits = student(labelled.images)
    kept = hard_pixels(encoding, logits, labelled.labels, 0.3, 40)
    assert 40 <= int(kept.sum()) < int((labelled.labels != 255).sum())
    pixels = F.cross_entropy(logits, labelled.labels, ignore_index=255, reduction="none")
    torch.testing.assert_close(loss.value, pixels[kept].mean())


def test_values_out_of_range():
    for name, values, words in (
        ("unimatch", {"feature_dropout": 1.0}, r"method \(unimatch\)\.feature_dropout: got 1\.0"),
        ("unimatch", {"strong_weight": -1}, "strong_weight"),
        ("unimatch", {"ohem_threshold": 1.5}, "ohem_threshold"),
        ("fixmatch", {"greyscale_probability": 2}, "greyscale_probability"),
        ("unimatch_v2", {"dropped_pairs": 2}, "dropped_pairs"),
        ("supervised", {"ohem_threshold": 0.7}, "set divisor to valid"),
        ("stpp", {"label_scales": []}, "label_scales"),
        ("stpp", {"reliable_share": 1}, "reliable_share"),
    ):
        with pytest.raises(ConfigError, match=words):
            build_method(name, values)


def test_dice_against_its_sums():
    """As UniMatch's DiceLoss: class by class, the sums over all pixels that are not left out."""
    logits = torch.randn(2, 3, 4, 5, generator=generator(6), dtype=torch.float64)
    targets = torch.randint(0, 3, (2, 4, 5), generator=generator(7))
    kept = torch.rand(2, 4, 5, generator=generator(8)) < 0.6
    p = logits.softmax(1)
    total = 0.0
    for n in range(3):
        truth = (targets == n).double()
        both = (p[:, n][kept] * truth[kept]).sum()
        squares = (p[:, n][kept] ** 2).sum() + (truth[kept] ** 2).sum()
        total += 1 - (2 * both + 1e-5) / (squares + 1e-5)
    torch.testing.assert_close(dice_loss(logits, targets, kept.double()), total / 3)
    encoding = build_encoding("one-hot", {"criterion": "dice"}, NAMES[:3])
    labels = F.cross_entropy(logits, targets)
    terms = encoding.loss(logits, targets)
    torch.testing.assert_close(terms.total, (labels + dice_loss(logits, targets)) / 2)
    weighted = encoding.loss(logits, targets, kept.double())
    torch.testing.assert_close(weighted.total, dice_loss(logits, targets, kept.double()))
    with pytest.raises(ConfigError, match="criterion: got 'jaccard'"):
        build_encoding("one-hot", {"criterion": "jaccard"}, NAMES)
