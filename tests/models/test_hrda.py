import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from ecocseg.engine.seed import seeded
from ecocseg.models.config import ModelConfig
from ecocseg.models.hrda import fuse, window_places
from ecocseg.models.segmenter import build_model


def hrda(**fields):
    config = {"encoder": "tu-test_resnet", "decoder": "hrda", "decoder_channels": 16}
    with seeded(1):
        model = build_model(ModelConfig(**(config | {"hr_crop": (32, 32)} | fields)), 5).eval()
        # First weights of classifiers are so small that everything would be about equal.
        for part in (model.head[-1], model.attention.head[-1]):
            torch.nn.init.normal_(part.weight, std=0.5)
            torch.nn.init.normal_(part.bias, std=0.5)
    return model


@pytest.fixture(scope="module")
def model():
    return hrda()


def single(model, image):
    """Logits at a quarter of the size and maps, with the sides filled up to multiples of 32."""
    height, width = image.shape[-2:]
    filled = F.pad(image, (0, -width % 32, 0, -height % 32), mode="replicate")
    maps = model.encoder(filled)
    return model.head(model.decoder(maps))[..., : height // 4, : width // 4], maps


def context_of(literal, model, image):
    half = literal.bilinear(image, image.shape[-2] // 2, image.shape[-1] // 2)
    logits, maps = single(model, half)
    return logits, model.attention(maps), maps[-1]


def images(*size, seed=0):
    return torch.rand(*size, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("place", [None, (slice(8, 24), slice(16, 40))])
def test_fusion_pixel_by_pixel(literal, place):
    """Each fused logit from its own detail, the context and attention around it."""
    random = torch.Generator().manual_seed(2)
    context = torch.randn(2, 3, 4, 6, generator=random, dtype=torch.float64)
    attention = torch.rand(2, 3, 4, 6, generator=random, dtype=torch.float64)
    size = (8, 12) if place is None else (4, 6)
    detail = torch.randn(2, 3, *size, generator=random, dtype=torch.float64)
    fused = fuse(context, detail, attention, place)

    top, left = (0, 0) if place is None else (place[0].start, place[1].start)
    bottom, right = (32, 48) if place is None else (place[0].stop, place[1].stop)
    trust = torch.zeros_like(attention)
    for row, column in itertools.product(range(4), range(6)):
        # A cell of the context's map stands for 8x8 pixels, one of the detail's for 4x4.
        if top <= 8 * row < bottom and left <= 8 * column < right:
            trust[..., row, column] = attention[..., row, column]
    trusted, rest = literal.bilinear(trust, 8, 12), literal.bilinear((1 - trust) * context, 8, 12)
    for row, column in itertools.product(range(8), range(12)):
        expected = rest[..., row, column]
        if top <= 4 * row < bottom and left <= 4 * column < right:
            seen = detail[..., row - top // 4, column - left // 4]
            expected = expected + trusted[..., row, column] * seen
        torch.testing.assert_close(fused[..., row, column], expected)


@pytest.mark.parametrize("crop", [(32, 32), (48, 64)])
def test_prediction_is_the_loop_over_windows(literal, crop):
    model = hrda(hr_crop=crop)
    image = images(2, 3, 128, 192)
    with torch.no_grad():
        predicted = model(image)
        full = model.normalise(image)
        total, visits = torch.zeros(2, 5, 32, 48), torch.zeros(32, 48)
        top = 0
        while True:
            top = min(top, 128 - crop[0])
            left = 0
            while True:
                left = min(left, 192 - crop[1])
                window = full[..., top : top + crop[0], left : left + crop[1]]
                rows = slice(top // 4, (top + crop[0]) // 4)
                columns = slice(left // 4, (left + crop[1]) // 4)
                for number in range(2):
                    found = single(model, window[number : number + 1])[0]
                    total[number, :, rows, columns] += found[0]
                visits[rows, columns] += 1
                if left + crop[1] == 192:
                    break
                left += crop[1] // 2
            if top + crop[0] == 128:
                break
            top += crop[0] // 2
        context, attention, _ = context_of(literal, model, full)
        detail = total / visits
        rest = literal.bilinear((1 - attention) * context, 32, 48)
        fused = literal.bilinear(attention, 32, 48) * detail + rest
        expected = literal.bilinear(fused, 128, 192)
    torch.testing.assert_close(predicted, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("windows", [1, 7])
def test_windows_at_a_time_do_not_change_a_prediction(model, windows):
    image = images(2, 3, 64, 128)
    few = hrda(hr_windows=windows)
    with torch.no_grad():
        torch.testing.assert_close(few(image), model(image), rtol=1e-4, atol=1e-5)


def test_outputs_are_the_fused_image_and_the_detail_crop(literal, model):
    image = images(2, 3, 128, 192)
    with torch.no_grad():
        outputs = model.outputs(image, torch.Generator().manual_seed(4))
        place = model.draw_crop(128, 192, torch.Generator().manual_seed(4))
        whole, part = outputs.heads
        full = model.normalise(image)
        context, attention, features = context_of(literal, model, full)
        detail = single(model, full[..., place[0], place[1]])[0]
        fused = fuse(context, detail, attention, place)
    assert (whole.rows, whole.columns) == (slice(0, 128), slice(0, 192))
    assert (part.rows, part.columns) == place
    assert (whole.weight, part.weight) == (0.9, 0.1)
    for found, expected in (
        (whole.logits, literal.bilinear(fused, 128, 192)),
        (part.logits, literal.bilinear(detail, 32, 32)),
        (outputs.features, features),
        (model.features(image), features),
    ):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_far_from_the_crop_the_context_decides_alone(literal, model):
    image = images(1, 3, 128, 256)
    with torch.no_grad():
        outputs = model.outputs(image, torch.Generator().manual_seed(0))
        columns = outputs.heads[1].columns
        context = context_of(literal, model, model.normalise(image))[0]
        alone = literal.bilinear(literal.bilinear(context, 32, 64), 128, 256)
    far = [x for x in range(256) if not columns.start - 16 <= x < columns.stop + 16]
    near = range(columns.start, columns.stop)
    fused = outputs.heads[0].logits
    assert far
    torch.testing.assert_close(fused[..., far], alone[..., far], rtol=1e-4, atol=1e-4)
    assert (fused[..., near] - alone[..., near]).abs().max() > 0.01


@given(
    height=st.integers(32, 200),
    width=st.integers(32, 200),
    seed=st.integers(0, 2**31),
)
@settings(max_examples=100, deadline=None)
def test_crops_lie_on_the_grid_inside_the_image(model, height, width, seed):
    first, again = (
        model.draw_crop(height, width, torch.Generator().manual_seed(seed)) for _ in range(2)
    )
    assert first == again
    for side, place in zip((height, width), first, strict=True):
        assert place.start % 8 == 0
        assert place.stop - place.start == 32
        assert 0 <= place.start <= side - 32


def test_crops_are_drawn_evenly():
    """64 positions along each side of a 1024 crop for a detail of 512, as in the release."""
    model = hrda(hr_crop=(512, 512))
    random = torch.Generator().manual_seed(0)
    drawn = [model.draw_crop(1024, 1024, random)[0].start for _ in range(6400)]
    counts = torch.bincount(torch.tensor(drawn) // 8, minlength=64)
    assert len(counts) == 64
    assert counts.min() > 50
    assert counts.max() < 160


@given(
    height=st.integers(1, 20).map(lambda n: 8 * n),
    width=st.integers(1, 20).map(lambda n: 8 * n),
    crop=st.tuples(st.integers(1, 8), st.integers(1, 8)).map(lambda c: (8 * c[0], 8 * c[1])),
)
@settings(deadline=None)
def test_windows_cover_the_image_and_overlap_by_half(height, width, crop):
    height, width = max(height, crop[0]), max(width, crop[1])
    places = window_places(height, width, crop)
    assert len(set(map(str, places))) == len(places)
    for axis, side in enumerate((height, width)):
        starts = sorted({place[axis].start for place in places})
        assert starts[0] == 0
        assert starts[-1] == side - crop[axis]
        steps = [b - a for a, b in itertools.pairwise(starts)]
        assert all(step == crop[axis] // 2 for step in steps[:-1])
        assert all(0 < step <= crop[axis] // 2 for step in steps[-1:])
    assert len(places) == len({p[0].start for p in places}) * len({p[1].start for p in places})


def test_images_smaller_than_the_crop_or_of_odd_sizes():
    model = hrda(hr_crop=(48, 48))
    for height, width in ((96, 192), (37, 101), (40, 40)):
        image = images(2, 3, height, width)
        with torch.no_grad():
            assert model(image).shape == (2, 5, height, width)
            outputs = model.outputs(image, torch.Generator().manual_seed(1))
        targets = torch.zeros(2, height, width)
        for head in outputs.heads:
            cut = targets[..., head.rows, head.columns]
            assert head.logits.shape == (2, 5, *cut.shape[-2:])
        assert outputs.heads[1].logits.shape[-2:] == (min(height, 48), min(width, 48))


def test_the_border_is_repeated_around_an_image_of_another_size(model):
    image = images(1, 3, 50, 70)
    filled = F.pad(image, (0, 58, 0, 14), mode="replicate")
    with torch.no_grad():
        torch.testing.assert_close(model(image), model(filled)[..., :50, :70])
        torch.testing.assert_close(model.features(image), model.features(filled))
