"""Which files `ecocseg predict` labels, and how it reads those of a network that compares two."""

import numpy as np
import pytest
from PIL import Image

from ecocseg.errors import DataError
from pipeline.runner.predict import _grouped, _read, _refuse_overwriting


@pytest.fixture
def tiles(tmp_path):
    for place, folder in enumerate("AB"):
        (tmp_path / folder).mkdir()
        for number in range(3):
            pixels = np.full((4, 6, 3), 10 * number + place, dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / folder / f"t{number}.png")
    return tmp_path


def names(groups):
    return [[f"{path.parent.name}/{path.stem}" for path in group] for group in groups]


def test_single_images_and_folders_of_them(tiles):
    found = _grouped([tiles / "A", tiles / "B/t1.png"], frames=1)
    assert names(found) == [["A/t0"], ["A/t1"], ["A/t2"], ["B/t1"]]


def test_pairs_go_by_their_names(tiles):
    found = _grouped([tiles / "A", tiles / "B"], frames=2)
    assert names(found) == [["A/t0", "B/t0"], ["A/t1", "B/t1"], ["A/t2", "B/t2"]]
    # Two files need no common name.
    found = _grouped([tiles / "A/t0.png", tiles / "B/t2.png"], frames=2)
    assert names(found) == [["A/t0", "B/t2"]]
    pixels = _read(found[0])
    assert pixels.shape == (4, 6, 6)
    assert pixels[0, 0].tolist() == [0, 0, 0, 21, 21, 21]


def test_what_is_no_pair_is_said(tiles):
    with pytest.raises(DataError, match="compares 2 images; give 2 files"):
        _grouped([tiles / "A"], frames=2)
    (tiles / "B/t2.png").rename(tiles / "B/other.png")
    with pytest.raises(DataError, match="hold different names"):
        _grouped([tiles / "A", tiles / "B"], frames=2)
    (tiles / "B/other.png").unlink()
    with pytest.raises(DataError, match="hold different names"):
        _grouped([tiles / "A", tiles / "B"], frames=2)
    Image.new("RGB", (5, 4)).save(tiles / "B/t0.png")
    with pytest.raises(DataError, match="must have one size, these are 6x4 and 5x4"):
        _read([tiles / "A/t0.png", tiles / "B/t0.png"])


def test_neither_image_of_a_pair_is_overwritten(tiles):
    pairs = _grouped([tiles / "A", tiles / "B"], frames=2)
    for folder in "AB":
        with pytest.raises(DataError, match="give another folder"):
            _refuse_overwriting(pairs, tiles / folder)
    _refuse_overwriting(pairs, tiles / "out")
