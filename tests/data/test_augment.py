import colorsys
import math

import pytest
import torch
from torchvision.transforms.v2 import functional as TF

from ecocseg.data.augment import (
    _domain_jitter,
    _shift_hsv,
    blur_each,
    colour_jitter,
    domain_view,
    photometric_distortion,
    strong_view,
)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def images():
    return torch.rand(3, 3, 12, 20, generator=generator(7))


@pytest.mark.parametrize(
    "view", [strong_view, lambda images, random: domain_view(images, 0.2, 0.2, random)]
)
def test_views_stay_images_and_depend_on_the_generator_alone(view, images):
    before = images.clone()
    outputs = []
    for seed in range(8):
        torch.manual_seed(seed + 100)
        output = view(images, generator(seed))
        torch.manual_seed(seed)
        assert torch.equal(output, view(images, generator(seed)))
        assert output.shape == images.shape
        assert -1e-5 <= output.min() <= output.max() <= 1 + 1e-5
        outputs.append(output)
    assert torch.equal(images, before)
    assert len({float(o.sum()) for o in outputs}) > 4


def gaussian_blur(image, sigma):
    """torchvision's blur of one image; the kernel reaches three deviations, or to the borders."""
    shortest = min(image.shape[-2:])
    size = min(2 * math.ceil(3 * sigma) + 1, shortest - 1 + shortest % 2)
    return TF.gaussian_blur(image, [size, size], [sigma, sigma])


def reference_jitter(image, order, amounts):
    """torchvision's ColorJitter of one image [3,H,W], with its order and amounts given."""
    brightness, contrast, saturation, hue = amounts
    operations = [
        lambda x: TF.adjust_brightness(x, 1 + brightness),
        lambda x: TF.adjust_contrast(x, 1 + contrast),
        lambda x: TF.adjust_saturation(x, 1 + saturation),
        lambda x: TF.adjust_hue(x, hue),
    ]
    for i in order:
        image = operations[i](image)
    return image


def test_jitter_of_a_batch_is_torchvisions_of_each_image():
    images = torch.rand(24, 3, 7, 9, generator=generator(1))
    strengths = (0.5, 0.4, 0.3, 0.25)
    chosen = torch.rand(24, generator=generator(2)) < 0.8
    got = colour_jitter(images, strengths, generator(3), chosen)
    random = generator(3)
    orders = [torch.randperm(4, generator=random).tolist() for _ in range(24)]
    amounts = torch.rand(24, 4, generator=random).mul(2).sub(1) * torch.tensor(strengths)
    assert len({tuple(order) for order in orders}) > 10
    for i in range(24):
        expected = reference_jitter(images[i], orders[i], amounts[i].tolist())
        torch.testing.assert_close(
            got[i], expected if chosen[i] else images[i], atol=2e-5, rtol=0, msg=f"image {i}"
        )


def test_every_order_and_the_whole_range_are_drawn_alike():
    """The amounts of 4,800 images, read off flat ones: uniform in each of the 24 orders."""
    random = generator(11)
    flat = torch.full((4800, 3, 1, 1), 0.4)
    factors = colour_jitter(flat, (0.5, 0, 0, 0), random)[:, 0, 0, 0] / 0.4
    assert float(factors.min()) == pytest.approx(0.5, abs=0.002)
    assert float(factors.max()) == pytest.approx(1.5, abs=0.002)
    counts = torch.histc(factors, bins=10, min=0.5, max=1.5)
    # Deviation of a count: about 21 of 480.
    assert (counts - 480).abs().max() < 90
    random = generator(11)
    orders = [tuple(torch.randperm(4, generator=random).tolist()) for _ in range(4800)]
    assert len(set(orders)) == 24


def test_jitter_without_strength_changes_nothing(images):
    got = colour_jitter(images, (0, 0, 0, 0), generator())
    torch.testing.assert_close(got, images, atol=1e-5, rtol=0)


def test_frames_of_a_pair_have_views_of_their_own():
    frame = torch.rand(1, 3, 8, 8, generator=generator(1)).expand(40, 3, 8, 8)
    views = strong_view(torch.cat([frame, frame], dim=1), generator(2))
    assert views.shape == (40, 6, 8, 8)
    same = (views[:, :3] - views[:, 3:]).abs().amax((1, 2, 3)) < 1e-6
    assert same.float().mean() < 0.2
    stacked = torch.stack([frame, frame], dim=1).reshape(80, 3, 8, 8)
    assert torch.equal(strong_view(stacked, generator(2)).reshape(40, 6, 8, 8), views)


