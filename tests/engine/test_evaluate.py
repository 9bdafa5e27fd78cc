from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import nn
from torch.nn import functional as F

from ecocseg.config import from_mapping
from ecocseg.diagnostics import diagnose
from ecocseg.encodings import build_encoding
from ecocseg.engine.evaluate import (
    EvaluationConfig,
    _starts,
    evaluate,
    overall_score,
    predict_slide,
    predict_whole,
    window_places,
)
from ecocseg.engine.seed import seeded
from ecocseg.errors import ConfigError
from ecocseg.metrics import confusion_matrix

CPU = torch.device("cpu")


class Net(nn.Module):
    """Sees its window's borders: zero padding reaches three pixels in."""

    def __init__(self, channels):
        super().__init__()
        with seeded(channels):
            self.layer = nn.Conv2d(3, channels, 7, padding=3)
        self.calls = []

    def forward(self, images):
        self.calls.append(tuple(images.shape))
        return self.layer(images)


@pytest.fixture(scope="module", params=["one-hot", "ecoc"])
def encoding(request, manifests):
    return build_encoding(request.param, {}, manifests["streets_camera"].names)


@pytest.fixture
def rows(manifests):
    return manifests["streets_camera"].rows("val")


@given(st.integers(1, 60), st.integers(1, 60), st.integers(1, 60))
def test_windows_cover_the_length_and_stay_inside(length, window, stride):
    window = min(window, length)
    stride = min(stride, window)
    starts = _starts(length, window, stride)
    assert {i for s in starts for i in range(s, s + window)} == set(range(length))
    # mmsegmentation's grid, its last window moved back inside.
    count = max(length - window + stride - 1, 0) // stride + 1
    assert starts == [min(i * stride, length - window) for i in range(count)]


@pytest.mark.parametrize("batch", [1, 3])
def test_slide_against_a_naive_implementation(encoding, batch):
    image = torch.rand(1, 3, 21, 34, generator=torch.Generator().manual_seed(0))
    model = Net(encoding.channels)
    config = EvaluationConfig(mode="slide", window=(10, 16), stride=(7, 10), batch_size=batch)
    with torch.no_grad():
        got = predict_slide(model, encoding, image, (21, 34), config)
        total, visits = torch.zeros(encoding.num_classes, 21, 34), torch.zeros(21, 34)
        for top in (0, 7, 11):
            for left in (0, 10, 18):
                window = image[..., top : top + 10, left : left + 16]
                total[:, top : top + 10, left : left + 16] += encoding.class_scores(model(window))[
                    0
                ]
                visits[top : top + 10, left : left + 16] += 1
        scores, order = (total / visits).topk(2, dim=0)
    clear = scores[0] - scores[1] > 1e-5
    assert clear.float().mean() > 0.95
    assert torch.equal(got[0][clear], order[0][clear])


def test_slide_of_logits_decides_on_the_mean_logits(encoding):
    """As mmsegmentation does; the windows' borders make it another result than mean scores."""
    image = torch.rand(1, 3, 21, 34, generator=torch.Generator().manual_seed(0))
    model = Net(encoding.channels)
    config = EvaluationConfig(mode="slide", window=(10, 16), stride=(7, 10), average="logits")
    with torch.no_grad():
        got = predict_slide(model, encoding, image, (42, 68), config)
        total, visits = torch.zeros(encoding.channels, 21, 34), torch.zeros(21, 34)
        for top in (0, 7, 11):
            for left in (0, 10, 18):
                window = model(image[..., top : top + 10, left : left + 16])[0]
                total[:, top : top + 10, left : left + 16] += window
                visits[top : top + 10, left : left + 16] += 1
        mean = F.interpolate((total / visits)[None], (42, 68), mode="bilinear")
    assert (got == encoding.decode(mean)).float().mean() > 0.999
    scores = predict_slide(model, encoding, image, (42, 68), replace(config, average="scores"))
    assert (got != scores).any()


