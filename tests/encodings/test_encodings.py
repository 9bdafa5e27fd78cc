import copy

import pytest
import torch
from torch.nn import functional

from ecocseg import Codebook, decode, hybrid_labels, mine_reliable_bits, soft_hamming_distance
from ecocseg.codes.mining import code_bits
from ecocseg.encodings import ENCODINGS, build_encoding, encoding_config
from ecocseg.errors import ConfigError, UserError

NAMES = ["road", "sky", "car", "person", "pole", "fence", "wall"]
CELLS = [
    ("one-hot", {}),
    ("one-hot", {"quality": "pixel", "quality_threshold": 0.5}),
    ("ecoc", {"length": 12}),
    ("ecoc", {"length": 12, "quality": "pixel", "quality_threshold": 0.7}),
    ("ecoc", {"length": 12, "labels": "code", "codebook": "mmd", "codebook_seed": 3}),
    ("ecoc", {"length": 12, "labels": "bit", "denominator": "codebook", "max_candidates": 2}),
    ("ecoc", {"codebook": "one-hot", "threshold": 0.8}),
    ("ecoc", {"length": 12, "temperature": "auto", "confidence": "class"}),
]


@pytest.fixture(params=CELLS, ids=str)
def encoding(request):
    name, options = request.param
    return build_encoding(name, options, NAMES)


def teacher(encoding, batch=2, height=6, width=8, scale=4.0):
    return torch.randn(batch, encoding.channels, height, width) * scale


def test_every_name_is_tested():
    assert {name for name, _ in CELLS} == set(ENCODINGS)


def test_shapes_and_types(encoding):
    logits = teacher(encoding).requires_grad_()
    labels = torch.randint(0, 7, (2, 6, 8))
    labels[0, 0] = 255
    assert encoding.num_classes == 7
    pseudo = encoding.pseudo_label(logits)
    shape = (2, 6, 8)
    assert pseudo.labels.shape == pseudo.confidence.shape == pseudo.quality.shape == shape
    assert pseudo.labels.dtype == torch.int64
    assert encoding.decode(logits).dtype == torch.int64
    assert encoding.class_scores(logits).shape == (2, 7, 6, 8)
    assert encoding.encode(labels).dtype == pseudo.targets.dtype
    assert encoding.encode(labels).shape == pseudo.targets.shape
    tensors = [pseudo.targets, pseudo.confidence, pseudo.quality, *pseudo.statistics.values()]
    assert not any(tensor.requires_grad for tensor in tensors)
    assert all(value.ndim == 0 for value in pseudo.statistics.values())
    terms = encoding.loss(logits, labels)
    assert terms.total.requires_grad
    assert not any(part.requires_grad for part in terms.parts.values())
    terms.total.backward()
    assert not logits.grad[0, :, 0].any()
    assert logits.grad[0, :, 1].any()


def test_the_largest_score_is_the_decoded_class(encoding):
    logits = teacher(encoding)
    assert torch.equal(encoding.class_scores(logits).argmax(1), encoding.decode(logits))
    assert torch.equal(encoding.pseudo_label(logits).labels, encoding.decode(logits))


def test_learning_from_labels_makes_them_the_answer(encoding):
    labels = torch.randint(0, 7, (2, 4, 4))
    logits = torch.zeros(2, encoding.channels, 4, 4, requires_grad=True)
    optimiser = torch.optim.SGD([logits], lr=50)
    losses = []
    for _ in range(60):
        optimiser.zero_grad()
        terms = encoding.loss(logits, labels)
        terms.total.backward()
        optimiser.step()
        losses.append(terms.total.item())
    assert losses[-1] < losses[0] / 2
    assert torch.equal(encoding.decode(logits), labels)


def test_labels_and_encoded_labels_cost_the_same(encoding):
    logits, labels = teacher(encoding), torch.randint(0, 7, (2, 6, 8))
    first = encoding.loss(logits, labels).total
    assert torch.allclose(first, encoding.loss(logits, encoding.encode(labels)).total)