def test_no_view_is_grey_without_its_probability():
    colour = torch.zeros(200, 3, 4, 4)
    colour[:, 0], colour[:, 1] = 0.6, 0.3
    views = strong_view(colour, generator(3), greyscale_probability=0.0)
    assert ((views[:, 0] - views[:, 1]).abs().amax((1, 2)) > 1e-6).all()


@pytest.mark.parametrize("sigma", [0.1, 0.7, 2.0])
def test_blur_against_the_sum_it_is(sigma):
    image = torch.zeros(3, 25, 31)
    image[:, 12, 15] = 1.0
    reach = math.ceil(3 * sigma)
    weights = [math.exp(-(i**2) / (2 * sigma**2)) for i in range(-reach, reach + 1)]
    total = sum(weights)
    expected = torch.zeros(25, 31)
    for i, down in enumerate(weights):
        for j, across in enumerate(weights):
            expected[12 - reach + i, 15 - reach + j] = down * across / total**2
    got = blur_each(image[None], [sigma])[0]
    torch.testing.assert_close(got, expected.expand(3, -1, -1), atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("size", [(2, 30), (3, 3), (5, 4)])
def test_blur_of_images_smaller_than_its_kernel(size):
    image = torch.full((3, *size), 0.3)
    torch.testing.assert_close(blur_each(image[None], [2.0])[0], image)


def test_strong_view_probabilities():
    """Each of 250 images is jittered (0.8), grey (0.2), blurred (0.5); all seen on their own."""
    colour = torch.zeros(250, 3, 6, 6)
    colour[:, 0, :, :3], colour[:, 1, :, 3:] = 0.6, 0.3
    views = strong_view(colour, generator(3))
    grey = (views[:, 0] - views[:, 1]).abs().amax((1, 2)) < 1e-6
    # Before the blur each row is a step: two values, each on three columns.
    blurred = (views[:, :, :, 1] - views[:, :, :, 2]).abs().amax((1, 2)) > 1e-6
    untouched = (views - colour).abs().amax((1, 2, 3)) < 1e-7
    assert 0.12 < grey.float().mean() < 0.30
    # Blur with sigma below about 0.2 pixels leaves no trace in this test.
    assert 0.36 < blurred.float().mean() < 0.58
    assert 0.03 < untouched.float().mean() < 0.17


def test_domain_view_decides_once_for_the_batch():
    jittered = blurred = 0
    flat = torch.stack([torch.full((3, 8, 8), v) for v in (0.3, 0.5)])
    steps = torch.zeros(2, 3, 8, 8)
    steps[..., 4:] = 0.5
    for seed in range(150):
        changed = (domain_view(flat, 0.2, 0.2, generator(seed)) - flat).abs().amax((1, 2, 3)) > 1e-5
        assert changed[0] == changed[1]
        jittered += bool(changed[0])
        smooth = domain_view(steps, 0.0, 1.0, generator(seed))
        soft = (smooth[:, 0, :, 3] - smooth[:, 0, :, 0]).abs().amax(1) > 1e-6
        blurred += bool(soft.any())
    # Jitter when the number drawn exceeds 0.2, blur when it exceeds 0.5.
    assert 0.72 < jittered / 150 < 0.88
    assert 0.36 < blurred / 150 < 0.64


@pytest.mark.parametrize("sigmas", [(0.2, 1.1, 0.6), (1.0, 1.0, 1.0)])
@pytest.mark.parametrize("size", [(12, 20), (3, 9)])
def test_images_blurred_together_are_those_blurred_alone(sigmas, size):
    images = torch.rand(3, 3, *size, generator=generator(1))
    alone = torch.stack([gaussian_blur(i, s) for i, s in zip(images, sigmas, strict=True)])
    torch.testing.assert_close(blur_each(images, sigmas), alone, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize(
    "view", [strong_view, lambda images, random: domain_view(images, 0.2, 0.2, random)]
)
def test_images_keep_their_precision_under_autocast(view, images):
    for seed in range(6):
        expected = view(images, generator(seed))
        with torch.autocast("cpu", torch.bfloat16):
            got = view(images, generator(seed))
        assert got.dtype == torch.float32
        torch.testing.assert_close(got, expected, atol=1e-6, rtol=0)


def test_hue_and_saturation_against_colorsys():
    images = torch.rand(2, 3, 4, 5, generator=generator(2), dtype=torch.float64)
    images[0, :, 0, 0] = 0.4  # grey
    images[0, :, 0, 1] = 0.0  # black
    images[0, 0, 0, 2] = images[0, 1, 0, 2] = 0.9  # two largest
    turn = torch.tensor([0.15, -0.2], dtype=torch.float64).view(2, 1, 1, 1)
    factor = torch.tensor([0.8, 1.2], dtype=torch.float64).view(2, 1, 1, 1)
    got = _shift_hsv(images, turn, factor)
    for b in range(2):
        for y in range(4):
            for x in range(5):
                h, s, v = colorsys.rgb_to_hsv(*images[b, :, y, x].tolist())
                h, s = (h + float(turn[b])) % 1, min(1.0, s * float(factor[b]))
                assert got[b, :, y, x].tolist() == pytest.approx(colorsys.hsv_to_rgb(h, s, v))


def test_hue_is_torchvisions(images):
    for turn in (-0.2, 0.0, 0.13):
        shifted = _shift_hsv(images, turn, 1)
        torch.testing.assert_close(shifted, TF.adjust_hue(images, turn), atol=1e-5, rtol=0)


def test_domain_jitter_adds_brightness_and_scales_contrast_per_image():
    """On grey images hue and saturation do nothing, so two numbers an image remain."""
    grey = torch.full((2, 3, 2, 2), 0.5)
    bright, seen = set(), []
    for seed in range(400):
        got = _domain_jitter(grey, 0.2, generator(seed))
        assert (got - got[:, :1, :1, :1]).abs().max() < 1e-6
        bright.add(round(float(got[0, 0, 0, 0] - got[1, 0, 0, 0]), 4))
        seen += got[:, 0, 0, 0].tolist()
    assert len(bright) > 300
    # (0.5 + 0.2) * 1.2 at most, 0.5 * 0.8 - 0.2 at least; both ends come near.
    assert 0.2 - 1e-6 <= min(seen) < 0.25
    assert 0.80 < max(seen) <= 0.84 + 1e-6
    assert sum(seen) / len(seen) == pytest.approx(0.5, abs=0.02)


def test_photometric_distortion_against_its_steps():
    """One image at a time by colorsys, with the numbers that the batch drew."""
    images = torch.rand(6, 3, 3, 4, generator=generator(4), dtype=torch.float64)
    got = photometric_distortion(images, generator(9))
    random = generator(9)
    chosen = (torch.rand(4, 6, generator=random) < 0.5).tolist()
    drawn = (torch.rand(4, 6, generator=random) * 2 - 1).tolist()
    early = (torch.rand(6, generator=random) < 0.5).tolist()
    assert len(set(early)) == 2
    for b in range(6):
        light, contrast, saturation, hue = (drawn[i][b] if chosen[i][b] else 0.0 for i in range(4))
        for y in range(3):
            for x in range(4):
                rgb = [min(1, max(0, v + 32 * light / 255)) for v in images[b, :, y, x].tolist()]
                if early[b]:
                    rgb = [min(1, v * (1 + contrast / 2)) for v in rgb]
                h, s, v = colorsys.rgb_to_hsv(*rgb)
                rgb = colorsys.hsv_to_rgb((h + hue / 10) % 1, min(1, s * (1 + saturation / 2)), v)
                if not early[b]:
                    rgb = [min(1, v * (1 + contrast / 2)) for v in rgb]
                assert got[b, :, y, x].tolist() == pytest.approx(list(rgb), abs=1e-6)


def test_half_of_the_images_keep_their_brightness():
    grey = torch.full((400, 3, 1, 1), 0.4)
    got = photometric_distortion(grey, generator(5))[:, 0, 0, 0]
    # Hue and saturation leave grey alone; brightness and contrast both stay in a quarter.
    assert 0.17 < float((got == grey[:, 0, 0, 0]).float().mean()) < 0.33
    assert float(got.max()) <= (0.4 + 32 / 255) * 1.5 + 1e-6
    assert float(got.min()) >= (0.4 - 32 / 255) * 0.5 - 1e-6