def test_unimatchs_windows_on_cityscapes():
    """Rows at 0 and 534, columns at 0, 534, 1068 and 1602, cut off at 1024 and 2048."""
    fields = {"mode": "slide", "window": (801, 801), "stride": (534, 534)}
    clipped = window_places(1024, 2048, EvaluationConfig(**fields, border="clip"))
    rows = {(r.start, r.stop) for r, _ in clipped}
    columns = {(c.start, c.stop) for _, c in clipped}
    assert rows == {(0, 801), (534, 1024)}
    assert columns == {(0, 801), (534, 1335), (1068, 1869), (1602, 2048)}
    assert len(clipped) == 8
    shifted = window_places(1024, 2048, EvaluationConfig(**fields))
    assert {r.start for r, _ in shifted} == {0, 223}
    assert {c.start for _, c in shifted} == {0, 534, 1068, 1247}


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize(("height", "width"), [(21, 34), (9, 34), (24, 20)])
def test_windows_cut_off_at_the_border_against_the_public_loop(encoding, batch, height, width):
    """UniMatch adds up the windows' probabilities and divides by nothing."""
    image = torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(0))
    model = Net(encoding.channels)
    config = EvaluationConfig(
        mode="slide", window=(10, 16), stride=(7, 10), border="clip", batch_size=batch
    )
    with torch.no_grad():
        got = predict_slide(model, encoding, image, (height, width), config)
        sizes = {shape[2:] for shape in model.calls}
        assert max(shape[0] for shape in model.calls) <= batch
        visits = torch.zeros(height, width)
        total = torch.zeros(encoding.num_classes, height, width)
        top = 0
        while top < height:
            left = 0
            while left < width:
                window = slice(top, min(height, top + 10)), slice(left, min(width, left + 16))
                total[:, *window] += encoding.class_scores(model(image[..., *window]))[0]
                visits[window] += 1
                left += 10
            top += 7
        scores, order = (total / visits).topk(2, dim=0)
    assert len(sizes) > 1
    clear = scores[0] - scores[1] > 1e-5
    assert clear.float().mean() > 0.95
    assert torch.equal(got[0][clear], order[0][clear])


@pytest.mark.parametrize(
    ("height", "width", "seen"),
    [(500, 375, (504, 378)), (333, 491, (336, 490)), (6, 28, (14, 28))],
)
def test_whole_images_at_multiples_of_14_as_unimatch_v2(encoding, height, width, seen):
    """Its int(side / 14 + 0.5) * 14, there and back corner on corner; never 0."""
    image = torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(1))
    model = Net(encoding.channels)
    with torch.no_grad():
        got = predict_whole(model, encoding, image, (height, width), 14)
        assert model.calls == [(1, 3, *seen)]
        resized = F.interpolate(image, seen, mode="bilinear", align_corners=True)
        back = F.interpolate(model(resized), (height, width), mode="bilinear", align_corners=True)
    assert torch.equal(got, encoding.decode(back))


def test_the_size_an_image_is_seen_at_counts(encoding, rows):
    model = Net(encoding.channels)
    one, other = (
        evaluate(model, encoding, rows, EvaluationConfig(multiple=multiple), CPU)
        for multiple in (None, 14)
    )
    assert (one != other).any()
    # 48x96 is 3 and 7 patches: 42x98.
    assert {shape[2:] for shape in model.calls} == {(48, 96), (42, 98)}


def test_slide_with_one_window_is_whole(encoding, rows):
    model = Net(encoding.channels)
    whole = evaluate(model, encoding, rows, EvaluationConfig(), CPU)
    for window in ((48, 96), (500, 500)):
        slide = EvaluationConfig(mode="slide", window=window, stride=(48, 96))
        assert torch.equal(evaluate(model, encoding, rows, slide, CPU), whole)


def test_logits_are_brought_to_the_labels_size(encoding, rows, tmp_path):
    label = Image.open(rows[0].label)
    large = label.resize((192, 96), Image.Resampling.NEAREST)
    large.save(tmp_path / "large.png")
    row = replace(rows[0], label=tmp_path / "large.png", label_size=(96, 192))
    model = Net(encoding.channels)
    got = evaluate(model, encoding, [row, rows[1]], EvaluationConfig(), CPU)

    expected = torch.zeros_like(got)
    for each in (row, rows[1]):
        picture = Image.open(each.image).convert("RGB")
        pixels = torch.frombuffer(bytearray(picture.tobytes()), dtype=torch.uint8)
        image = pixels.view(1, picture.height, picture.width, 3).permute(0, 3, 1, 2) / 255
        with Image.open(each.label) as file:
            size = file.height, file.width
            truth = torch.frombuffer(bytearray(file.tobytes()), dtype=torch.uint8).view(1, *size)
        with torch.no_grad():
            logits = F.interpolate(model(image), size, mode="bilinear", align_corners=False)
        expected += confusion_matrix(encoding.decode(logits), truth, 19)
    # Batching may turn a tie.
    assert int((got - expected).abs().sum()) <= 4
    assert int(got.sum()) == sum(truth_pixels(r) for r in (row, rows[1]))