def test_sources_and_pseudo_labels_mix_like_images(encoding):
    logits, student = teacher(encoding), teacher(encoding)
    labels = torch.randint(0, 7, (2, 6, 8))
    labels[:, :, 0] = 255
    pseudo = encoding.pseudo_label(logits)
    source = torch.zeros(2, 6, 8, dtype=torch.bool)
    source[:, :, :4] = True
    spread = source[:, None] if pseudo.targets.ndim == 4 else source
    targets = torch.where(spread, encoding.encode(labels), pseudo.targets)
    weight = torch.where(source, (labels != 255).float(), pseudo.quality)
    mixed = encoding.loss(student, targets, weight).total
    left = encoding.loss(student[..., :4], labels[..., :4]).total
    right = encoding.loss(student[..., 4:], pseudo.targets[..., 4:], pseudo.quality[..., 4:]).total
    assert mixed.item() == pytest.approx((left + right).item() / 2, rel=1e-5)


def test_padding_is_left_out_of_the_quality(encoding):
    logits = teacher(encoding)
    logits[:, :, :, 5:] = 0
    valid = torch.ones(2, 6, 8, dtype=torch.bool)
    valid[:, :, 5:] = False
    padded = encoding.pseudo_label(logits, valid)
    cropped = encoding.pseudo_label(logits[..., :5])
    assert torch.allclose(padded.quality[..., :5], cropped.quality)
    assert not padded.quality[..., 5:].any()


def test_quality_is_share_or_step():
    logits = torch.randn(2, 7, 6, 8) * 5
    confidence = logits.softmax(1).max(1).values
    share = (confidence > 0.8).float().mean((1, 2))
    image = build_encoding("one-hot", {"quality_threshold": 0.8}, NAMES).pseudo_label(logits)
    assert torch.allclose(image.confidence, confidence)
    assert torch.allclose(image.quality, share[:, None, None].expand(2, 6, 8))
    options = {"quality_threshold": 0.8, "quality": "pixel"}
    pixel = build_encoding("one-hot", options, NAMES).pseudo_label(logits)
    assert torch.equal(pixel.quality, (confidence > 0.8).float())
    assert image.statistics["quality"].item() == pytest.approx(share.mean().item())


def test_one_hot_is_weighted_cross_entropy():
    encoding = build_encoding("one-hot", {}, NAMES)
    logits, labels = torch.randn(2, 7, 6, 8), torch.randint(0, 7, (2, 6, 8))
    labels[1] = 255
    weight = torch.rand(2, 6, 8)
    log = logits.log_softmax(1)
    picked = -log.gather(1, labels.clamp(max=6)[:, None])[:, 0]
    expected = (picked * weight)[0].sum() / (2 * 6 * 8)
    terms = encoding.loss(logits, labels, weight)
    assert terms.total.item() == pytest.approx(expected.item(), rel=1e-5)
    assert terms.parts["ce"].item() == terms.total.item()
    assert encoding.loss(logits, torch.full_like(labels, 255)).total == 0
    half = encoding.loss(logits.bfloat16(), labels, weight).total
    assert half.dtype == torch.float32
    scores = encoding.class_scores(logits)
    assert torch.allclose(scores.sum(1), torch.ones(2, 6, 8))


