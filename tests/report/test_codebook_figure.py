import numpy as np
import pytest
from PIL import Image

from pipeline.report.codebook_figure import draw_codebooks


def books(count, classes=6, length=8):
    generator = np.random.default_rng(0)
    return [(f"book ${i}", generator.random((classes, length)) < 0.5) for i in range(count)]


@pytest.mark.parametrize("count", range(1, 7))
def test_any_number_of_codebooks_is_drawn(tmp_path, count):
    names = [f"class_{i} $" for i in range(6)]
    drawn = draw_codebooks(books(count), names, tmp_path / "books.png")
    with Image.open(drawn.path) as picture:
        # 7.4 inches at 170 dots: the width of every figure of the report.
        assert picture.width == 1258
        assert picture.height > 400
    assert "Figure 5" in drawn.caption
    assert "by number" not in drawn.caption


def test_many_classes_go_by_number(tmp_path):
    names = [str(i) for i in range(40)]
    assert "by number" in draw_codebooks(books(2, 40), names, tmp_path / "books.png").caption


def test_the_histogram_counts_every_pair_once(tmp_path):
    """Two codes that differ in one pair's distance give two pictures."""
    near = np.array([[0, 0, 0, 0], [1, 1, 0, 0], [1, 1, 1, 1]], dtype=bool)
    far = np.array([[0, 0, 0, 0], [1, 1, 0, 0], [0, 0, 1, 1]], dtype=bool)
    pictures = []
    for name, bits in (("a", near), ("b", near), ("c", far)):
        path = tmp_path / f"{name}.png"
        draw_codebooks([("same name", bits)], ["x", "y", "z"], path)
        pictures.append(np.asarray(Image.open(path).convert("RGB")))
    assert np.array_equal(pictures[0], pictures[1])
    assert not np.array_equal(pictures[0], pictures[2])