def truth_pixels(row):
    with Image.open(row.label) as file:
        return sum(value != 255 for value in file.tobytes())


def test_batches_hold_images_of_one_size_and_modes_are_restored(encoding, rows, tmp_path):
    with Image.open(rows[1].label) as file:
        file.resize((192, 96), Image.Resampling.NEAREST).save(tmp_path / "large.png")
    odd = replace(rows[1], label=tmp_path / "large.png", label_size=(96, 192))
    for training in (True, False):
        model = Net(encoding.channels).train(training)
        config = EvaluationConfig(batch_size=2)
        evaluate(model, encoding, [rows[0], odd, rows[2], rows[3], rows[0]], config, CPU)
        assert [shape[0] for shape in model.calls] == [1, 1, 2, 1]
        assert model.training is training
        assert model.layer.weight.grad is None


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("call", [evaluate, diagnose])
def test_every_module_gets_its_mode_back(encoding, rows, call, fails):
    """Frozen batch normalisation, and a failure in the middle of it."""
    model = nn.Sequential(nn.BatchNorm2d(3), nn.BatchNorm2d(3), Net(encoding.channels))
    model[1].eval()
    before = [module.training for module in model.modules()]
    within = []

    def look(module, images):
        within.append([each.training for each in model.modules()])
        if fails:
            raise ArithmeticError

    model[2].register_forward_pre_hook(look)
    with pytest.raises(ArithmeticError) if fails else nullcontext():
        call(model, encoding, rows[:1], EvaluationConfig(), CPU)
    assert [module.training for module in model.modules()] == before
    assert within == [[False] * len(before)]


@pytest.mark.parametrize("mode", ["whole", "slide"])
def test_per_folder_every_volume_is_counted_by_itself(encoding, rows, mode):
    keys = ["b/00", "a/00", "a/01", "b/01"]
    slices = [replace(row, key=key) for row, key in zip(rows, keys, strict=True)]
    sizes = {"window": (32, 48), "stride": (16, 24)} if mode == "slide" else {}
    config = EvaluationConfig(mode=mode, per="folder", batch_size=3, **sizes)
    model = Net(encoding.channels)
    got = evaluate(model, encoding, slices, config, CPU)
    assert got.shape == (2, 19, 19)
    plain = replace(config, per="set")
    for matrix, volume in zip(got, ([1, 2], [0, 3]), strict=True):
        alone = evaluate(model, encoding, [slices[i] for i in volume], plain, CPU)
        # Batching may turn a tie.
        assert int((matrix - alone).abs().sum()) <= 4
    assert int((got.sum(0) - evaluate(model, encoding, slices, plain, CPU)).abs().sum()) <= 4


def test_the_one_number_is_of_the_classes_that_count():
    names = ["background", "right", "left"]
    volumes = [[[50, 0, 0], [0, 3, 1], [0, 2, 0]], [[50, 0, 0], [0, 0, 0], [1, 0, 5]]]
    config = EvaluationConfig(score="dice", per="folder", classes=("left", "right"))
    # left: 0 and 10/11; right: 6/9 in the only volume that has it.
    wanted = 100 * ((0 + 10 / 11) / 2 + 6 / 9) / 2
    assert overall_score(volumes, config, names) == pytest.approx(wanted)
    assert overall_score(volumes[1], EvaluationConfig(), names) == pytest.approx(
        100 * (50 / 51 + 5 / 6) / 2
    )
    with pytest.raises(ConfigError, match=r"evaluation\.classes: got 'left', .*'changed'"):
        config.places(["unchanged", "changed"])


@pytest.mark.parametrize(
    ("values", "field"),
    [
        ({"mode": "slide"}, "window"),
        ({"mode": "slide", "window": [4, 4]}, "stride"),
        ({"window": [4, 4]}, "window"),
        ({"mode": "slide", "window": [4, 4], "stride": [5, 4]}, "stride"),
        ({"border": "clip"}, "border"),
        ({"mode": "slide", "window": [4, 4], "stride": [4, 4], "multiple": 14}, "multiple"),
        ({"multiple": 0}, "multiple"),
        ({"batch_size": 0}, "batch_size"),
        ({"mode": "crop"}, "mode"),
        ({"score": "miou"}, "score"),
        ({"per": "image"}, "per"),
        ({"classes": []}, "classes"),
    ],
)
def test_values_out_of_range(values, field):
    with pytest.raises(ConfigError, match=rf"evaluation\.{field}: "):
        from_mapping(EvaluationConfig, values, "evaluation")


settings.register_profile("engine", deadline=None)
settings.load_profile("engine")
