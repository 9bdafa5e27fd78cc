import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ecocseg.data.mixing import class_mask, cutmix_mask, paste


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@settings(deadline=None, max_examples=50)
@given(
    st.lists(
        st.lists(st.sampled_from([0, 1, 2, 5, 18, 255]), min_size=12, max_size=12), min_size=1
    ),
    st.integers(0, 2**31),
)
def test_class_mask_takes_half_of_each_images_classes_whole(values, seed):
    labels = torch.tensor(values).view(-1, 3, 4)
    masks = class_mask(labels, generator(seed))
    assert masks.dtype == torch.bool
    for label, mask in zip(labels, masks, strict=True):
        inside, outside = set(label[mask].tolist()), set(label[~mask].tolist())
        assert not inside & outside
        assert len(inside) == math.ceil(len(inside | outside) / 2)


def test_classes_of_the_batch_are_those_of_the_public_code():
    """DACS draws (n + n % 2) / 2 of the batch's n values, ignored ones too, for each image anew.

    Here three of five, two of which the even images have and three the odd ones.
    """
    labels = torch.tensor([[[0, 1, 1]], [[2, 3, 255]]]).repeat(300, 1, 1)
    masks = class_mask(labels, generator(6), "batch")
    assert torch.equal(masks[::2, 0, 1], masks[::2, 0, 2])
    even, odd = masks[::2, 0, :2].sum(1), masks[1::2, 0].sum(1)
    # Hypergeometric; four standard deviations of 300 draws are 0.12.
    for taken, shares in ((even, (0.1, 0.6, 0.3, 0)), (odd, (0, 0.3, 0.6, 0.1))):
        found = torch.bincount(taken, minlength=4) / len(taken)
        torch.testing.assert_close(found, torch.tensor(shares), atol=0.12, rtol=0)
        assert [share > 0 for share in found.tolist()] == [share > 0 for share in shares]
    assert (even + odd != 3).any()


def test_of_few_classes_the_batch_gives_less():
    """The audit's measure: with 3 of 8 classes in an image 0.66 is pasted of its own, 0.5 else."""
    random = generator(8)
    labels = torch.stack([torch.randperm(8, generator=random)[:3] for _ in range(800)])[:, None]
    own, batch = (class_mask(labels, generator(9), of).float().mean() for of in ("image", "batch"))
    assert float(own) == pytest.approx(2 / 3)
    # Four standard deviations are 0.05.
    assert float(batch) == pytest.approx(1 / 2, abs=0.05)


def test_every_class_is_drawn_alike():
    labels = torch.tensor([[[0, 1], [2, 3]]]).expand(400, 2, 2)
    share = class_mask(labels, generator()).float().mean(0)
    assert ((share > 0.4) & (share < 0.6)).all()


@pytest.mark.parametrize("size", [(64, 64), (32, 64), (40, 400)])
def test_cutmix_boxes(size):
    """One rectangle inside the image; its area is uniform in 2 to 40 %, whatever the shape."""
    height, width = size
    masks = cutmix_mask(800, height, width, generator(1), probability=1.0)
    areas, ratios = [], []
    for mask in masks:
        rows, columns = mask.any(1).nonzero()[:, 0], mask.any(0).nonzero()[:, 0]
        high, wide = len(rows), len(columns)
        assert int(mask.sum()) == high * wide > 0
        areas.append(high * wide / (height * width))
        ratios.append((high / height) / (wide / width))
    # Sides are rounded down to whole pixels.
    assert max(areas) <= 0.4
    assert min(areas) >= 0.02 * 0.7
    quartiles = torch.tensor(areas).quantile(torch.tensor([0.25, 0.5, 0.75]))
    expected = 0.02 + 0.38 * torch.tensor([0.25, 0.5, 0.75])
    torch.testing.assert_close(quartiles, expected, atol=0.03, rtol=0)
    assert min(ratios) > 0.3 * 0.7
    assert max(ratios) < 1 / 0.3 / 0.7


def test_cutmix_probability():
    share = cutmix_mask(600, 16, 16, generator(2)).any((1, 2)).float().mean()
    assert 0.44 < share < 0.56
    assert not cutmix_mask(50, 16, 16, generator(2), probability=0.0).any()


def test_paste_takes_each_pixel_from_its_side():
    mask = torch.rand(2, 3, 4, generator=generator()) < 0.5
    for front, back in (
        (torch.rand(2, 5, 3, 4), torch.rand(2, 5, 3, 4)),
        (torch.rand(2, 3, 4), torch.rand(2, 3, 4)),
        (torch.rand(2, 5, 3, 4) < 0.5, torch.rand(2, 5, 3, 4) < 0.5),
    ):
        got = paste(mask, front, back)
        for b, y, x in torch.cartesian_prod(*map(torch.arange, mask.shape)).tolist():
            source = front if mask[b, y, x] else back
            assert torch.equal(got[b, ..., y, x], source[b, ..., y, x])


def test_masks_depend_on_the_generator_alone():
    labels = torch.randint(0, 19, (4, 8, 8), generator=generator(3))
    torch.manual_seed(1)
    first = class_mask(labels, generator(4)), cutmix_mask(4, 8, 8, generator(4))
    torch.manual_seed(2)
    assert torch.equal(first[0], class_mask(labels, generator(4)))
    assert torch.equal(first[1], cutmix_mask(4, 8, 8, generator(4)))
