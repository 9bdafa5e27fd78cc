"""Pictures of a run: columns, rows, and colours that can be read."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional

from ecocseg.data.dataset import read_image, read_label
from pipeline.runner.pictures import _save_alone, save_panel, save_pseudo_labels

CPU = torch.device("cpu")
# Of a label of 48x96, shown 228 wide; a heading above all.
WIDTH, HEIGHT, BAND, GAP = 228, 114, 22, 4


@pytest.fixture(scope="module", params=["one-hot", "ecoc"])
def shown(request, tiny_run, manifests, tmp_path_factory):
    run = tiny_run("dacs", request.param)
    path = tmp_path_factory.mktemp("pictures") / "pseudo_labels.png"
    manifest, teacher = manifests["streets_camera"], run.trainer.teacher
    save_pseudo_labels(path, run.rows[:2], manifest, run.encoding, teacher, CPU)
    return run, manifest, path


def cell(picture, row, column):
    """The middle pixel of a cell."""
    y = BAND + row * (HEIGHT + GAP) + HEIGHT // 2
    return picture[y, column * (WIDTH + GAP) + WIDTH // 2]


def test_a_column_for_each_map_and_a_row_for_each_image(shown):
    run, _, path = shown
    maps = run.encoding.label_maps(torch.zeros(1, run.encoding.channels, 2, 2))
    columns = 5 + len(maps)
    with Image.open(path) as picture:
        assert picture.size == (columns * (WIDTH + GAP) - GAP, BAND + 2 * (HEIGHT + GAP) - GAP)
    assert columns == (7 if hasattr(run.encoding, "book") else 5)


def test_classes_have_their_colours(shown):
    run, manifest, path = shown
    with Image.open(path) as opened:
        picture = np.asarray(opened)
    colours = [tuple(colour) for colour in manifest.classes.colors]
    for row, source in enumerate(run.rows[:2]):
        label = int(read_label(source)[24, 48])
        expected = colours[label] if label != 255 else (0, 0, 0)
        assert tuple(cell(picture, row, 1)) == expected
        logits = run.trainer.teacher.eval()(read_image(source)[None].float() / 255)
        whole = functional.interpolate(logits, (48, 96), mode="bilinear", align_corners=False)
        scores = run.encoding.class_scores(whole)[0, :, 24, 48].tolist()
        first, second = sorted(range(19), key=lambda n: -scores[n])[:2]
        assert tuple(cell(picture, row, 2)) == colours[first]
        assert tuple(cell(picture, row, 3)) == colours[second]


def test_the_panel_has_four_columns(shown, tmp_path):
    run, manifest, _ = shown
    path = tmp_path / "panel.png"
    trainer = run.trainer
    save_panel(path, run.rows[:3], manifest, run.encoding, trainer.student, trainer.teacher, CPU)
    with Image.open(path) as picture:
        assert picture.size == (4 * 324 - 4, 22 + 3 * 164 - 4)


def test_each_image_is_saved_alone_with_label_and_prediction(shown, tmp_path):
    run, manifest, _ = shown
    path = tmp_path / "panel.png"
    trainer = run.trainer
    rows = run.rows[:2]
    files = save_panel(path, rows, manifest, run.encoding, trainer.student, trainer.teacher, CPU)
    assert len(files) == 7
    assert {*files} == {*tmp_path.iterdir()}
    colours = [value for colour in manifest.classes.colors for value in colour]
    trainer.student.eval()
    for row in rows:
        name = row.key.replace("/", "-")
        with Image.open(tmp_path / f"label_{name}.png") as label:
            assert label.getpalette()[: len(colours)] == colours
            assert np.array_equal(np.asarray(label), read_label(row).numpy())
        with torch.no_grad():
            logits = trainer.student(read_image(row)[None].float() / 255)
        whole = functional.interpolate(logits, (48, 96), mode="bilinear", align_corners=False)
        with Image.open(tmp_path / f"prediction_{name}.png") as prediction:
            assert np.array_equal(np.asarray(prediction), run.encoding.decode(whole)[0].numpy())
        with Image.open(tmp_path / f"image_{name}.jpg") as image:
            difference = np.asarray(image, float) - read_image(row).permute(1, 2, 0).numpy()
        assert np.abs(difference).mean() < 8


def test_large_pictures_shrink_and_keys_become_file_names(tmp_path):
    label = np.zeros((1000, 2000), dtype=np.int64)
    label[:, 1000:] = 255
    colours = np.array([[1, 2, 3]], dtype=np.uint8)
    image = np.zeros((500, 1000, 3), dtype=np.uint8)
    files = _save_alone(tmp_path, "frankfurt/a b", image, label, label, colours)
    assert [file.name for file in files] == [
        "image_frankfurt-a-b.jpg", "label_frankfurt-a-b.png", "prediction_frankfurt-a-b.png",
    ]  # fmt: skip
    for file in files:
        with Image.open(file) as picture:
            assert picture.size == (640, 320)
    with Image.open(files[1]) as picture:
        assert np.unique(np.asarray(picture)).tolist() == [0, 255]
        assert picture.convert("RGB").getpixel((0, 0)) == (1, 2, 3)
        assert picture.convert("RGB").getpixel((639, 0)) == (0, 0, 0)