def test_ecoc_is_mining_and_hybrid_labels():
    names = [f"class {index}" for index in range(19)]
    options = {"codebook": "mmd", "threshold": 0.9, "max_candidates": 5, "quality_threshold": 0.8}
    encoding = build_encoding("ecoc", options, names)
    book = Codebook.build("mmd", class_names=names, length=40, seed=0)
    assert torch.equal(encoding.book.bits, book.bits)
    logits = torch.randn(2, 40, 10, 12) * torch.rand(2, 1, 10, 12) * 8
    mined = mine_reliable_bits(logits, book, 0.9, 5)
    pseudo = encoding.pseudo_label(logits)
    assert torch.equal(pseudo.targets, hybrid_labels(logits, mined, book))
    assert torch.equal(pseudo.confidence, mined.confidence)
    assert torch.equal(encoding.decode(logits), decode(logits, book))
    distance = soft_hamming_distance(logits, book)
    assert torch.allclose(encoding.class_scores(logits), -distance / 40)
    code = code_bits(mined.labels, book)
    differ = code != (logits >= 0)
    pixels = mined.labels.numel()
    expected = {
        "confidence": mined.confidence.mean(),
        "quality": (mined.confidence > 0.8).float().mean(),
        "mask_share": mined.mask.float().mean(),
        "candidates": mined.candidates.float().mean(),
        "difference": differ.sum() / pixels,
        "correction": (differ & mined.mask).sum() / pixels,
    }
    assert pseudo.statistics.keys() == expected.keys()
    for name, value in expected.items():
        assert pseudo.statistics[name].item() == pytest.approx(value.item(), rel=1e-5), name
    for kind, targets in (("code", code), ("bit", logits >= 0)):
        other = build_encoding("ecoc", {**options, "labels": kind}, names)
        assert torch.equal(other.pseudo_label(logits).targets, targets)


def test_an_untrained_ignored_pixel_weighs_nothing_in_either():
    for name, options in CELLS:
        encoding = build_encoding(name, options, NAMES)
        logits = teacher(encoding).requires_grad_()
        terms = encoding.loss(logits, torch.full((2, 6, 8), 255))
        terms.total.backward()
        assert terms.total == 0
        assert not logits.grad.any()


def test_it_has_no_state_and_copies(encoding):
    assert encoding.state_dict() == {}
    assert list(encoding.parameters()) == []
    logits = teacher(encoding)
    clone = copy.deepcopy(encoding)
    assert torch.equal(clone.decode(logits), encoding.decode(logits))


def test_half_precision_under_autocast_learns(encoding):
    logits = teacher(encoding).bfloat16().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        terms = encoding.loss(logits, torch.randint(0, 7, (2, 6, 8)))
        encoding.pseudo_label(logits)
    terms.total.backward()
    assert terms.total.dtype == torch.float32
    assert logits.grad.dtype == torch.bfloat16
    assert logits.grad.isfinite().all()


def test_a_saved_codebook_is_used_and_checked(tmp_path):
    path = tmp_path / "book.json"
    book = Codebook.build("mmd", class_names=NAMES, length=9, draws=50)
    book.save(path)
    encoding = build_encoding("ecoc", {"codebook_path": str(path)}, NAMES)
    assert encoding.channels == 9
    assert torch.equal(encoding.book.bits, book.bits)
    for names in (NAMES[:-1], NAMES[::-1]):
        with pytest.raises(ConfigError, match="codebook_path"):
            build_encoding("ecoc", {"codebook_path": str(path)}, names)


@pytest.mark.parametrize(
    ("name", "options", "says"),
    [
        ("onehot", {}, "encoding: got 'onehot', allowed one-hot, ecoc"),
        ("one-hot", {"threshold": 0.9}, "encoding.threshold"),
        ("one-hot", {"quality": "class"}, "allowed image, batch, pixel"),
        ("one-hot", {"quality_threshold": 1.5}, "quality_threshold: got 1.5"),
        ("ecoc", {"lenght": 40}, "encoding.lenght"),
        ("ecoc", {"length": 0}, "length"),
        ("ecoc", {"codebook": "random"}, "codebook: got 'random'"),
        ("ecoc", {"threshold": -1}, "threshold"),
        ("ecoc", {"threshold": "high"}, "encoding.threshold: got 'high', allowed .* float"),
        ("ecoc", {"length": 40.0}, "encoding.length: got 40.0, allowed .* int"),
        ("ecoc", {"max_candidates": "8"}, "allowed .* int or NoneType"),
        ("ecoc", {"labels": 1}, "allowed .* str"),
        ("ecoc", {"codebook_seed": True}, "codebook_seed"),
        ("ecoc", {"max_candidates": 0}, "max_candidates"),
        ("ecoc", {"labels": "soft"}, "allowed hybrid, code, bit"),
        ("ecoc", {"distance_weight": -1}, "distance_weight"),
        ("ecoc", {"contrast_weight": -1}, "contrast_weight"),
        ("ecoc", {"temperature": 0}, "temperature"),
        ("ecoc", {"temperature": "warm"}, "temperature: got 'warm', allowed above 0, or auto"),
        ("ecoc", {"temperature": None}, "encoding.temperature: got None, allowed .* float or str"),
        ("ecoc", {"confidence": "pixel"}, "allowed bits, class"),
        ("ecoc", {"denominator": "all"}, "denominator"),
    ],
)
def test_a_wrong_option_is_refused(name, options, says):
    with pytest.raises(ConfigError, match=says):
        encoding_config(name, options)
    with pytest.raises(UserError):
        build_encoding(name, options, NAMES)


def test_confidence_of_a_class_is_a_probability_as_one_hots():
    options = {"length": 12, "temperature": "auto", "confidence": "class", "quality": "pixel"}
    encoding = build_encoding("ecoc", {**options, "quality_threshold": 0.9}, NAMES)
    labels = torch.randint(0, 7, (2, 6, 8))
    # At its own codeword every class is sure, whatever the length of the logits.
    sure = (encoding.encode(labels).float() * 2 - 1) * 0.01
    pseudo = encoding.pseudo_label(sure)
    assert torch.equal(pseudo.labels, labels)
    assert pseudo.confidence.min() > 0.99 - 1e-6
    assert pseudo.quality.all()
    # Halfway between two codewords each has half of it.
    first, second = encoding.book.signed[0], encoding.book.signed[1]
    halfway = encoding.class_probabilities((first + second).view(1, 12, 1, 1)).flatten()
    assert halfway[0] == halfway[1]
    logits = teacher(encoding)
    pseudo = encoding.pseudo_label(logits)
    own = encoding.class_probabilities(logits).gather(1, pseudo.labels[:, None])[:, 0]
    assert torch.equal(pseudo.confidence, own)
    assert torch.equal(encoding.confidence(logits), own)
    assert encoding.facts()["temperature"] == encoding.temperature == pytest.approx(0.1, abs=0.08)


def test_a_large_tau_does_not_blur_the_confidence_of_a_label():
    """With the paper's tau no share of a class exceeds 0.3 to 0.5: OHEM would drop no pixel."""
    encoding = build_encoding("ecoc", {"length": 12}, NAMES)
    labels = torch.randint(0, 7, (2, 6, 8))
    right = (encoding.encode(labels).float() * 2 - 1) * 5
    assert encoding.label_confidence(right, labels).min() > 0.98
    # A class taken for another one with every bit certain is a hard pixel.
    wrong = (labels + 1) % 7
    assert encoding.label_confidence(right, wrong).max() < 0.01


def test_the_defaults_are_the_papers():
    config = encoding_config("ecoc", {})
    assert (config.codebook, config.length, config.threshold) == ("text", 40, 0.95)
    assert (config.distance_weight, config.contrast_weight, config.temperature) == (5, 2, 0.5)
    assert (config.quality, config.quality_threshold) == ("image", 0.968)
    logits = torch.randn(1, 40, 4, 4)
    names = ["road", "sidewalk", "building", "sky", "car", "person", "rider", "bicycle"]
    encoding = build_encoding("ecoc", {}, names)
    labels = torch.randint(0, 8, (1, 4, 4))
    parts = encoding.loss(logits, labels).parts
    target = encoding.encode(labels).float()
    bce = functional.binary_cross_entropy_with_logits(logits, target)
    assert parts["bce"].item() == pytest.approx(bce.item(), rel=1e-5)
